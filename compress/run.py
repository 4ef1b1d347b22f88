"""A run: prepare the data, go through the stages, evaluate, report.

`prepare` builds the context (output directory, data in tokens, monitor), `execute` runs the stages that
are asked for and writes report.html and metrics.json. `train.py` calls both.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from compress.compression.resolved import Resolved
from compress.configuration import batch_sizes, schedule
from compress.configuration.config import Config
from compress.configuration.robust_schema import RobustCompression
from compress.configuration.used_keys import OURS
from compress.data import hub, tasks
from compress.data.splits import TaskData
from compress.data.tasks import Task
from compress.errors import UserError
from compress.files import artefacts, disk, ownership
from compress.inference import onnx_export
from compress.models import encoders, joining, probe, unpadding
from compress.runtime import ranks, threads, versions
from compress.scoring import chance
from compress.stages import (
    alpha,
    bias,
    difficulty,
    given_models,
    given_probabilities,
    int8_figures,
    remaining_work,
    results,
    student,
    teacher,
)
from compress.stages.context import Context, Encoder
from compress.stages.difficulty import Difficulty
from compress.stages.onnx import Int8Scores, Onnx, OnnxInt8
from compress.stages.plain import Plain
from compress.stages.prepare import task_data
from compress.stages.scores import Scores
from compress.stages.stage import Stage, find, obtain
from compress.stages.student import Student
from compress.stages.teacher import PlainTeacher, Teacher
from compress.stages.tokenised import encoders_of
from compress.stages.workspace import Artefact, Workspace
from compress.training import engine
from compress.training.monitor import open_monitor

PREPARE = "prepare"
INT8 = "onnx-int8"
"""Value of `--export` that makes the ONNX file in 8-bit integers too; `onnx` is the other."""
STAGES = ("teacher", "difficulty", "plain", "student", "evaluate")
"""In the order in which they are made; `plain` is asked for with `student`."""


def check_export(stage: str, export: str | None) -> None:
    """Raise UserError for an `--export` that cannot take effect or lacks its packages."""
    if export is None:
        return
    if stage in (PREPARE, "teacher", "difficulty"):
        raise UserError(f"--export {export}: there is no student to export in --stage {stage}.")
    onnx_export.require()


def agree_on_precision(line: str | None) -> None:
    """Say which precision was chosen; UserError if the ranks differ. line: None if none was."""
    lines = set(ranks.gathered(lambda: line or ""))
    if len(lines) > 1:
        raise UserError(
            f"{OURS}.precision: is 'auto', but the ranks have devices of different kinds; set it to "
            "'fp32' or 'bf16'."
        )
    if line is not None:
        ranks.say(line)


def prepare(
    config: Config,
    output_dir: Path,
    device: torch.device,
    stage: str = "all",
    accept_versions: bool = False,
) -> Context:
    """Check the run, what costs least first; read and encode the data; open the monitor.

    stage: of `--stage`; accept_versions: whether artefacts of other versions of torch and so on are
    reused.
    """
    ranks.on_main(lambda: _open_folder(config, output_dir))
    for loss in (config.robust.loss, config.robust.teacher.loss):
        loss.trial(config, len(tasks.of(config.robust.task).labels), device)
    folders, fits = _check_models(config)
    place = Workspace(
        config=config,
        output_dir=output_dir,
        cache_dir=ownership.cache_dir(config, output_dir),
        device=device,
        stage=stage,
        accept_versions=accept_versions,
    )
    data = task_data(place)
    for note in data.notes:
        ranks.say(f"data: {note}")
    ranks.on_main(lambda: schedule.record(config, len(data.train), output_dir))
    resolved = _resolve(config, folders, data)
    context = _with_given(Context(**vars(place), data=data, resolved=resolved))
    encoded = encoders_of(context, folders, _tokenizers(config, folders, fits, data.task))
    _check_ids(fits, encoded, data)
    context = replace(context, encoders=encoded)
    bias.prepare(context)
    for note in context.cut_notes():
        ranks.say(f"data: {note}")
    if stage != PREPARE:  # which needs no process group, but DeepSpeed's monitors do
        context = replace(context, monitor=open_monitor(config, output_dir))
    if config.robust.layerwise.any:
        given_models.check_equal_tokens(context.for_student().encoder, context.for_teacher().encoder)
    return context


def _check_ids(fits: Mapping[str, probe.Fit], encoded: Mapping[str, Encoder], data: TaskData) -> None:
    """`given_models.check_ids` of each model that lacks embeddings for tokens of its tokenizer."""
    for key, fit in fits.items():
        if fit.table is not None:
            encoder = encoded.get(key, encoded["model"])
            ranks.on_main(partial(given_models.check_ids, key, encoder, fit.table, data))


def _tokenizers(
    config: Config, folders: Mapping[str, Path], fits: Mapping[str, probe.Fit], task: Task
) -> dict[str, PreTrainedTokenizerBase]:
    """The models' tokenizers by key, used as each model needs it; says what was put between pairs."""
    found = {key: encoders.load_tokenizer(folder) for key, folder in folders.items()}
    for key, tokenizer in found.items():
        fits[key].settle(tokenizer)
        if not task.single:
            note = joining.note(tokenizer) if key == "teacher.model" else joining.settle(tokenizer)
            if note is not None:
                ranks.say(f"note: {key}: {note}.")
        if config.robust.padding_free and key in _trained(config, folders):
            unpadding.check_side(tokenizer.padding_side, key)
    return found


def _with_given(context: Context) -> Context:
    """With the checksums of given probabilities, which are read and checked before anything costly.

    Of dev and the OOD sets only if all are there; whether a stage can do without was checked before.
    """
    context = replace(context, given=ranks.on_main(lambda: given_probabilities.contents(context)))
    if "train" in context.given:
        obtain(Teacher(), context)
    if context.given and set(context.data.splits()) - set(context.given) <= {"train"}:
        obtain(Scores("teacher"), context)
    return context


def _open_folder(config: Config, output_dir: Path) -> None:
    """Make the output directory; the configuration in it says whose it is."""
    with disk.writing(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
    artefacts.write_json(output_dir / "config.json", config.merged)
    artefacts.write_json(output_dir / "versions.json", versions.report())


def _check_models(config: Config) -> tuple[dict[str, Path], dict[str, probe.Fit]]:
    """By key of each model of the configuration: its directory, and how its tokenizer must be used.

    Raises UserError for a model that cannot serve.
    """
    names, length = config.robust.models, config.robust.task.max_length
    texts = len(tasks.of(config.robust.task).texts)
    with hub.one_a_node():
        folders = {key: encoders.directory(name, f"{OURS}.{key}") for key, name in names.items()}
    fits = {key: probe.together(path, key, names[key], length, texts) for key, path in folders.items()}
    for key, folder in folders.items():
        if (commit := hub.commit(folder)) is not None:
            ranks.say(f"{key}: {names[key]} is commit {commit} of the hub")
        for note in fits[key].notes:
            ranks.say(f"note: {note}.")
    if config.robust.activation_checkpointing or config.robust.padding_free:
        with torch.device("meta"):
            for key in _trained(config, folders):
                engine.check_options(encoders.fresh_from(folders[key]), config)
    if config.robust.difficulty_needed:
        difficulty.check_model(config, folders["model"])
    return folders, fits


def _trained(config: Config, keys: Collection[str]) -> list[str]:
    """Which models, by key, this run trains: all but a given teacher that nothing starts from."""
    robust = config.robust
    starts = [robust.student.init_from] if robust.student.model is None else []
    starts += [robust.uncertainty.init_from] if robust.difficulty_needed else []
    return [key for key in keys if key != "teacher.model" or "teacher" in starts]


def _resolve(config: Config, folders: Mapping[str, Path], data: TaskData) -> Resolved:
    """The student's compression; UserError now for labels or schedules that a stage would reject."""
    given_models.check(folders, data)
    for key in _trained(config, folders):
        given_models.check_zeros(key, folders[key])
    bias.check(config, folders["model"], data)
    resolved = student.check(config, folders.get("student.model", folders["model"]), data)
    if config.robust.difficulty_needed:
        difficulty.check(config, len(data.train))
    return resolved


def overview(config: Config, data: TaskData, stages: tuple[str, ...], device: str) -> str:
    """One line: task, rows, teacher, compression, loss, stages, ranks and device of a run."""
    robust, world = config.robust, ranks.world_size()

    def count(number: int, unit: str) -> str:
        return f"{number} {unit}{'s' if number > 1 else ''}"

    ood = ", ".join(f"{name} {len(split):,}" for name, split in data.ood.items())
    parts = [
        f"task {robust.task.name}, seed {robust.seed}: train {len(data.train):,} samples, "
        f"dev {len(data.dev):,}, OOD {ood or 'none'}"
    ]
    if not robust.teacher_trained:
        name = robust.teacher.model
        given = (
            f"{name} as it is" if name else f"as the probabilities in {robust.teacher.probabilities}"
        )
        parts.append(f"teacher {given}")
    else:
        parts.append(
            f"teacher {robust.model}, {count(robust.teacher.epochs or robust.epochs, 'epoch')}"
            + (f" with the loss {loss}" if (loss := robust.teacher_loss) else "")
        )
    if "student" in stages:
        label = config.compression_label if config.compresses else "not compressed, as configured,"
        epochs = count(robust.student.epochs or robust.epochs, "epoch")
        parts.append(f"student {label} with the loss {config.mitigation_label}, {epochs}")
    plural = "s" if len(stages) > 1 else ""
    return "; ".join([*parts, f"stage{plural} {', '.join(stages)}; {count(world, 'rank')} ({device})"])


def stages_of(robust: RobustCompression, stage: str) -> tuple[str, ...]:
    """The stages that `--stage` makes rather than only finds.

    `all` leaves out a difficulty that the loss does not use. `student` makes the student with the plain
    loss too, if one is asked for. A given teacher is only scored, so that each stage may do it.
    """
    left_out = set() if robust.difficulty_needed else {"difficulty"}
    left_out |= set() if robust.evaluation.baseline else {"plain"}
    if stage == "all":
        return tuple(name for name in STAGES if name not in left_out)
    found = tuple(name for name in ("plain", "student") if name not in left_out)
    scored = not robust.teacher_trained and stage != "teacher"
    asked = found if stage == "student" else (stage,)
    return ("teacher", *asked) if scored else asked


def execute(context: Context, stage: str, export: str | None = None) -> None:
    """Run one stage, or all in order; print what was made, what was reused, and where it is.

    export: of `--export`, or None.
    Raises UserError if the stage needs one that has not been run.
    """
    if stage == PREPARE:
        for made in context.known.values():
            _say(made)
        sizes = (f"{name} {len(split):,}" for name, split in context.data.splits().items())
        ranks.say(f"samples: {', '.join(sizes)}")
        return
    if context.config.robust.precision == "tf32":
        torch.set_float32_matmul_precision("high")
    chosen = stages_of(context.config.robust, stage)
    ranks.say(overview(context.config, context.data, chosen, str(context.device)))
    ranks.say(f"batch: {batch_sizes.sentence(context.config.deepspeed, ranks.world_size())}")
    if too_many := threads.note(context.device):
        ranks.say(too_many)
    context = alpha.unused(replace(context, stage=stage, chosen=chosen))
    remaining_work.check_places(context)
    keys = {*remaining_work.keys(context), ownership.figures_found(context.output_dir) or ""}
    ranks.on_main(lambda: context.monitor.keep(keys))
    context.monitor.progress.plan(remaining_work.job(context))
    made = _obtain(Teacher(), context)
    metric = context.config.robust.evaluation.metric
    known = teacher.train_figure(context, made, metric)
    for note in chance.notes(known, context.data.splits(), metric):
        ranks.say(f"WARNING: {note}")
    if context.config.robust.plain_teacher and "teacher" in chosen:
        _obtain(PlainTeacher(), context)
    if stage == "teacher":
        return
    asked = "difficulty" in chosen
    losses = _obtain(Difficulty(), context) if asked else find(Difficulty(), context)
    if stage == "all" and not asked and losses is not None:
        _say(losses)
    if stage == "difficulty":
        return
    context, choice = alpha.settle(context)
    if context.config.robust.evaluation.baseline:
        _obtain(Plain(), context)
    _obtain(Student(), context)
    int8 = export == INT8
    if int8:
        obtain(Int8Scores(), context)  # after which the evaluation has no file to write and to score
    if "evaluate" in chosen:
        with context.monitor.progress.stage("evaluate"):
            results.make(context, losses, choice, int8)
    if export is not None:
        _say(obtain(Onnx(), context))
    if int8:
        _say(obtain(OnnxInt8(), context))
        if "evaluate" not in chosen:
            ranks.say(int8_figures.sentence(context))


def _obtain(stage: Stage, context: Context) -> Artefact:
    """The artefact of a stage, with a line if the run was asked to make it."""
    if stage.name not in context.chosen:
        return obtain(stage, context)
    name = stage.training if isinstance(stage, Teacher) else stage.name
    with context.monitor.progress.stage(name):
        made = obtain(stage, context)
    _say(made, name)
    return made


def _say(made: Artefact, name: str | None = None) -> None:
    how = "reused" if made.reused else f"done in {made.seconds:.1f} s"
    name = name or made.marker.get("label", made.marker["inputs"]["stage"])
    ranks.say(f"{name}: {how} ({made.path})")
