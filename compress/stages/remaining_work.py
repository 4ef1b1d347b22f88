"""What a run will make, and what is finished: for the time left, the places and the events."""

from collections.abc import Iterator

from compress.files import artefacts
from compress.mitigations._shared import TRAINED_BIAS
from compress.stages.alpha import Alpha
from compress.stages.context import Context
from compress.stages.difficulty import Difficulty
from compress.stages.encoder_bias import EncoderBias
from compress.stages.first import First
from compress.stages.partial_input import PartialInput
from compress.stages.plain import Plain
from compress.stages.scores import Scores, roles
from compress.stages.shallow import Shallow
from compress.stages.stage import Stage, check_place, find, key_of
from compress.stages.student import Student
from compress.stages.teacher import PlainTeacher, Teacher
from compress.training import workload


def job(context: Context) -> workload.Job:
    """The work of the chosen stages; those that will be reused are finished already."""
    rows = {name: len(columns) for name, columns in context.columns.items()}
    config, trained = context.config, [n for n in _small(context) if isinstance(n, EncoderBias)]
    small = {need.name: need.work(config, rows["train"]) for need in trained}
    plan = workload.planned(config, rows, context.chosen, small)
    job = workload.Job(plan, context.config.deepspeed.train_batch_size)
    for stage in _finished(context):
        job.finish(stage)
    return job


def _finished(context: Context) -> set[str]:
    """Names of stages that exist; their keys are known without making what they need."""
    stages = [Difficulty(), *_plain(context)]
    names = {stage.name for stage in stages if find(stage, context) is not None}
    names |= {one.training for one in _teachers(context) if find(one, context) is not None}
    if context.config.robust.uncertainty.alpha == "auto":
        choice = context.output_dir / "alpha/choice" / artefacts.MARKER
        return names | {"alpha", "student"} if choice.is_file() else names
    if find(Student(), context) is not None:
        return names | {"first", *TRAINED_BIAS, "student"}
    return names | {need.name for need in _small(context) if find(need, context) is not None}


def _plain(context: Context) -> list[Stage]:
    """The student with the plain loss, if it is asked for."""
    return [Plain()] if context.config.robust.evaluation.baseline else []


def _teachers(context: Context) -> list[Teacher]:
    """The run's own, and that of the student with the plain loss if it is another."""
    return [Teacher(), *([PlainTeacher()] if context.config.robust.plain_teacher else [])]


def _small(context: Context) -> list[Stage]:
    """The small models that this run needs, if they take a training."""
    needs = [*Teacher().needs(context)] if "teacher" in context.chosen else []
    needs += Student().needs(context) if "student" in context.chosen else []
    return [need for need in needs if isinstance(need, First | EncoderBias)]


def keys(context: Context) -> set[str]:
    """Keys of all artefacts of this configuration that are trained, made or not. All ranks call it."""
    found: set[str] = set()

    def add(stage: Stage) -> None:
        found.add(key_of(stage, context))
        for need in stage.needs(context):
            add(need)

    for stage in (Difficulty(), _student(context), Student(), *_plain(context)):
        add(stage)
    return found


def check_places(context: Context) -> None:
    """Raise UserError if an artefact must be made and the cache is read-only. All ranks call it."""
    chosen, tops = context.chosen, list[Stage](_teachers(context))
    if "difficulty" in chosen:
        tops.append(Difficulty())
    if "student" in chosen:
        tops += [_student(context), *_plain(context)]
    if "evaluate" in chosen:
        shallow = [Shallow()] if context.config.robust.loss.shallow else []
        scored = [Scores(role) for role in roles(context.config) if role != "student"]
        tops += [PartialInput(), *shallow, *scored]
    for stage in tops:
        for missing in _missing(stage, context):
            check_place(missing, context)


def _missing(stage: Stage, context: Context) -> Iterator[Stage]:
    """The stage and those that it needs, as far as this run will make them."""
    if find(stage, context) is None and (not stage.asked or stage.name in context.chosen):
        yield stage
        for need in (*stage.needs(context), *stage.optional(context)):
            yield from _missing(need, context)


def _student(context: Context) -> Stage:
    """The student, or the choice among several."""
    robust = context.config.robust
    chooses = robust.uncertainty.alpha == "auto" and robust.difficulty_used
    return Alpha() if chooses else Student()
