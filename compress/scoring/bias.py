"""Relative bias of one run with its uncertainty: Delta of both models, their difference, F_bias.

The intervals are those of a paired bootstrap over the samples of dev and of each OOD set (Efron and
Tibshirani 1993, Ch. 10); models and seed stay as they are. F_bias is a ratio to the teacher's Delta:
where the interval of that includes 0, the ratio says nothing and is not given (Fieller 1954).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.reporting import numbers
from compress.scoring import bootstrap, metrics

Hits = Mapping[str, NDArray[np.bool_]]
Interval = tuple[float, float]
Pair = tuple[NDArray[np.float64], NDArray[np.float64]]
SEED = 0
NO_OOD = "there is no OOD set"
"""Why there is no F_bias then."""


@dataclass(frozen=True)
class Replicates:
    """Delta of teacher and student in R draws of samples, [R] each; NaN where dev accuracy is 0."""

    teacher: NDArray[np.float64]
    student: NDArray[np.float64]


def draw(
    teacher: Hits,
    student: Hits,
    sizes: Mapping[str, int],
    replicates: int = bootstrap.PAIRED_REPLICATES,
) -> Replicates:
    """Delta of both models in each replicate; see `accuracies`."""
    return deltas(accuracies(teacher, student, sizes, replicates))


def accuracies(
    first: Hits, second: Hits, sizes: Mapping[str, int], replicates: int = bootstrap.PAIRED_REPLICATES
) -> dict[str, Pair]:
    """Accuracies of two models in each replicate, [R] each: of every set, and `ood_pooled`.

    first, second: whether each sample was right, `dev` [N] and one entry for each OOD set; sizes: of
    the whole OOD sets, by which their accuracies are pooled; without one `ood_pooled` is NaN.
    """
    generator = np.random.default_rng(SEED)
    found = {
        name: bootstrap.paired(first[name], second[name], generator, replicates)
        for name in ("dev", *sizes)
    }
    return with_pool(found, sizes, replicates)


def with_pool(found: Mapping[str, Pair], sizes: Mapping[str, int], replicates: int) -> dict[str, Pair]:
    """Figures of two models by set, [R] each, with `ood_pooled`: the mean weighted by the sizes.

    NaN without an OOD set.
    """
    start = np.zeros(replicates) if sizes else np.full(replicates, np.nan)
    total, pooled = sum(sizes.values()), (start, start)
    for name, size in sizes.items():
        one, two = (acc * size / total for acc in found[name])
        pooled = (pooled[0] + one, pooled[1] + two)
    return {**found, "ood_pooled": pooled}


def deltas(drawn: Mapping[str, Pair]) -> Replicates:
    """Delta of both models from their accuracies in each replicate."""
    known_dev = [np.where(d > 0, d, np.nan) for d in drawn["dev"]]
    return Replicates(*((d - o) / d for d, o in zip(known_dev, drawn["ood_pooled"], strict=True)))


def figures(
    teacher: tuple[float, float | None],
    student: tuple[float, float | None],
    drawn: Replicates,
    what: str | None = None,
) -> dict[str, Any]:
    """What metrics.json says of the bias; teacher, student: (acc_dev, acc_ood); intervals of 95 %.

    what: the name of the figure if it is another than the accuracy.

    `delta_interval` of each model, `delta_difference` (student less teacher), `f_bias` and its
    interval, and why where it is None. Without an OOD set acc_ood is None, and so is all of that.
    """
    out: dict[str, Any] = {"teacher": {}, "student": {}, "delta_difference": None}
    out |= {"f_bias": None, "f_bias_interval": None}
    if teacher[1] is None or student[1] is None:
        empty: dict[str, Any] = {"delta_interval": None}
        return out | {"teacher": empty, "student": dict(empty), "f_bias_reason": NO_OOD}
    return out | _known_figures((teacher[0], teacher[1]), (student[0], student[1]), drawn, what)


def _known_figures(
    teacher: tuple[float, float], student: tuple[float, float], drawn: Replicates, what: str | None
) -> dict[str, Any]:
    """`figures` where there is an OOD set, but for what stays None."""
    out: dict[str, Any] = {"teacher": {}, "student": {}}
    for role in ("teacher", "student"):
        out[role]["delta_interval"] = known(bootstrap.interval(getattr(drawn, role)))
    deltas = [metrics.delta(*pair) if pair[0] > 0 else None for pair in (student, teacher)]
    if deltas[0] is not None and deltas[1] is not None:
        apart = known(bootstrap.interval(drawn.student - drawn.teacher))
        out["delta_difference"] = {"value": deltas[0] - deltas[1], "interval": apart}
    out["f_bias_reason"] = reason(deltas[1], out["teacher"]["delta_interval"], what)
    if out["f_bias_reason"] is None and deltas[0] is None:
        out["f_bias_reason"] = nothing("student", what)
    if out["f_bias_reason"] is None:
        out["f_bias"] = metrics.relative_bias(student, teacher)
        ratio = np.full_like(drawn.teacher, np.nan)
        np.divide(drawn.student, drawn.teacher, out=ratio, where=drawn.teacher > 0)
        out["f_bias_interval"] = known(bootstrap.interval(ratio))
    return out


def known(interval: Interval) -> list[float] | None:
    """The two bounds for JSON, None where they are unknown."""
    return list(interval) if np.isfinite(interval).all() else None


def above_zero(interval: tuple[float, float] | list[float] | None) -> bool:
    """Whether the interval of a teacher's Delta lies above 0, so that a ratio to it is defined."""
    return interval is not None and interval[0] > 0


def nothing(who: str, what: str | None) -> str:
    """Why a model has no Delta: its accuracy on dev, or what stands for it, is not above 0."""
    return (
        f"the {who} gets nothing right on dev"
        if what is None
        else f"the {who}'s {what} on dev is not above 0"
    )


def reason(delta: float | None, interval: list[float] | None, what: str | None = None) -> str | None:
    """Why there is no F_bias beside a teacher's Delta with its interval; None where there is one.

    what: the name of the figure if it is another than the accuracy.
    """
    if delta is None:
        return f"{nothing('teacher', what)}, so it has no Delta"
    text = (
        f"Delta {numbers.number(delta)}" if what is None else f"Delta of {what} {numbers.number(delta)}"
    )
    if interval is not None:
        low, high = map(numbers.number, interval)
        text += f", 95 % interval over the samples {low} to {high}"
    if delta <= 0:
        return (
            f"the teacher is no worse on OOD than on dev ({text}), so there is no bias to compare with"
        )
    if not above_zero(interval):
        return (
            f"the teacher is not worse on OOD than on dev beyond chance ({text}), so a ratio to its "
            "Delta says nothing"
        )
    return None
