"""The work of the stages of a run, less what is finished, for the time left."""

from compress import artefacts
from compress.stages.context import Context
from compress.stages.difficulty import Difficulty
from compress.stages.first import First
from compress.stages.stage import find
from compress.stages.student import Student
from compress.stages.teacher import Teacher
from compress.training import workload


def job(context: Context) -> workload.Job:
    """The work of the chosen stages; those that will be reused are finished already."""
    rows = {name: len(columns) for name, columns in context.columns.items()}
    config = context.config
    out = workload.Job(
        workload.planned(config, rows, context.chosen), config.deepspeed.train_batch_size
    )
    for stage in _finished(context):
        out.finish(stage)
    return out


def _finished(context: Context) -> set[str]:
    """Names of stages that are there; their keys are known without making what they need."""
    out = {stage.name for stage in (Teacher(), Difficulty()) if find(stage, context) is not None}
    if context.config.robust.uncertainty.alpha == "auto":
        choice = context.output_dir / "alpha/choice" / artefacts.MARKER
        return out | {"alpha", "student"} if choice.is_file() else out
    if find(Student(), context) is not None:
        return out | {"first", "student"}
    needed = (need for need in Student().needs(context) if isinstance(need, First))
    return out | {need.name for need in needed if find(need, context) is not None}
