"""What Delta and F_bias are taken of (`evaluation.metric`): name, values, bootstrap replicates."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.scoring import bias, bootstrap, metrics
from compress.scoring.bias import Pair

ACCURACY = "accuracy"
NAMES = {
    ACCURACY: "accuracy",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "matthews": "Matthews correlation",
}
"""Value of `evaluation.metric` -> how it is called."""


@dataclass(frozen=True)
class Answers:
    """Classes of the N samples of a set, by the set's own ids: predicted by a model, and gold, [N]."""

    predicted: NDArray[np.int64]
    gold: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each sample was right."""
        return self.predicted == self.gold

    @property
    def classes(self) -> int:
        """Number of classes, as far as they occur."""
        return int(max(self.predicted.max(), self.gold.max())) + 1

    def value(self, metric: str) -> float:
        """The figure of this name."""
        if metric == ACCURACY:
            return metrics.accuracy(self.right)
        table = metrics.confusion(self.predicted, self.gold, self.classes)
        return float(metrics.of_tables(metric, table))


Sets = Mapping[str, Answers]
"""`dev`, and `ood_<name>` for each OOD set."""


def values(
    metric: str, answers: Sets, sizes: Mapping[str, int]
) -> tuple[float, dict[str, float], float | None]:
    """A model's figure on dev, on each OOD set by name, and over all OOD sets (None without one).

    sizes: of the whole OOD sets, by which they are weighted; by name without `ood_`.
    """
    ood = {name: answers[f"ood_{name}"].value(metric) for name in sizes}
    return answers["dev"].value(metric), ood, metrics.pooled(ood, sizes) if ood else None


def replicates(
    metric: str,
    first: Sets,
    second: Sets,
    sizes: Mapping[str, int],
    count: int = bootstrap.PAIRED_REPLICATES,
) -> dict[str, Pair]:
    """The figure of two models in each draw of samples, the same for both: see `bias.accuracies`.

    sizes: by `ood_<name>`.
    """
    if metric == ACCURACY:
        ours, theirs = ({n: one.right for n, one in sets.items()} for sets in (first, second))
        return bias.accuracies(ours, theirs, sizes, count)
    generator = np.random.default_rng(bias.SEED)
    found = {name: _paired(metric, first[name], second[name], generator, count) for name in first}
    return bias.with_pool(found, sizes, count)


def _paired(
    metric: str, first: Answers, second: Answers, generator: np.random.Generator, count: int
) -> Pair:
    """The figure [R] of two models on one set whose samples are drawn anew."""
    classes = max(first.classes, second.classes)
    gold = first.gold.astype(np.int64) * classes
    return bootstrap.paired_tables(
        (gold + first.predicted, gold + second.predicted),
        classes,
        lambda tables: metrics.of_tables(metric, tables),
        generator,
        count,
    )
