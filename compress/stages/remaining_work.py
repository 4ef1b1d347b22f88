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
    plan = workload.planned(context.config, rows, context.chosen)
    job = workload.Job(plan, context.config.deepspeed.train_batch_size)
    for stage in _finished(context):
        job.finish(stage)
    return job


def _finished(context: Context) -> set[str]:
    """Names of stages that exist; their keys are known without making what they need."""
    names = {stage.name for stage in (Teacher(), Difficulty()) if find(stage, context) is not None}
    if context.config.robust.uncertainty.alpha == "auto":
        choice = context.output_dir / "alpha/choice" / artefacts.MARKER
        return names | {"alpha", "student"} if choice.is_file() else names
    if find(Student(), context) is not None:
        return names | {"first", "student"}
    needed = (need for need in Student().needs(context) if isinstance(need, First))
    return names | {need.name for need in needed if find(need, context) is not None}
