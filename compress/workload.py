"""How much a job has to do, and how long that takes: steps and scored samples, by stage (arithmetic).

`planned` lists the work of a configuration, `Job` counts what is done, measures, and tells the time
left. Times are estimates: a stage that has not begun is taken to be as fast as those before it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from compress.configuration.config import Config, training_steps

FORWARD_SHARE = 1 / 3
"""What scoring a sample takes of a training step with it, before any scoring was measured."""
NAMES = {"evaluate": "evaluation"}


@dataclass(frozen=True)
class Work:
    """steps: optimiser steps of a stage, of all its runs; rows: samples it scores, all passes."""

    stage: str
    steps: int
    rows: int


def planned(config: Config, rows: Mapping[str, int], stages: Collection[str]) -> list[Work]:
    """The work of these stages in order; rows: samples of each split, by name.

    `first` and `alpha` are listed on their own where the student needs them.
    """
    robust, train, dev = config.robust, rows["train"], rows["dev"]
    block, teacher_epochs = robust.uncertainty, robust.teacher.epochs or robust.epochs

    def trained(stage: str, epochs: int, scored: int) -> Work:
        return Work(stage, training_steps(config, train, epochs), epochs * dev + scored)

    out = []
    if "teacher" in stages and robust.teacher.model is not None:
        out.append(Work("teacher", 0, train))
    elif "teacher" in stages:
        out.append(trained("teacher", teacher_epochs, train))
    if "difficulty" in stages:
        levels = len(block.sparsities)
        runs = 1 if block.protocol == "trajectory" else levels
        steps = training_steps(config, train, robust.sub_networks["epochs"])
        out.append(Work("difficulty", runs * steps, levels * (train + dev)))
    if "student" in stages:
        if robust.loss.first_model_epochs is not None:
            out.append(trained("first", robust.loss.first_model_epochs, train))
        student = trained("student", robust.student.epochs or robust.epochs, _importance(config, train))
        if block.alpha == "auto" and robust.loss.uses("difficulty"):
            tried = len(block.alpha_candidates)
            student = Work("alpha", tried * student.steps, tried * (student.rows + dev))
        out.append(student)
    if "evaluate" in stages:
        out.append(Work("evaluate", 0, 2 * sum(n for name, n in rows.items() if name != "train")))
    return out


def _importance(config: Config, train: int) -> int:
    """The backward passes for the importance of heads and ffn neurons, as so many scored samples."""
    block = config.robust.structured
    if not any(technique.chooses == "importance" for technique in config.compression.pruning):
        return 0
    return round(block.rounds * min(block.samples, train) / FORWARD_SHARE)


@dataclass
class _Tally:
    steps: int = 0
    rows: int = 0
    timed: dict[str, int] = field(default_factory=lambda: {"steps": 0, "rows": 0})
    seconds: dict[str, float] = field(default_factory=lambda: {"steps": 0.0, "rows": 0.0})


class Job:
    """What is planned, done and measured; batch_size: samples of an optimiser step."""

    def __init__(self, plan: Iterable[Work] = (), batch_size: int = 1) -> None:
        """Nothing is done yet."""
        self.work = {work.stage: work for work in plan}
        self.planned = bool(self.work)
        self._batch_size = batch_size
        self._tallies: dict[str, _Tally] = {}
        self._finished: set[str] = set()

    def begin(self, stage: str, steps: int = 0) -> None:
        """Start a stage; steps: how many it has, if it was not planned."""
        if stage not in self.work:
            self.work[stage] = Work(stage, steps, 0)
        self._tallies[stage] = _Tally()
        self._finished.discard(stage)

    def finish(self, stage: str) -> None:
        """Nothing of the stage is left, whatever was planned."""
        self._finished.add(stage)

    def step(self, stage: str, seconds: float | None) -> None:
        """Count an optimiser step; seconds: None if its time says nothing of the next ones."""
        tally = self._tallies[stage]
        tally.steps += 1
        if seconds is not None:
            tally.timed["steps"] += 1
            tally.seconds["steps"] += seconds

    def scored(self, stage: str, rows: int, seconds: float) -> None:
        """Count samples that were scored."""
        tally = self._tallies[stage]
        tally.rows += rows
        tally.timed["rows"] += rows
        tally.seconds["rows"] += seconds

    def done(self, stage: str) -> tuple[int, int]:
        """(steps, rows) done of a stage."""
        tally = self._tallies.get(stage, _Tally())
        return tally.steps, tally.rows

    def measured(self, stage: str) -> tuple[int, float]:
        """(steps, their seconds) that were timed in a stage."""
        tally = self._tallies.get(stage, _Tally())
        return tally.timed["steps"], tally.seconds["steps"]

    def stage_left(self, stage: str) -> float | None:
        """Seconds left of a stage, None as long as nothing is measured."""
        work, (steps, rows) = self.work[stage], self.done(stage)
        if stage in self._finished:
            return 0.0
        return self._seconds(stage, max(0, work.steps - steps), max(0, work.rows - rows))

    def left(self) -> float | None:
        """Seconds left of the job, None as long as nothing is measured."""
        parts = [self.stage_left(stage) for stage in self.work]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def expected(self) -> dict[str, float] | None:
        """Seconds of each whole stage that is not finished, None as long as nothing is measured."""
        open_ = [work for work in self.work.values() if work.stage not in self._finished]
        seconds = {work.stage: self._seconds(work.stage, work.steps, work.rows) for work in open_}
        known = {stage: value for stage, value in seconds.items() if value is not None}
        return known if known and len(known) == len(seconds) else None

    def _seconds(self, stage: str, steps: int, rows: int) -> float | None:
        """Seconds of so much work at the rate of the stage, or else of the whole job."""
        each, row = self._rate(stage, "steps"), self._rate(stage, "rows")
        if each is None and steps:
            return None
        if row is None and rows:
            if each is None:
                return None
            row = each / self._batch_size * FORWARD_SHARE
        return steps * (each or 0.0) + rows * (row or 0.0)

    def _rate(self, stage: str, kind: str) -> float | None:
        for tallies in ([self._tallies.get(stage, _Tally())], self._tallies.values()):
            count = sum(tally.timed[kind] for tally in tallies)
            if count:
                return sum(tally.seconds[kind] for tally in tallies) / count
        return None


def expectation(seconds: Mapping[str, float]) -> str:
    """One line: the time that each stage is expected to take, and all of them."""
    parts = [f"{NAMES.get(stage, stage)} {duration(value)}" for stage, value in seconds.items()]
    total = f"; about {duration(sum(seconds.values()))} in all" if len(parts) > 1 else ""
    return f"expected: {', '.join(parts)}{total}"


def duration(seconds: float) -> str:
    """Such as `20 s`, `2 min 10 s`, `25 min`, `3 h 05 min`: as exact as it need be."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
