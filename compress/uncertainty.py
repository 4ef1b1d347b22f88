"""Sample difficulty from the variance of the loss over pruned sub-networks (pure arithmetic).

`v_i` is the variance of sample i's loss over n sub-networks of different sparsity; difficulty
(Eq. 1) `d_i = alpha + (1 - alpha) (v_i - Vmin) / (Vmax - Vmin)`, 1 is the hardest. Source: Du et al.
2023, Sec. 5.1. `quantile` clips v first, because a few outliers squash the min-max range.
"""

import numpy as np
from numpy.typing import NDArray

from compress.scoring.metrics import auroc

Array = NDArray[np.float64]


def variance(losses: NDArray[np.floating]) -> Array:
    """Population variance of the loss over the sub-networks: losses [N, T] -> v [N]."""
    return np.asarray(losses, dtype=np.float64).var(axis=1)


def difficulty(v: Array, alpha: float, normalisation: str = "minmax", quantile: float = 0.95) -> Array:
    """Eq. 1: variance v [N] -> d [N] in [alpha, 1].

    normalisation: "minmax" (as printed) or "quantile" (v clipped at its `quantile` before Eq. 1).
    If all v are equal no sample is harder than another, and all get alpha.
    """
    if normalisation == "quantile":
        v = np.minimum(v, np.quantile(v, quantile))
    low, high = v.min(), v.max()
    if high == low:
        return np.full_like(v, alpha)
    return alpha + (1 - alpha) * ((v - low) / (high - low))


def mistakes(probabilities: NDArray[np.floating], labels: NDArray[np.int64], upweight: float) -> Array:
    """Difficulty in just train twice (Liu et al. 2021): 1 for an error, else 1 / upweight.

    probabilities [N, C] of the first model, labels [N] -> d [N]. Source: Du et al. 2023, Sec. 6.2.
    """
    return np.where(probabilities.argmax(axis=1) == labels, 1 / upweight, 1.0)


def ceiling(d: Array, max_weight: float) -> float:
    """The largest difficulty c of a sample at which min(d, c) / mean(min(d, c)) <= max_weight.

    d [N] above 0, max_weight >= 1: no sample then weighs more than max_weight times the mean.
    """
    ordered = np.sort(d)
    rest = np.arange(len(d) - 1, -1, -1)
    means = (np.cumsum(ordered) + rest * ordered) / len(d)
    return float(ordered[ordered <= max_weight * means * (1 + 1e-12)].max())


def relative_gap(easy: float, hard: float) -> float:
    """Relative loss of accuracy from the easy to the hard half, (easy - hard) / easy."""
    return (easy - hard) / easy if easy else 1.0


def hard_half(v: Array) -> NDArray[np.bool_]:
    """True [N] for the samples above the median variance: the hard half of a set."""
    return v > np.median(v)


def cut_agreement(v: Array, hard: NDArray[np.bool_]) -> float:
    """Share of samples that variance and another split put on the same side (Du et al. 2023, Sec. 4.1).

    v [N], hard [N] of the other split; as many samples of the highest variance count as hard.
    """
    order = np.argsort(-v, kind="stable")
    highest = np.zeros(len(v), dtype=bool)
    highest[order[: int(hard.sum())]] = True
    return float((highest == hard).mean())


def agreement(v: Array, truth: NDArray[np.str_] | None) -> float | None:
    """AUROC of the variance against the ground truth `conflicting`; None where it is unknown."""
    return None if truth is None else auroc(v, truth == "conflicting")
