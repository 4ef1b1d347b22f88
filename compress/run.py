"""A run: prepare the data, go through the stages, evaluate, report.

What: `prepare` builds the context (owned output directory, encoded data, monitor), `execute` runs the
asked stages and writes report.html and metrics.json. `train.py` calls both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from compress import artefacts, disk, onnx_export, overview, ownership, ranks, versions
from compress.compression.resolved import Resolved
from compress.configuration import schedule
from compress.configuration.config import Config
from compress.configuration.robust_schema import RobustCompression
from compress.data import hub, splits, tasks
from compress.errors import UserError
from compress.models import encoders, probe
from compress.scoring import chance
from compress.stages import alpha, difficulty, given_models, remaining_work, results, student, teacher
from compress.stages.context import Context
from compress.stages.difficulty import Difficulty
from compress.stages.onnx import Onnx
from compress.stages.stage import Artefact, Stage, find, obtain
from compress.stages.student import Student
from compress.stages.teacher import Teacher
from compress.stages.tokens import encode
from compress.training.monitor import open_monitor

STAGES = ("teacher", "difficulty", "student", "evaluate")
OURS = "robust_compression"


def check_export(stage: str, export: str | None) -> None:
    """Raise UserError for an `--export` that cannot take effect or lacks its packages."""
    if export is None:
        return
    if stage in ("teacher", "difficulty"):
        raise UserError(f"--export {export}: there is no student to export in --stage {stage}.")
    onnx_export.require()


@dataclass(frozen=True)
class Model:
    """A model that the configuration names: its directory, and how its tokenizer must be used."""

    folder: Path
    fit: probe.Fit


def prepare(
    config: Config, output_dir: Path, device: torch.device, accept_versions: bool = False
) -> Context:
    """Check the run, what costs least first; read and encode the data; open the monitor.

    accept_versions: whether artefacts of other versions of torch and so on are reused.
    """
    robust = config.robust
    ranks.on_main(lambda: _open_folder(config, output_dir))
    robust.loss.trial(config, len(tasks.of(robust.task).labels), device)
    models = _check_models(config)
    data = _read_data(config, output_dir)
    ranks.on_main(lambda: schedule.record(config, len(data.train), output_dir))
    resolved = _resolve(config, models, data)
    cache = ownership.cache_dir(config, output_dir)
    context = Context(
        config, output_dir, cache, data, device, resolved, accept_versions=accept_versions
    )
    folders = {key: model.folder for key, model in models.items()}
    tokenizers = {key: _tokenizer(model) for key, model in models.items()}
    encoded = encode(context, folders, tokenizers)
    context = replace(context, encoders=encoded, monitor=open_monitor(config, output_dir))
    if robust.layerwise.any:
        given_models.check_equal_tokens(context.for_student().encoder, context.for_teacher().encoder)
    return context


def _open_folder(config: Config, output_dir: Path) -> None:
    """Make the output directory; the configuration in it says whose it is."""
    with disk.writing(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
    artefacts.write_json(output_dir / "config.json", config.merged)
    artefacts.write_json(output_dir / "versions.json", versions.report())


def _check_models(config: Config) -> dict[str, Model]:
    """The models that the configuration names, by key; UserError for one that cannot serve."""
    names, length = config.robust.models, config.robust.task.max_length
    folders = {key: encoders.directory(name, f"{OURS}.{key}") for key, name in names.items()}
    models = {
        key: Model(folder, probe.together(folder, key, names[key], length))
        for key, folder in folders.items()
    }
    for key, model in models.items():
        if (commit := hub.commit(model.folder)) is not None:
            ranks.say(f"{key}: {names[key]} is commit {commit} of the hub")
        for note in model.fit.notes:
            ranks.say(f"note: {note}.")
    if difficulty.needed(config.robust):
        difficulty.check_model(config, folders["model"])
    return models


def _read_data(config: Config, output_dir: Path) -> splits.TaskData:
    """The splits, with a line for each note on them."""
    data = splits.read(config.robust, output_dir)
    for note in data.notes:
        ranks.say(f"data: {note}")
    return data


def _resolve(config: Config, models: Mapping[str, Model], data: splits.TaskData) -> Resolved:
    """The student's compression; UserError now for labels or schedules that a stage would reject."""
    folders = {key: model.folder for key, model in models.items()}
    given_models.check(folders, data)
    resolved = student.check(config, folders.get("student.model", folders["model"]), data)
    if difficulty.needed(config.robust):
        difficulty.check(config, len(data.train))
    return resolved


def _tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """The model's tokenizer, used as the model takes it."""
    tokenizer = encoders.load_tokenizer(model.folder)
    model.fit.settle(tokenizer)
    return tokenizer


def announce(context: Context, stage: str) -> None:
    """Say in one line what will be done."""
    stages = stages_of(context.config.robust, stage)
    ranks.say(overview.line(context.config, context.data, stages, str(context.device)))


def stages_of(robust: RobustCompression, stage: str) -> tuple[str, ...]:
    """The stages that `--stage` makes rather than only finds.

    All are without a difficulty that the loss does not use; a teacher that is given is only scored, so
    that each stage may do it.
    """
    if stage == "all":
        return tuple(n for n in STAGES if n != "difficulty" or difficulty.needed(robust))
    scored = robust.teacher.model is not None and stage != "teacher"
    return ("teacher", stage) if scored else (stage,)


def execute(context: Context, stage: str, export: str | None = None) -> None:
    """Run one stage, or all in order; say what was made, what was reused, and where it is.

    export: `onnx` writes the student as `onnx/model.onnx` too.
    Raises UserError if the stage needs one that has not been run.
    """
    context = replace(context, stage=stage, chosen=stages_of(context.config.robust, stage))
    remaining_work.check_places(context)
    keys = {*remaining_work.keys(context), ownership.figures_found(context.output_dir) or ""}
    ranks.on_main(lambda: context.monitor.keep(keys))
    context.monitor.progress.plan(remaining_work.job(context))
    made = _obtain(Teacher(), context)
    for note in chance.notes(teacher.train_accuracy(context, made), context.data.splits()):
        ranks.say(f"WARNING: {note}")
    if stage == "teacher":
        return
    asked = "difficulty" in context.chosen
    hardness = _obtain(Difficulty(), context) if asked else find(Difficulty(), context)
    if stage == "all" and not asked and hardness is not None:
        _say(hardness)
    if stage == "difficulty":
        return
    context, choice = alpha.settle(context)
    _obtain(Student(), context)
    if "evaluate" in context.chosen:
        with context.monitor.progress.stage("evaluate"):
            results.make(context, hardness, choice)
    if export is not None:
        _say(obtain(Onnx(), context))


def _obtain(stage: Stage, context: Context) -> Artefact:
    """The artefact of a stage, with a line if the run was asked to make it."""
    if stage.name not in context.chosen:
        return obtain(stage, context)
    with context.monitor.progress.stage(stage.name):
        made = obtain(stage, context)
    _say(made)
    return made


def _say(made: Artefact) -> None:
    how = "reused" if made.reused else f"done in {made.seconds:.1f} s"
    ranks.say(f"{made.marker['inputs']['stage']}: {how} ({made.path})")
