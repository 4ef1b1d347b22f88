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


def by_class(predicted: NDArray[np.integer], gold: NDArray[np.integer]) -> dict[str, float]:
    """Figures in which a rare class counts as a frequent one; predicted, gold: classes [N].

    macro_f1: mean F1 of the classes that occur in either; balanced_accuracy: mean recall of those in
    gold; matthews: correlation of the two, 0 if one of them is constant (Gorodkin 2004).
    """
    count = int(max(predicted.max(), gold.max())) + 1
    places = gold.astype(np.int64) * count + predicted
    table = np.bincount(places, minlength=count**2).reshape(count, count)
    hits, golds, found = table.diagonal(), table.sum(axis=1), table.sum(axis=0)
    occur = golds + found > 0
    f1 = 2 * hits[occur] / (golds + found)[occur]
    recall = hits[golds > 0] / golds[golds > 0]
    size, product = len(gold), float(golds @ found)
    spread = np.sqrt(float(size**2 - golds @ golds) * float(size**2 - found @ found))
    matthews = (float(hits.sum()) * size - product) / spread if spread else 0.0
    return {
        "macro_f1": float(f1.mean()),
        "balanced_accuracy": float(recall.mean()),
        "matthews": float(matthews),
    }


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
