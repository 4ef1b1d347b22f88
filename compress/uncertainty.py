"""Sample difficulty from the variance of the loss over pruned sub-networks (pure arithmetic).

`v_i` is the variance of sample i's loss over n sub-networks of different sparsity; difficulty
(Eq. 1) `d_i = alpha + (1 - alpha) (v_i - Vmin) / (Vmax - Vmin)`, 1 is the hardest. Source: Du et al.
2023, Sec. 5.1. `quantile` clips v first, because a few outliers squash the min-max range.
"""

import numpy as np
from numpy.typing import NDArray

from compress.reporting.metrics import auroc

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


def hard_half(v: Array) -> NDArray[np.bool_]:
    """True [N] for the samples above the median variance: the hard half of a set."""
    return v > np.median(v)


def agreement(v: Array, truth: NDArray[np.str_] | None) -> float | None:
    """AUROC of the variance against the ground truth `conflicting`; None where it is unknown."""
    return None if truth is None else auroc(v, truth == "conflicting")
