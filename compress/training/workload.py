"""How much a job has to do, and how long that takes: steps and scored samples, by stage (arithmetic).

`planned` lists the work of a configuration, `Job` counts what is done, measures, and estimates the time
left. A stage that has not begun is taken to be as fast as those before it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from compress.configuration.config import Config, training_steps

FORWARD_SHARE = 1 / 3
"""Time of scoring a sample over that of a training step with it, before any scoring is measured."""
NAMES = {"evaluate": "evaluation"}


@dataclass(frozen=True)
class Work:
    """steps: optimiser steps of all trainings of a stage; rows: samples it scores, in all passes."""

    stage: str
    steps: int
    rows: int


def planned(
    config: Config,
    rows: Mapping[str, int],
    stages: Collection[str],
    small: Mapping[str, tuple[int, int]] | None = None,
) -> list[Work]:
    """The work of these stages in order; rows: samples of each split, by name.

    `first` and `alpha` are listed on their own where the student needs them; not a `first` that is the
    teacher. small: stage -> (steps, scored samples) of further models that are needed.
    """
    robust, train, dev = config.robust, rows["train"], rows["dev"]
    block, teacher_epochs = robust.uncertainty, robust.teacher.epochs or robust.epochs

    def trained(stage: str, epochs: int, scored: int) -> Work:
        return Work(stage, training_steps(config, train, epochs), epochs * dev + scored)

    works = [Work(name, *counts) for name, counts in (small or {}).items()]
    if "teacher" in stages and not robust.teacher_trained:
        works.append(Work("teacher", 0, train if robust.teacher.model is not None else 0))
    elif "teacher" in stages:
        works.append(trained("teacher", teacher_epochs, train))
    if "teacher" in stages and robust.plain_teacher:
        works.append(trained("baseline teacher", teacher_epochs, train))
    if "difficulty" in stages:
        levels = len(block.sparsities)
        runs = 1 if block.protocol == "trajectory" else levels
        steps = training_steps(config, train, robust.sub_networks["epochs"])
        works.append(Work("difficulty", runs * steps, levels * (train + dev)))
    compressed = trained("plain", robust.student.epochs or robust.epochs, _importance(config, train))
    if "plain" in stages:
        works.append(compressed)
    if "student" in stages:
        if robust.loss.first_model_epochs is not None and not robust.first_is_teacher:
            works.append(trained("first", robust.loss.first_model_epochs, train))
        student = replace(compressed, stage="student")
        if block.alpha == "auto" and robust.loss.uses("difficulty"):
            tried = len(block.alpha_candidates)
            student = Work("alpha", tried * student.steps, tried * (student.rows + dev))
        works.append(student)
    if "evaluate" in stages:
        models = 2 + robust.evaluation.baseline + robust.plain_teacher
        models -= robust.teacher.probabilities is not None
        scored = sum(n for name, n in rows.items() if name != "train")
        works.append(Work("evaluate", 0, models * scored))
    return works


def _importance(config: Config, train: int) -> int:
    """Backward passes for the importance of heads and ffn neurons, as a number of scored samples."""
    block = config.robust.structured
    if not config.compression.measures:
        return 0
    return round(block.rounds * min(block.samples, train) / FORWARD_SHARE)


class Job:
    """The work that is planned, done and measured; batch_size: samples of an optimiser step."""

    def __init__(self, plan: Iterable[Work] = (), batch_size: int = 1) -> None:
        """Nothing is done yet."""
        self.work = {work.stage: work for work in plan}
        self.planned = bool(self.work)
        self._batch_size = batch_size
        self._finished: set[str] = set()
        self._done: Counter[tuple[str, str]] = Counter()
        self._skipped: Counter[tuple[str, str]] = Counter()
        self._timed: dict[tuple[str, str], tuple[int, float]] = {}

    def begin(self, stage: str, steps: int = 0) -> None:
        """Start a stage; steps: how many it has, if it was not planned."""
        self.work.setdefault(stage, Work(stage, steps, 0))
        self._finished.discard(stage)
        for kind in ("steps", "rows"):
            self._done[stage, kind] = self._skipped[stage, kind] = 0
            self._timed[stage, kind] = (0, 0.0)

    def finish(self, stage: str) -> None:
        """Nothing of the stage is left, whatever was planned."""
        self._finished.add(stage)

    def step(self, stage: str, seconds: float | None) -> None:
        """Count an optimiser step; seconds: None if its time says nothing of the next ones."""
        self._count(stage, "steps", 1, seconds)

    def skip(self, stage: str, steps: int = 0, rows: int = 0) -> None:
        """Count optimiser steps and scored samples that an earlier run has done."""
        for kind, number in (("steps", steps), ("rows", rows)):
            self._done[stage, kind] += number
            self._skipped[stage, kind] += number

    def scored(self, stage: str, rows: int, seconds: float) -> None:
        """Count samples that were scored."""
        self._count(stage, "rows", rows, seconds)

    def _count(self, stage: str, kind: str, number: int, seconds: float | None) -> None:
        self._done[stage, kind] += number
        if seconds is not None:
            timed, total = self._timed[stage, kind]
            self._timed[stage, kind] = (timed + number, total + seconds)

    def done(self, stage: str) -> tuple[int, int]:
        """(steps, rows) done of a stage."""
        return self._done[stage, "steps"], self._done[stage, "rows"]

    def measured(self, stage: str) -> tuple[int, float]:
        """(steps, their seconds) that were timed in a stage."""
        return self._timed.get((stage, "steps"), (0, 0.0))

    def stage_left(self, stage: str) -> float | None:
        """Seconds left of a stage, None as long as nothing is measured."""
        if stage in self._finished:
            return 0.0
        return self._rest(stage, self._done)

    def _rest(self, stage: str, counted: Counter[tuple[str, str]]) -> float | None:
        """Seconds of a stage less what is counted of it."""
        work = self.work[stage]
        steps, rows = work.steps - counted[stage, "steps"], work.rows - counted[stage, "rows"]
        return self._seconds(stage, max(0, steps), max(0, rows))

    def left(self) -> float | None:
        """Seconds left of the job, None as long as nothing is measured."""
        seconds = [self.stage_left(stage) for stage in self.work]
        known = [value for value in seconds if value is not None]
        return sum(known) if len(known) == len(seconds) else None

    def expected(self) -> dict[str, float] | None:
        """Seconds of each stage that is not finished, less what an earlier run has done of it.

        None as long as nothing is measured.
        """
        stages = [stage for stage in self.work if stage not in self._finished]
        seconds = {stage: self._rest(stage, self._skipped) for stage in stages}
        known = {stage: value for stage, value in seconds.items() if value is not None}
        return known if known and len(known) == len(seconds) else None

    def _seconds(self, stage: str, steps: int, rows: int) -> float | None:
        """Seconds of so much work at the rate of the stage, or else of the whole job."""
        step, row = self._rate(stage, "steps"), self._rate(stage, "rows")
        if step is not None and row is None:
            row = step / self._batch_size * FORWARD_SHARE
        if (steps and step is None) or (rows and row is None):
            return None
        return steps * (step or 0.0) + rows * (row or 0.0)

    def _rate(self, stage: str, kind: str) -> float | None:
        """Seconds of one step or row, None before any was timed."""
        for stages in ((stage,), self.work):
            timed = [self._timed.get((name, kind), (0, 0.0)) for name in stages]
            if count := sum(number for number, _ in timed):
                return sum(seconds for _, seconds in timed) / count
        return None


def expectation(seconds: Mapping[str, float]) -> str:
    """One line: the expected time of each stage, and of all."""
    parts = [f"{NAMES.get(stage, stage)} {duration(value)}" for stage, value in seconds.items()]
    total = f"; about {duration(sum(seconds.values()))} in all" if len(parts) > 1 else ""
    return f"expected: {', '.join(parts)}{total}"


def duration(seconds: float) -> str:
    """Such as `20 s`, `2 min 10 s`, `25 min`, `3 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
