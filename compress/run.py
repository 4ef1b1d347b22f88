"""A run: prepare the data, go through the stages, evaluate, report.

What: `prepare` builds the context (owned output directory, encoded data, monitor), `execute` runs the
asked stages and writes metrics.json and report.html. `train.py` calls both.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from transformers import PreTrainedTokenizerBase

from compress import artefacts, disk, onnx_export, overview, ownership, ranks, versions
from compress.compression.resolved import Resolved
from compress.configuration import schedule
from compress.configuration.config import Config
from compress.configuration.robust_schema import RobustCompression
from compress.data import splits, tasks, tokens
from compress.data.batches import Columns
from compress.errors import UserError
from compress.models import encoders, probe
from compress.scoring import chance
from compress.stages import alpha, difficulty, given_models, remaining_work, results, student, teacher
from compress.stages.context import Artefact, Context, Encoder, found, publish
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


def prepare(config: Config, output_dir: Path, device: torch.device) -> Context:
    """Check the run, what costs least first; read and encode the data; open the monitor."""
    robust = config.robust
    ranks.on_main(lambda: _open_folder(config, output_dir))
    robust.loss.trial(config, len(tasks.of(robust.task).labels), device)
    models = _check_models(config)
    data = _read_data(config, output_dir)
    ranks.on_main(lambda: schedule.record(config, len(data.train), output_dir))
    resolved = _resolve(config, models, data)
    cache = ownership.cache_dir(config, output_dir)
    encoded = _encode(config, models, data, cache)
    context = Context(
        config=config,
        output_dir=output_dir,
        cache_dir=cache,
        data=data,
        encoder=encoded["model"],
        device=device,
        monitor=open_monitor(config, output_dir),
        resolved=resolved,
        small=encoded.get("student.model"),
        given=encoded.get("teacher.model"),
    )
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
    for model in models.values():
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


def _encode(
    config: Config, models: Mapping[str, Model], data: splits.TaskData, cache: Path
) -> dict[str, Encoder]:
    """The splits in the tokens of each model, by key; no `teacher.model` that has the run's tokens."""
    tokenizers = {key: _tokenizer(model) for key, model in models.items()}
    given = tokenizers.get("teacher.model")
    if given is not None and tokens.equal(tokenizers["model"], given):
        del tokenizers["teacher.model"]
    out = {
        key: _encoder(models[key].folder, tokenizer, data, config, cache)
        for key, tokenizer in tokenizers.items()
    }
    for key, encoder in out.items():
        given_models.check_vocabulary(key, encoder)
    return out


def _tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """The model's tokenizer, used as the model takes it."""
    tokenizer = encoders.load_tokenizer(model.folder)
    model.fit.settle(tokenizer)
    return tokenizer


def _encoder(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    raw: splits.TaskData,
    config: Config,
    cache: Path,
) -> Encoder:
    """The model's tokenizer and the splits in its tokens."""
    key = encoders.fingerprint(folder)
    columns = {name: _encoded(raw, name, tokenizer, key, config, cache) for name in raw.splits()}
    return Encoder(folder, key, tokenizer, columns)


def _encoded(
    raw: splits.TaskData,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    model_key: str,
    config: Config,
    cache: Path,
) -> Columns:
    """The encoded split from the cache, made by the main rank if it is not there."""
    split, length = raw.splits()[name], config.robust.task.max_length
    inputs = {
        "split": split.fingerprint(),
        "model": model_key,
        "max_length": length,
        "names": list(tokenizer.model_input_names),
    }
    if raw.task.keep is not None:
        inputs["keep"] = raw.task.keep
    path = artefacts.place(cache, "tokens", inputs)
    if found(path, inputs) is None:

        def fill(folder: Path) -> None:
            splits.encode(split, tokenizer, length, folder / "arrow", raw.task.keep)

        publish(path, inputs, time.perf_counter(), fill)
    return Columns.open(str(path / "arrow"), tokenizer.pad_token_id, tokenizer.padding_side)


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
    chosen = stages_of(context.config.robust, stage)
    progress = context.monitor.progress
    progress.plan(remaining_work.job(context, chosen))
    made = _stage(teacher, "teacher", chosen, context)
    if made is None:
        raise UserError(f"--stage {stage}: there is no teacher yet; run --stage teacher first.")
    for note in chance.notes(teacher.train_accuracy(context, made), context.data.splits()):
        ranks.say(f"WARNING: {note}")
    if stage == "teacher":
        return
    hardness = _stage(difficulty, "difficulty", chosen, context, made)
    if stage == "all" and "difficulty" not in chosen and hardness is not None:
        _say("difficulty", hardness)
    if stage == "difficulty":
        return
    context, choice = alpha.settle(context, made, hardness, train="student" in chosen)
    compressed = _stage(student, "student", chosen, context, made, hardness)
    if compressed is None:
        raise UserError(f"--stage {stage}: there is no student yet; run --stage student first.")
    if "evaluate" in chosen:
        with progress.stage("evaluate"):
            results.make(context, made, hardness, compressed, choice)
    if export is not None:
        _say("onnx", _onnx(context, compressed))


def _stage(
    module: ModuleType, name: str, chosen: tuple[str, ...], context: Context, *before: Artefact | None
) -> Artefact | None:
    """The artefact of a stage: made if it is asked for, else the finished one, else None."""
    if name not in chosen:
        return module.find(context, *before)
    with context.monitor.progress.stage(name):
        artefact: Artefact = module.make(context, *before)
    _say(name, artefact)
    return artefact


def _say(name: str, artefact: Artefact) -> None:
    how = "reused" if artefact.reused else f"done in {artefact.seconds:.1f} s"
    ranks.say(f"{name}: {how} ({artefact.path})")


def _onnx(context: Context, compressed: Artefact) -> Artefact:
    """The student as ONNX, made from its finished directory unless it is there."""
    path = context.output_dir / "onnx"
    inputs = {"stage": "onnx", "student": compressed.key, "opset": onnx_export.OPSET}
    if (old := found(path, inputs)) is not None:
        return old

    def fill(folder: Path) -> None:
        onnx_export.export(compressed.path / "model", folder / "model.onnx")

    return publish(path, inputs, time.perf_counter(), fill)
