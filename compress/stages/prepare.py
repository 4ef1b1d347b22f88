"""Stage prepare: the sources are read and checked once, by one process and its helpers.

`rows` keeps all rows of a source, `splits` which of them the run uses; the stage `tokens` follows. What
an unchanged source costs later is a look at its size and times. The other ranks wait meanwhile, and map
what the main rank has written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from compress.configuration.config import Config
from compress.configuration.used_keys import OURS
from compress.data import overlap, rows, sources, splits, tasks
from compress.data.rows import Rows
from compress.data.sources import Source
from compress.data.splits import TaskData
from compress.data.tasks import Task
from compress.errors import UserError
from compress.runtime import parallel, ranks
from compress.runtime.long_work import LongWork
from compress.stages.stage import Fill, Stage, obtain
from compress.stages.workspace import Artefact, Workspace
from compress.untyped import Json

FILE = "rows.arrow"
ELSEWHERE = {"ood", "train", "dev", "partial", "keep", "optional_labels", "defined", "name"}
"""Fields of a task that its rows do not depend on."""

LATER = ("id", "subgroups")
"""Fields that came later: where they are empty, keys are those of before."""


def _absent(task: Task) -> set[str]:
    return {name for name in LATER if not getattr(task, name)}


@dataclass(frozen=True)
class SourceRows(Stage[Workspace]):
    """`rows.arrow`: all rows of a source, checked (`compress.data.rows`); labels: in id order."""

    task: Task
    split: str
    source: Source
    labels: tuple[str, ...]
    name = "rows"
    packages = ()

    @property
    def label(self) -> str:
        """With the split."""
        return f"{self.name} of {self.split}"

    @cached_property
    def version(self) -> Json:
        """What the main rank says of the source before it is read."""
        return ranks.on_main(self.source.version)

    def facts(self, run: Workspace) -> dict[str, Any]:
        """The source, and how the task reads it."""
        entry = splits.entry_of(self.task, self.split)
        return {
            "source": self.version,
            "reading": rows.READING,
            "task": self.task.model_dump(mode="json", exclude=ELSEWHERE | _absent(self.task)),
            "entry": [type(entry).__name__, entry.model_dump(mode="json", exclude={"file", "hub"})],
            "labels": self.labels,
        }

    def make(self, run: Workspace, made: Mapping[str, Artefact]) -> Fill:
        """Read and check the source; UserError if it changes meanwhile."""
        entry, work = splits.entry_of(self.task, self.split), LongWork(self.label, "rows")
        processes = run.config.robust.processes or parallel.available()

        def fill(folder: Path) -> None:
            found = rows.batches(self.task, self.labels, self.source, entry, processes)
            rows.write(folder / FILE, found, rows.about(self.source, self.labels), work.done)
            if self.source.version() != self.version:
                raise UserError(f"{self.source.name}: has changed while it was read; start again.")

        return fill


@dataclass(frozen=True)
class Splits(Stage[Workspace]):
    """The splits that a run uses (`compress.data.splits`), and the list of shared samples."""

    task: Task
    sources: tuple[SourceRows, ...]
    name = "splits"
    packages = ()

    def reads(self, config: Config) -> tuple[str, ...]:
        """How many samples are drawn, and whether shared ones are dropped."""
        return tuple(f"{OURS}.task.{n}" for n in ("train_samples", "eval_samples", "drop_overlap"))

    def needs(self, run: Workspace) -> tuple[Stage, ...]:
        """The rows of every source."""
        return self.sources

    def facts(self, run: Workspace) -> dict[str, Any]:
        """What the task says of labels."""
        return {"task": self.task.model_dump(mode="json", exclude=_absent(self.task))}

    def make(self, run: Workspace, made: Mapping[str, Artefact]) -> Fill:
        """Compare OOD sets with train, drop, draw."""
        block, found = run.config.robust.task, _opened(self.sources, made)

        def fill(folder: Path) -> None:
            data = splits.select(self.task, block, found, run.output_dir / overlap.FILE)
            splits.save(data, folder)
            overlap.put(run.output_dir / overlap.FILE, folder / overlap.FILE)

        return fill


def _opened(stages: Sequence[SourceRows], made: Mapping[str, Artefact]) -> dict[str, Rows]:
    return {stage.split: Rows.open(made[stage.label].path / FILE) for stage in stages}


def task_data(run: Workspace) -> TaskData:
    """The splits of the run's task: found in the cache, or made; texts are mapped on every rank."""
    task = tasks.of(run.config.robust.task)
    places = _sources(run, task)
    alone = task.model_copy(update={"subgroups": []})  # which are of dev and OOD sets
    train = SourceRows(alone, "train", places.pop("train"), tuple(task.labels))
    made = {train.label: obtain(train, run)}
    labels = splits.class_names(task, _opened([train], made)["train"])
    others = [SourceRows(task, n, place, _labels(task, n, labels)) for n, place in places.items()]
    made |= {stage.label: obtain(stage, run) for stage in others}
    whole = Splits(task, (train, *others))
    found = obtain(whole, run).path
    ranks.on_main(lambda: overlap.put(found / overlap.FILE, run.output_dir / overlap.FILE))
    return splits.load(task, found, _opened(whole.sources, made))


def _sources(run: Workspace, task: Task) -> dict[str, Source]:
    """The sources by split. The main rank alone looks for them; the others get their names only."""
    found: dict[str, Source] = {}

    def look() -> list[tuple[str, str]]:
        found.update(sources.every(run.config.robust, task))
        if run.config.robust.evaluation.ood is None:
            known = {split.removeprefix("ood_") for split in found}
            for line in sources.passed_over(sources.folders(run.config.robust.task).values(), known):
                ranks.say(f"note: {line}, and is left out.")
        return [(split, source.name) for split, source in found.items()]

    listed = ranks.on_main(look)
    return found or {split: Source(name, _unread, _unread) for split, name in listed}


def _unread() -> NoReturn:
    raise AssertionError("the main rank alone reads sources")


def _labels(task: Task, split: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Labels of a split other than train, whose classes are given."""
    return tuple(splits.entry_of(task, split).labels or labels)
