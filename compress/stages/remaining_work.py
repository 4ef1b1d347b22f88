"""The work of the stages of a run, less what is finished, for the time left."""

from collections.abc import Collection
from pathlib import Path

from compress import artefacts, workload
from compress.stages import difficulty, first, student, teacher
from compress.stages.context import Artefact, Context, found


def job(context: Context, stages: Collection[str]) -> workload.Job:
    """The work of these stages; those that will be reused are finished already."""
    rows = {name: len(columns) for name, columns in context.columns.items()}
    config = context.config
    out = workload.Job(workload.planned(config, rows, stages), config.deepspeed.train_batch_size)
    for stage in _finished(context):
        out.finish(stage)
    return out


def _finished(context: Context) -> set[str]:
    """Stages that are there; what they depend on is known without making it."""
    robust, out = context.config.robust, set()
    made = teacher.find(context)
    if made is not None:
        out.add("teacher")
    before = made or Artefact(Path(), teacher.inputs_of(context), 0.0, False)
    losses = difficulty.find(context, before)
    if losses is not None:
        out.add("difficulty")
    if robust.uncertainty.alpha == "auto":
        choice = context.output_dir / "alpha/choice" / artefacts.MARKER
        return out | {"alpha", "student"} if choice.is_file() else out
    hardness = losses or Artefact(Path(), difficulty.inputs_of(context, before), 0.0, False)
    if student.find(context, before, hardness) is not None:
        return out | {"first", "student"}
    inputs = first.inputs_of(context)
    if found(artefacts.place(context.cache_dir, "first", inputs), inputs) is not None:
        out.add("first")
    return out
