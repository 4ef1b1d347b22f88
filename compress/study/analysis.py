"""From rows to estimates: mean, spread over seeds, bootstrap interval, difference to vanilla.

Accuracies are means over seeds; F_bias is that of the mean accuracies, as the published tables are
(Du et al. 2023, Sec. 3.4), of student and teacher of the same seeds. Every model of a task sees the
same replicates of `bootstrap`, so differences are paired.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import UserError
from compress.reporting import metrics
from compress.study import bootstrap
from compress.study.results import Row, hits_of

Array = NDArray[np.float64]
BASELINE = "vanilla"
MOST_LOST = 0.02


@dataclass(frozen=True)
class Estimate:
    """A figure: point estimate, sample standard deviation over seeds (None with one), 95 % interval."""

    value: float
    sd: float | None
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Figures:
    """Figures of one model: a value for each seed, the value of the means, and R replicates."""

    by_seed: Mapping[int, float]
    value: float
    replicates: Array

    def estimate(self) -> Estimate:
        """Summarise."""
        known = [v for v in self.by_seed.values() if np.isfinite(v)]
        sd = float(np.std(known, ddof=1)) if len(known) > 1 else None
        return Estimate(self.value, sd, *bootstrap.interval(self.replicates))

    def minus(self, other: "Figures") -> "Figures":
        """The paired difference: by seed where both have the seed, and replicate by replicate."""
        common = {s: v - other.by_seed[s] for s, v in self.by_seed.items() if s in other.by_seed}
        return Figures(common, self.value - other.value, self.replicates - other.replicates)


class Model:
    """One model of a task over its seeds: the teacher, or a compression x mitigation."""

    def __init__(self, rows: Sequence[Row], draws: bootstrap.Draws, seeds: Sequence[int]) -> None:
        """rows: of this model only; seeds: all of the task, by their position in the draws."""
        self.rows = [row for row in rows if not row["subset"]]
        self.subsets = [row for row in rows if row["subset"]]
        self.draws, self.order = draws, list(seeds)
        self.name = (rows[0]["compression"], rows[0]["mitigation"])

    @property
    def seeds(self) -> list[int]:
        """Seeds of which there is a run."""
        return sorted({row["seed"] for row in self.rows})

    def each(self, key: str) -> list[float]:
        """A figure of the model, one for each seed that has it."""
        found = {row["seed"]: row[key] for row in self.rows if row["set"] == "dev"}
        return [float(value) for value in found.values() if value is not None]

    @cached_property
    def sets(self) -> dict[str, Figures]:
        """Accuracy on dev and on each OOD set (`ood_<name>`), by name."""
        out = {}
        for name in sorted({row["set"] for row in self.rows}):
            rows = [row for row in self.rows if row["set"] == name]
            by_seed = {row["seed"]: row["accuracy"] for row in rows}
            hits = {self.order.index(row["seed"]): hits_of(row) for row in rows}
            replicates = bootstrap.accuracy(self.draws, name, hits)
            out[name] = Figures(by_seed, float(np.mean(list(by_seed.values()))), replicates)
        return out

    @cached_property
    def ood(self) -> Figures:
        """Accuracy over the pooled samples of all OOD sets."""
        sizes = {row["set"]: row["samples"] for row in self.rows if row["set"] != "dev"}
        total = sum(sizes.values())
        parts = [(self.sets[name], size / total) for name, size in sizes.items()]
        by_seed = {s: sum(f.by_seed[s] * w for f, w in parts) for s in self.seeds}
        replicates = np.sum([figures.replicates * w for figures, w in parts], axis=0)
        return Figures(by_seed, sum(figures.value * w for figures, w in parts), replicates)

    @cached_property
    def delta(self) -> Figures:
        """Delta = (dev - OOD) / dev."""
        dev, ood = self.sets["dev"], self.ood
        by_seed = {s: metrics.delta(dev.by_seed[s], ood.by_seed[s]) for s in self.seeds}
        return Figures(
            by_seed,
            metrics.delta(dev.value, ood.value),
            (dev.replicates - ood.replicates) / dev.replicates,
        )

    def f_bias(self, teacher: "Model") -> Figures | None:
        """Delta over the teacher's, of the same seeds; None where the teacher loses nothing."""
        ours, base = self.delta, teacher if self.seeds == teacher.seeds else teacher.only(self.seeds)
        below = base.delta
        if below.value <= 0:
            return None
        by_seed = {s: ours.by_seed[s] / d for s, d in below.by_seed.items() if d > 0}
        with np.errstate(divide="ignore", invalid="ignore"):
            replicates = np.where(below.replicates > 0, ours.replicates / below.replicates, np.nan)
        return Figures(by_seed, ours.value / below.value, replicates)

    def only(self, seeds: Sequence[int]) -> "Model":
        """The same model with these seeds."""
        rows = [row for row in (*self.rows, *self.subsets) if row["seed"] in seeds]
        return Model(rows, self.draws, self.order)

    @property
    def vanished(self) -> bool:
        """Whether with any seed it has stopped predicting a class."""
        return any(row["vanished"] for row in self.rows)


@dataclass(frozen=True)
class Task:
    """All models of a task: the teacher, and students in the order of the study."""

    name: str
    teacher: Model
    students: list[Model]

    def baseline(self, model: Model) -> Model | None:
        """The vanilla student of the same compression, None for itself or if there is none."""
        same = [s for s in self.students if s.name == (model.name[0], BASELINE)]
        return same[0] if same and same[0].name != model.name else None

    def versus(self, model: Model) -> dict[str, Estimate]:
        """Difference to vanilla of the same seeds: dev, ood, f_bias where there is one, gap."""
        other = self.baseline(model)
        shared = [s for s in model.seeds if other is not None and s in other.seeds]
        if other is None or not shared:
            return {}
        ours, theirs = (m if m.seeds == shared else m.only(shared) for m in (model, other))
        pairs = {
            "dev": (ours.sets["dev"], theirs.sets["dev"]),
            "ood": (ours.ood, theirs.ood),
            "f_bias": (ours.f_bias(self.teacher), theirs.f_bias(self.teacher)),
        }
        return {k: a.minus(b).estimate() for k, (a, b) in pairs.items() if a and b}

    @property
    def at_chance(self) -> list[str]:
        """OOD sets on which the teacher is at chance, with any seed."""
        return sorted({row["set"] for row in self.teacher.rows if row["at_chance"]})

    def collapsed(self, model: Model) -> list[str]:
        """Why a reader must not believe the model's F_bias, as words for a mark; empty if nothing."""
        words = ["a class vanished"] if model.vanished else []
        other = self.baseline(model)
        if other and model.sets["dev"].value < other.sets["dev"].value - MOST_LOST:
            words.append("dev more than 2 points below vanilla")
        return words


def _sizes(task: str, rows: Iterable[Row]) -> dict[str, int]:
    """Samples of each set; UserError if two runs were evaluated on different data."""
    sizes: dict[str, int] = {}
    for row in rows:
        if not row["subset"] and sizes.setdefault(row["set"], row["samples"]) != row["samples"]:
            raise UserError(
                f"{task}: {row['set']} has {sizes[row['set']]} samples in one run and {row['samples']} "
                "in another; results of different data cannot stand in one table."
            )
    return sizes


def tasks(rows: Iterable[Row], replicates: int = bootstrap.REPLICATES) -> list[Task]:
    """Group the rows of a study by task and model, with one set of replicates for each task."""
    every: dict[str, list[Row]] = {}
    for row in rows:
        every.setdefault(row["task"], []).append(row)
    out = []
    for name, found in every.items():
        seeds = sorted({row["seed"] for row in found})
        sizes = _sizes(name, found)
        draws = bootstrap.draw(sizes, len(seeds), replicates)
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in found:
            groups.setdefault((row["role"], row["compression"], row["mitigation"]), []).append(row)
        models = {key: Model(group, draws, seeds) for key, group in groups.items()}
        teacher = next(model for key, model in models.items() if key[0] == "teacher")
        out.append(Task(name, teacher, [m for key, m in models.items() if key[0] == "student"]))
    return out
