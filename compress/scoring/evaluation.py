"""Evaluation: accuracies by set and subset from the class probabilities of whole splits.

OOD sets are for evaluation only: nothing here feeds back into training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.checking import MEMBER
from compress.data.splits import Split
from compress.scoring import measures, metrics
from compress.scoring.chance import Chance
from compress.scoring.measures import Answers

VANISHED = 0.1
MOST_LOST = 0.02 + 1e-9
"""What a model may lose on dev before its F_bias is doubted: two points, and rounding."""

WITHOUT_OOD = (
    "There is no OOD set: the report rests on easy and hard dev samples, subsets, and samples that the "
    "teacher gets right and the student wrong; it says nothing about data that a shortcut cannot solve."
)
"""What a run without an OOD set cannot say."""


def predicted(scores: NDArray[np.floating], split: Split) -> NDArray[np.int64]:
    """The predicted class of each sample [N], after the set's label map."""
    return np.asarray(split.groups)[scores.argmax(axis=1)]


def correct(scores: NDArray[np.floating], split: Split) -> NDArray[np.bool_]:
    """Whether the predicted class counts as the gold one [N], after the set's label map."""
    return predicted(scores, split) == split.labels


def subset_keys(split: Split) -> NDArray[np.str_]:
    """The subset of each sample [N], `value, ..., label`."""
    labels = np.array(split.names)[split.labels]
    return np.array([", ".join(parts) for parts in zip(*split.subsets.values(), labels, strict=True)])


def subgroups(split: Split) -> dict[str, NDArray[np.bool_]]:
    """Which samples [N] are of each subgroup and gold label, of those that are not empty."""
    every = {
        f"{column} >= {MEMBER}, {label}": members & (split.labels == number)
        for column, members in split.subgroups.items()
        for number, label in enumerate(split.names)
    }
    return {name: members for name, members in every.items() if members.any()}


def by_subset(hits: NDArray[np.bool_], split: Split) -> dict[str, dict[str, Any]]:
    """Accuracy and size for each subset value x gold label (for HANS: heuristic x label).

    Then for each subgroup x gold label.
    """
    keys = subset_keys(split)
    parts = {str(key): keys == key for key in np.unique(keys)} | subgroups(split)
    return {
        name: {"accuracy": metrics.accuracy(hits[members]), "samples": int(members.sum())}
        for name, members in parts.items()
    }


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of one model: dev and each OOD set."""

    dev: NDArray[np.float64]
    ood: Mapping[str, NDArray[np.float64]]


def summary(
    scores: Scores,
    dev: Split,
    ood: Mapping[str, Split],
    hard: NDArray[np.bool_] | None,
    metric: str = measures.ACCURACY,
) -> dict[str, Any]:
    """Accuracies of one model: dev, each OOD set, pooled, Delta, subsets; easy / hard half of dev.

    `measure`: of dev, the OOD sets and all of them what Delta is taken of, by metric of `measures`.
    `by_class`: of each set what `metrics.by_class` gives. Sets of which only a part is scored are
    pooled as if all of each was. Without an OOD set pooled figures and Delta are None.
    """
    found = answers(scores, dev, ood)
    every = {name: one.right for name, one in found.items()}
    hits, ood_hits = every["dev"], {name: every[f"ood_{name}"] for name in ood}
    accuracies = {name: metrics.accuracy(h) for name, h in ood_hits.items()}
    out: dict[str, Any] = {"dev": metrics.accuracy(hits), "ood": accuracies}
    sizes = {name: split.set_size for name, split in ood.items()}
    out["ood_pooled"] = metrics.pooled(accuracies, sizes) if ood else None
    own, own_ood, own_pooled = measures.values(metric, found, sizes)
    out["measure"] = {"dev": own, "ood": own_ood, "ood_pooled": own_pooled}
    out["delta"] = metrics.delta(own, own_pooled) if own > 0 and own_pooled is not None else None
    out["predicted"] = _shares(scores.dev.argmax(axis=1), dev)
    if hard is not None:
        out["dev_easy"] = metrics.accuracy(hits[~hard])
        out["dev_hard"] = metrics.accuracy(hits[hard])
    if dev.subsets or dev.subgroups:
        out["dev_subsets"] = by_subset(hits, dev)
    out["by_class"] = {n: metrics.by_class(one.predicted, one.gold) for n, one in found.items()}
    out["ood_subsets"] = {name: by_subset(ood_hits[name], split) for name, split in ood.items()}
    return out


def outcomes(scores: Scores, dev: Split, ood: Mapping[str, Split]) -> dict[str, NDArray[np.bool_]]:
    """Whether each sample is classified rightly: `dev` [N], and `ood_<name>` for each OOD set."""
    return {name: one.right for name, one in answers(scores, dev, ood).items()}


def answers(scores: Scores, dev: Split, ood: Mapping[str, Split]) -> dict[str, Answers]:
    """Classes, predicted and gold, after the sets' label maps: `dev` and `ood_<name>` of each set."""
    sets = {"dev": (scores.dev, dev)} | {f"ood_{n}": (scores.ood[n], split) for n, split in ood.items()}
    return {name: Answers(predicted(one, split), split.labels) for name, (one, split) in sets.items()}


def _shares(classes: NDArray[np.int64], split: Split) -> dict[str, float]:
    """Share of the samples in each class."""
    counts = np.bincount(classes, minlength=len(split.names))
    return {name: float(n / len(classes)) for name, n in zip(split.names, counts, strict=True)}


def missed(model: Mapping[str, Any], dev: Split) -> list[str]:
    """Classes that a model predicts on dev for less than a tenth of their gold share."""
    gold = _shares(dev.labels, dev)
    return [name for name, share in model["predicted"].items() if share < VANISHED * gold[name]]


def vanished(teacher: Mapping[str, Any], student: Mapping[str, Any], dev: Split) -> list[str]:
    """Classes that the student misses on dev and its teacher does not."""
    unlearnt = missed(teacher, dev)
    return [name for name in missed(student, dev) if name not in unlearnt]


def at_chance(
    teacher: Mapping[str, Any], ood: Mapping[str, Split], metric: str = measures.ACCURACY
) -> dict[str, float]:
    """OOD sets on which the teacher is not clearly above chance, with its figure by chance.

    Above means by more than three standard errors, in what Delta is taken of.
    """
    found = {name: Chance.of(split, metric) for name, split in ood.items()}
    return {n: one.value for n, one in found.items() if teacher["measure"]["ood"][n] < one.clear}


def notes(
    teacher: Mapping[str, Any],
    student: Mapping[str, Any],
    dev: Split,
    ood: Mapping[str, Split],
    metric: str = measures.ACCURACY,
    name: str = "student",
) -> list[str]:
    """Sentences a reader must know before believing F_bias; what cannot be said without an OOD set.

    metric: what Delta is taken of, by which the teacher and the loss on dev are judged; name: what the
    student is called.
    """
    gone = vanished(teacher, student, dev)
    out = [] if ood else [WITHOUT_OOD]
    for label in missed(student, dev):
        share = f"'{label}' on dev ({student['predicted'][label]:.1%} of the samples)"
        out.append(
            f"The {name} has almost stopped predicting {share}: it has collapsed."
            if label in gone
            else f"The {name} hardly predicts {share}, nor did its teacher: the class was not learnt."
        )
    for one in at_chance(teacher, ood, metric):
        found, own = Chance.of(ood[one], metric), teacher["measure"]["ood"][one]
        out.append(
            f"The teacher is not clearly above {found.name} on {one} ({found.against(own)}, less than "
            "three standard errors more): there F_bias says nothing."
        )
    if ood and teacher["measure"]["dev"] - student["measure"]["dev"] > MOST_LOST:
        out.append(
            f"The {name} lost more than 2 points of dev {measures.NAMES[metric]}: "
            "F_bias rewards a model that forgets everything."
        )
    return out
