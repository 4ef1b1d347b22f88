"""Figures of merit: accuracy, relative bias and the area under the ROC curve.

Relative bias (Du et al. 2023, Sec. 3.4): `Delta = (acc_dev - acc_ood) / acc_dev` and
`F_bias = Delta_compressed / Delta_teacher`; above 1 the compressed model is more biased than its
teacher. With several OOD sets acc_ood is the accuracy over their pooled samples; a set
that is scored in part counts as the whole one.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def accuracy(correct: NDArray[np.bool_]) -> float:
    """Mean of a boolean array [N], as a fraction."""
    return float(np.mean(correct))


def pooled(accuracies: Mapping[str, float], sizes: Mapping[str, int]) -> float:
    """Accuracy over the pooled samples of several sets: the mean weighted by their sizes."""
    total = sum(sizes[name] for name in accuracies)
    return sum(accuracies[name] * sizes[name] for name in accuracies) / total


def delta(acc_dev: float, acc_ood: float) -> float:
    """Relative loss of accuracy from dev to OOD, `(acc_dev - acc_ood) / acc_dev`."""
    return (acc_dev - acc_ood) / acc_dev


def relative_bias(student: tuple[float, float], teacher: tuple[float, float]) -> float | None:
    """F_bias of a student: both arguments are (acc_dev, acc_ood).

    None where the teacher loses nothing out of distribution (Delta <= 0): the ratio says nothing. Nor
    does it where that Delta is not above 0 beyond chance, which `bias` tells from the samples.
    """
    if min(student[0], teacher[0]) <= 0 or delta(*teacher) <= 0:
        return None
    return delta(*student) / delta(*teacher)


def auroc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float | None:
    """Probability that a positive sample scores above a negative one, ties counted half.

    scores [N], positive [N]; None if one class is missing. Mann-Whitney U over ranks.
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    u = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(u / (n_positive * n_negative))
