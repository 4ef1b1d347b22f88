"""Figures of merit: accuracy, relative bias and the area under the ROC curve.

Relative bias (Du et al. 2023, Sec. 3.4): `Delta = (acc_dev - acc_ood) / acc_dev` and
`F_bias = Delta_compressed / Delta_teacher`; above 1 the compressed model is more biased than its
teacher. Another figure may stand in for the accuracy (`measures`). With several OOD sets acc_ood is the
accuracy over their pooled samples; a set that is scored in part counts as the whole one.
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


def confusion(
    predicted: NDArray[np.integer], gold: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    """How many samples of each gold class (rows) are predicted as each class, [C, C]; classes: C."""
    places = gold.astype(np.int64) * classes + predicted
    return np.bincount(places, minlength=classes**2).reshape(classes, classes)


def of_tables(name: str, tables: NDArray[np.integer]) -> NDArray[np.float64]:
    """A figure of confusion tables [..., C, C] of at least one sample each, [...].

    accuracy; macro_f1: mean F1 of the classes that occur in gold, as scikit-learn's of these labels;
    balanced_accuracy: their mean recall; matthews: correlation of predicted and gold classes, 0 if one
    of them is constant (Gorodkin 2004). A rare class counts as a frequent one in the last three.
    """
    counts = tables.astype(np.float64)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    golds, found, size = counts.sum(axis=-1), counts.sum(axis=-2), counts.sum(axis=(-2, -1))
    right, occurs = hits.sum(axis=-1), golds > 0
    if name == "accuracy":
        return right / size
    if name == "matthews":
        spread = np.sqrt((size**2 - (golds**2).sum(axis=-1)) * (size**2 - (found**2).sum(axis=-1)))
        apart = right * size - (golds * found).sum(axis=-1)
        return np.divide(apart, spread, out=np.zeros_like(size), where=spread > 0)
    above, below = {"macro_f1": (2 * hits, golds + found), "balanced_accuracy": (hits, golds)}[name]
    each = np.divide(above, below, out=np.zeros_like(hits), where=occurs)
    return each.sum(axis=-1) / occurs.sum(axis=-1)


BY_CLASS = ("macro_f1", "balanced_accuracy", "matthews")
"""Figures in which a rare class counts as a frequent one."""


def by_class(predicted: NDArray[np.integer], gold: NDArray[np.integer]) -> dict[str, float]:
    """The figures `BY_CLASS` of one model on one set; predicted, gold: classes [N]."""
    table = confusion(predicted, gold, int(max(predicted.max(), gold.max())) + 1)
    return {name: float(of_tables(name, table)) for name in BY_CLASS}


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
