"""From rows to estimates: mean, spread over seeds, bootstrap interval, difference to vanilla.

Accuracies are means over seeds; F_bias is that of the mean accuracies, as the published tables are
(Du et al. 2023, Sec. 3.4), of student and teacher of the same seeds; another figure takes the place of
the accuracy in both where the runs say so (`evaluation.metric`). Every model of a task sees the same
replicates of `bootstrap`, so differences are paired.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from compress.scoring import bias, bootstrap, evaluation, measures, metrics
from compress.scoring.measures import Answers
from compress.study import comparable
from compress.study.comparable import Part
from compress.study.figures import Estimate, Figures
from compress.study.result_rows import Row, answers_of, hits_of

Array = NDArray[np.float64]
Interval = tuple[float, float]
BASELINE = "vanilla"


class Model:
    """One model of a task over its seeds: the teacher, or a compression x mitigation."""

    def __init__(self, rows: pd.DataFrame, draws: bootstrap.Draws, seeds: Sequence[int]) -> None:
        """rows: of this model only; seeds: all of the task, by their position in the draws."""
        self.rows, self.draws, self.order = rows, draws, list(seeds)
        self.name = (rows["compression"].iloc[0], rows["mitigation"].iloc[0])

    @property
    def seeds(self) -> list[int]:
        """Seeds of which there is a run."""
        return sorted(self.rows["seed"].unique().tolist())

    def by_seed(self, key: str) -> dict[int, float]:
        """A figure of the model by seed, of those that have it."""
        found = self.rows.groupby("seed", sort=False)[key].last().dropna()
        return {int(seed): float(value) for seed, value in found.items()}

    def each(self, key: str) -> list[float]:
        """A figure of the model, one for each seed that has it."""
        return list(self.by_seed(key).values())

    @cached_property
    def hits(self) -> dict[Part, dict[int, NDArray[np.bool_]]]:
        """For each set and subset by the seed's position whether each sample was right, [N]."""
        return {
            part: {self.order.index(row["seed"]): hits_of(row) for row in rows.to_dict("records")}
            for part, rows in self.rows.groupby(["set", "subset"], sort=False)
        }

    @property
    def metric(self) -> str:
        """What Delta is taken of, by its name in `measures`."""
        found = self.rows["metric"].iloc[0]
        return found if isinstance(found, str) else measures.ACCURACY

    @cached_property
    def answers(self) -> dict[str, dict[int, Answers]]:
        """For each set by the seed's position the classes, where the runs have kept them."""
        whole = self.rows[self.rows["subset"] == ""]
        return {
            name: {self.order.index(row["seed"]): answers_of(row) for row in rows.to_dict("records")}
            for name, rows in whole.groupby("set", sort=False)
        }

    @cached_property
    def measured(self) -> dict[str, Figures]:
        """What Delta is taken of, on each whole set."""
        if self.metric == measures.ACCURACY:
            return {name: figures for (name, subset), figures in self.parts.items() if not subset}
        out = {}
        for name, answers in self.answers.items():
            values = {n: answers[n].value(self.metric) for n in sorted(answers)}
            observed = np.array(list(values.values()))
            each = self._over_samples(name)
            replicates = bootstrap.over_seeds(self.draws, list(values), each, observed)
            by_seed = {self.order[n]: value for n, value in values.items()}
            out[name] = Figures(by_seed, float(observed.mean()), replicates)
        return out

    def _over_samples(self, name: str) -> Array:
        """What Delta is taken of, on a whole set, over drawn samples for each seed, [R, S]."""
        if self.metric == measures.ACCURACY:
            return bootstrap.over_samples(self.draws, (name, ""), self.hits[name, ""])
        answers = self.answers[name]
        classes = max(one.classes for one in answers.values())
        cells = {n: one.gold * classes + one.predicted for n, one in answers.items()}
        return bootstrap.over_sample_tables(
            self.draws, (name, ""), cells, classes, partial(metrics.of_tables, self.metric)
        )

    @cached_property
    def parts(self) -> dict[Part, Figures]:
        """Accuracy on each set and subset."""
        out = {}
        for part, rows in self.rows.groupby(["set", "subset"], sort=False):
            by_seed = dict(zip(rows["seed"].tolist(), rows["accuracy"].tolist(), strict=True))
            replicates = bootstrap.accuracy(self.draws, part, self.hits[part])
            out[part] = Figures(by_seed, float(np.mean(list(by_seed.values()))), replicates)
        return out

    @property
    def dev(self) -> Figures:
        """Accuracy on dev."""
        return self.parts["dev", ""]

    @property
    def ood_sets(self) -> list[str]:
        """Names of the OOD sets, in order."""
        return sorted({name for name, _ in self.parts} - {"dev"})

    def pool(self, names: Sequence[str] | None = None) -> Figures:
        """Accuracy over the pooled samples of some OOD sets (default: all), each as its whole set."""
        return self._pooled({name: self.parts[name, ""] for name in self.ood_sets}, names)

    def measured_pool(self, names: Sequence[str] | None = None) -> Figures:
        """What Delta is taken of, over some OOD sets (default: all), weighted as in `pool`."""
        return self._pooled(self.measured, names)

    def _pooled(self, figures_of: Mapping[str, Figures], names: Sequence[str] | None) -> Figures:
        shares = self._shares(names)
        parts = [(figures_of[name], share) for name, share in shares.items()]
        by_seed = {s: sum(f.by_seed[s] * w for f, w in parts) for s in self.seeds}
        replicates = np.sum([figures.replicates * w for figures, w in parts], axis=0)
        return Figures(by_seed, sum(figures.value * w for figures, w in parts), replicates)

    def _shares(self, names: Sequence[str] | None) -> dict[str, float]:
        """The weight of each of some OOD sets (default: all) in their pool: its whole size.

        Raises ValueError where there is none: then pooled accuracy, Delta and F_bias do not exist.
        """
        whole = self.rows[self.rows["subset"] == ""]
        sizes = dict(zip(whole["set"], whole["set_size"].tolist(), strict=True))
        chosen = self.ood_sets if names is None else names
        if not chosen:
            raise ValueError(bias.NO_OOD)
        total = sum(sizes[name] for name in chosen)
        return {name: sizes[name] / total for name in chosen}

    @cached_property
    def gap(self) -> Figures | None:
        """Accuracy on the easy less that on the hard dev samples; None where one kind is missing."""
        halves = [self.parts.get(("dev", half)) for half in ("easy", "hard")]
        return halves[0].minus(halves[1]) if halves[0] and halves[1] else None

    def alone(self, other: "Model") -> Figures:
        """Share of dev that this model gets right and the other wrong, of the seeds that both have."""
        mine, others = self.hits["dev", ""], other.hits["dev", ""]
        hits = {n: right & ~others[n] for n, right in mine.items() if n in others}
        by_seed = {self.order[n]: metrics.accuracy(found) for n, found in hits.items()}
        replicates = bootstrap.accuracy(self.draws, ("dev", ""), hits)
        return Figures(by_seed, float(np.mean(list(by_seed.values()))), replicates)

    def delta(self, names: Sequence[str] | None = None) -> Figures:
        """Delta = (dev - OOD) / dev (Du et al. 2023, Sec. 3.4); names: OOD sets (default: all).

        NaN for a seed, and in a replicate, whose dev is not above 0, as another figure than the
        accuracy may be; NaN altogether where the mean over the seeds is not.
        """
        dev, ood = self.measured["dev"], self.measured_pool(names)
        by_seed = {s: float(_deltas(value, ood.by_seed[s])) for s, value in dev.by_seed.items()}
        if dev.value <= 0:
            return Figures(by_seed, np.nan, np.full_like(dev.replicates, np.nan))
        replicates = _deltas(dev.replicates, ood.replicates)
        return Figures(by_seed, metrics.delta(dev.value, ood.value), replicates)

    def f_bias(self, teacher: "Model", names: Sequence[str] | None = None) -> Figures | None:
        """Delta over the teacher's, of the same seeds; None where `f_bias_reason` says why.

        A seed whose own teacher has no Delta above 0 beyond chance has none either. names: OOD sets to
        pool (default: all).
        """
        base = teacher.only(self.seeds)
        if self.f_bias_reason(teacher, names) is not None:
            return None
        return _ratio(self.delta(names), base.delta(names), base.delta_over_samples(names)[0])

    def f_bias_reason(self, teacher: "Model", names: Sequence[str] | None = None) -> str | None:
        """Why the ratio to this teacher says nothing, by the rule of a single run; None if it does."""
        if not (self.ood_sets if names is None else names):
            return bias.NO_OOD
        base = teacher.only(self.seeds)
        interval = bias.known(base.delta_over_samples(names)[1])
        what = None if self.metric == measures.ACCURACY else measures.NAMES[self.metric]
        delta = base.delta(names).value
        why = bias.reason(None if np.isnan(delta) else delta, interval, what)
        if why is None and self.measured["dev"].value <= 0:
            return bias.nothing("student", what)
        return why

    def delta_difference(self, teacher: "Model", names: Sequence[str] | None = None) -> Figures:
        """Delta less that of the teacher, of the same seeds."""
        return self.delta(names).minus(teacher.only(self.seeds).delta(names))

    def delta_over_samples(
        self, names: Sequence[str] | None = None
    ) -> tuple[dict[int, Interval], Interval]:
        """95 % interval of Delta over the samples alone: of each seed, and of the mean accuracies."""
        over = {name: self._over_samples(name) for name in ("dev", *self._shares(names))}
        dev = over["dev"]
        ood = np.sum([over[name] * share for name, share in self._shares(names).items()], axis=0)
        each, mean = _deltas(dev, ood), _deltas(dev.mean(axis=1), ood.mean(axis=1))
        of_seeds = sorted(self.seeds, key=self.order.index)
        by_seed = {seed: bootstrap.interval(each[:, n]) for n, seed in enumerate(of_seeds)}
        return by_seed, bootstrap.interval(mean)

    def only(self, seeds: list[int]) -> "Model":
        """The same model with these seeds."""
        return (
            self
            if seeds == self.seeds
            else Model(self.rows[self.rows["seed"].isin(seeds)], self.draws, self.order)
        )

    @property
    def vanished(self) -> bool:
        """Whether with any seed it has stopped predicting a class."""
        return bool(self.rows["vanished"].any())


@dataclass(frozen=True)
class Task:
    """All models of a task: the teacher, and students in the order of the study.

    others: teachers that were trained with another loss; what students are compared with is `teacher`.
    """

    name: str
    teacher: Model
    students: list[Model]
    others: list[Model] = field(default_factory=list)

    @property
    def models(self) -> list[Model]:
        """The teacher, those of other losses, and all students."""
        return [*self.teachers, *self.students]

    @property
    def teachers(self) -> list[Model]:
        """The teacher, and those of other losses."""
        return [self.teacher, *self.others]

    def of_difficulty(self, key: str) -> list[float]:
        """A figure of the difficulty, one for each seed; of the first teacher whose runs have one."""
        return next(filter(None, (model.each(key) for model in self.teachers)), [])

    @property
    def difficulty_seconds(self) -> list[float]:
        """Seconds of each difficulty: teachers of a seed share one, but where it starts from them."""
        found = [model.by_seed("difficulty_seconds").items() for model in self.teachers]
        return [seconds for _, seconds in dict.fromkeys(pair for items in found for pair in items)]

    def baseline(self, model: Model) -> Model | None:
        """The vanilla student of the same compression, None for itself or if there is none."""
        same = [s for s in self.students if s.name == (model.name[0], BASELINE)]
        return same[0] if same and same[0].name != model.name else None

    def versus(self, model: Model, names: Sequence[str] | None = None) -> dict[str, Estimate]:
        """Difference to vanilla of the same seeds: dev, ood, delta, f_bias, gap, and each OOD set.

        names: OOD sets of ood, delta and f_bias (default: all), which are left out without an OOD set.
        Empty where there is no vanilla.
        """
        pair = self.pair(model)
        if pair is None:
            return {}
        own, vanilla = pair
        pairs: dict[str, tuple[Figures | None, Figures | None]] = {"dev": (own.dev, vanilla.dev)}
        if own.ood_sets:
            pairs |= {
                "ood": (own.pool(names), vanilla.pool(names)),
                "delta": (own.delta(names), vanilla.delta(names)),
                "f_bias": (own.f_bias(self.teacher, names), vanilla.f_bias(self.teacher, names)),
            }
        pairs |= {name: (own.parts[name, ""], vanilla.parts[name, ""]) for name in own.ood_sets}
        pairs["gap"] = (own.gap, vanilla.gap)
        return {k: a.minus(b).estimate() for k, (a, b) in pairs.items() if a and b}

    def pair(self, model: Model) -> tuple[Model, Model] | None:
        """The model and its vanilla with the seeds that both have; None if there are none."""
        other = self.baseline(model)
        shared = [s for s in model.seeds if other is not None and s in other.seeds]
        if other is None or not shared:
            return None
        return model.only(shared), other.only(shared)

    @property
    def measure(self) -> str:
        """What Delta and F_bias are taken of; empty for the accuracy."""
        found = self.teacher.metric
        return "" if found == measures.ACCURACY else measures.NAMES[found]

    @property
    def data(self) -> str:
        """The data's own name, which published numbers go by; `name` is that of the task's file."""
        return str(self.teacher.rows["data"].iloc[0])

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Of dev and each OOD set, how many samples were scored and how many the whole set has."""
        rows = self.teacher.rows[self.teacher.rows["subset"] == ""]
        found = rows[["set", "samples", "set_size"]].itertuples(index=False, name=None)
        return {name: (samples, whole) for name, samples, whole in found}

    @property
    def chance(self) -> str:
        """What a teacher must be above, as in a run's own report (`scoring.chance`)."""
        return "chance" if self.measure else "the majority class"

    @property
    def at_chance(self) -> list[str]:
        """OOD sets on which the teacher is at chance, with any seed."""
        return sorted(self.teacher.rows.loc[self.teacher.rows["at_chance"], "set"].unique())

    @property
    def above_chance(self) -> list[str]:
        """OOD sets on which the teacher is above chance with every seed: where F_bias counts."""
        return [name for name in self.teacher.ood_sets if name not in self.at_chance]

    def without_vanilla(self, model: Model) -> list[int]:
        """Seeds of the model of which there is no vanilla; none for vanilla itself."""
        other = self.baseline(model)
        known = model.seeds if model.name[1] == BASELINE else other.seeds if other else []
        return [seed for seed in model.seeds if seed not in known]

    def collapsed(self, model: Model) -> list[str]:
        """Reasons not to believe the model's F_bias; empty if there are none.

        Dev is compared with vanilla of the same compression and seed; vanilla itself and a seed without
        vanilla with the teacher, as in a run's own report.
        """
        reasons = ["a class vanished"] if model.vanished else []
        other = self.baseline(model)
        vanilla = other.measured["dev"].by_seed if other is not None else {}
        own, whole = model.measured["dev"].by_seed, self.teacher.measured["dev"].by_seed
        teacher = {s: v for s, v in whole.items() if s not in vanilla}
        dev = f"dev{f' {self.measure}' if self.measure else ''}"
        for name, usual in (("vanilla", vanilla), ("the teacher", teacher)):
            lost = [usual[s] - value for s, value in own.items() if s in usual]
            if lost and max(lost) > evaluation.MOST_LOST:
                every = len(lost) == len(model.seeds) and np.mean(lost) > evaluation.MOST_LOST
                reasons.append(f"{dev} more than 2 points below {name}" + " with a seed" * (not every))
        return reasons


def _deltas(dev: Array | float, ood: Array | float) -> Array:
    """Delta of each pair of figures; NaN where dev is not above 0."""
    known = np.where(np.asarray(dev) > 0, dev, np.nan)
    return (known - ood) / known


def _ratio(student: Figures, teacher: Figures, intervals: Mapping[int, Interval]) -> Figures:
    """F_bias from two Deltas; replicates in which the teacher loses nothing are unknown.

    intervals: of the teacher's Delta over the samples, by seed.
    """
    kept = {s: d for s, d in teacher.by_seed.items() if bias.above_zero(intervals[s])}
    by_seed = {s: student.by_seed[s] / d for s, d in kept.items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = np.where(teacher.replicates > 0, student.replicates / teacher.replicates, np.nan)
    return Figures(by_seed, student.value / teacher.value, replicates)


def _has_own_loss(teacher: Model) -> bool:
    return bool(teacher.name[0])


def tasks(rows: Iterable[Row], replicates: int = bootstrap.REPLICATES) -> list[Task]:
    """Group the rows of a study by task and model, with one set of replicates for each task.

    Tasks with as many seeds draw the same ones, so a mean over tasks is that of whole seeds.
    """
    out = []
    for name, found in pd.DataFrame(list(rows)).groupby("task", sort=False):
        seeds = sorted(found["seed"].unique().tolist())
        comparable.check_metric(name, found)
        sizes = comparable.sizes(name, found)
        comparable.check_settings(name, found)
        draws = bootstrap.draw(sizes, len(seeds), replicates)
        models = [
            (role, Model(group, draws, seeds))
            for (role, *_), group in found.groupby(["role", "compression", "mitigation"], sort=False)
        ]
        students = [model for role, model in models if role == "student"]
        teacher, *others = sorted((m for role, m in models if role == "teacher"), key=_has_own_loss)
        out.append(Task(name, teacher, students, others))
    return out
