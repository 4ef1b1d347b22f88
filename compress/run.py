"""A run: prepare the data, go through the stages, evaluate, report.

What: `prepare` builds the context (owned output directory, encoded data, monitor), `execute` runs the
asked stages and writes metrics.json and report.html. `train.py` calls both.
"""

import time
from pathlib import Path
from types import ModuleType

import torch
from transformers import PreTrainedTokenizerBase

from compress import artefacts, onnx_export, ranks, versions
from compress.configuration.config import Config
from compress.data import splits, tasks
from compress.data.batches import Columns
from compress.errors import UserError
from compress.models import encoders
from compress.stages import ahead, alpha, difficulty, results, student, teacher
from compress.stages.context import Artefact, Context, Encoder, found, publish, say
from compress.training.monitor import open_monitor

STAGES = ("teacher", "difficulty", "student", "evaluate")


def check_export(stage: str, export: str | None) -> None:
    """Raise UserError for an `--export` that cannot take effect or lacks its packages."""
    if export is None:
        return
    if stage in ("teacher", "difficulty"):
        raise UserError(f"--export {export}: there is no student to export in --stage {stage}.")
    onnx_export.require()


def prepare(config: Config, output_dir: Path, device: torch.device) -> Context:
    """Own the output directory, read and encode the data, find the encoder."""
    ranks.barrier()
    if ranks.is_main():
        output_dir.mkdir(parents=True, exist_ok=True)
        artefacts.write_json(output_dir / "config.json", config.merged)
        artefacts.write_json(output_dir / "versions.json", versions.report())
    student.try_hook(config, len(tasks.of(config.robust.task).labels), device)
    robust = config.robust
    cache = Path(robust.cache_dir) if robust.cache_dir else output_dir.parent / "shared"
    names = {"model": robust.model, "student.model": robust.student.model}
    folders = [_folder(name, key, config) for key, name in names.items() if name]
    raw = splits.read(robust)
    student.check(config, folders[-1], raw)
    difficulty.check(config, len(raw.train))
    made = [_encoder(folder, raw, config, cache) for folder in folders]
    return Context(
        config=config,
        output_dir=output_dir,
        cache_dir=cache,
        data=raw,
        encoder=made[0],
        device=device,
        monitor=open_monitor(config, output_dir),
        small=made[1] if robust.student.model else None,
    )


def _folder(name: str, key: str, config: Config) -> Path:
    """Directory of a pre-trained model, given as `key`, that has enough positions for the task."""
    wanted = config.robust.task.max_length
    folder = encoders.directory(name, f"robust_compression.{key}")
    longest = encoders.max_positions(folder)
    if longest is not None and wanted > longest:
        raise UserError(
            f"robust_compression.task.max_length is {wanted}, but {name} has {longest} positions."
        )
    return folder


def _encoder(folder: Path, raw: splits.TaskData, config: Config, cache: Path) -> Encoder:
    """The model's tokenizer and the splits in its tokens."""
    tokenizer, key = encoders.load_tokenizer(folder), encoders.fingerprint(folder)
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
    }
    if raw.task.keep is not None:
        inputs["keep"] = raw.task.keep
    path = artefacts.place(cache, "tokens", inputs)
    if found(path, inputs) is None:

        def fill(folder: Path) -> None:
            splits.encode(split, tokenizer, length, folder / "arrow", raw.task.keep)

        publish(path, inputs, time.perf_counter(), fill)
    return Columns.open(str(path / "arrow"), tokenizer.pad_token_id)


def execute(context: Context, stage: str, export: str | None = None) -> None:
    """Run one stage, or all in order; say what was made, what was reused, and where it is.

    export: `onnx` writes the student as `onnx/model.onnx` too.
    Raises UserError if the stage needs one that has not been run.
    """
    chosen = STAGES if stage == "all" else (stage,)
    progress = context.monitor.progress
    progress.plan(ahead.job(context, chosen))
    made = _stage(teacher, "teacher", chosen, context)
    if made is None:
        raise UserError(f"--stage {stage}: there is no teacher yet; run --stage teacher first.")
    if stage == "teacher":
        return
    hardness = _stage(difficulty, "difficulty", chosen, context, made)
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
    room: ModuleType, name: str, chosen: tuple[str, ...], context: Context, *before: Artefact | None
) -> Artefact | None:
    """The artefact of a stage: made if it is asked for, else the finished one, else None."""
    if name not in chosen:
        return room.find(context, *before)
    with context.monitor.progress.stage(name):
        artefact: Artefact = room.make(context, *before)
    _say(name, artefact)
    return artefact


def _say(name: str, artefact: Artefact) -> None:
    how = "reused" if artefact.reused else f"done in {artefact.seconds:.1f} s"
    say(f"{name}: {how} ({artefact.path})")


def _onnx(context: Context, compressed: Artefact) -> Artefact:
    """The student as ONNX, made from its finished directory unless it is there."""
    path = context.output_dir / "onnx"
    inputs = {"stage": "onnx", "student": compressed.key, "opset": onnx_export.OPSET}
    if (old := found(path, inputs)) is not None:
        return old

    def fill(folder: Path) -> None:
        onnx_export.export(compressed.path / "model", folder / "model.onnx")

    return publish(path, inputs, time.perf_counter(), fill)
