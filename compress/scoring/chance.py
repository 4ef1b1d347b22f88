"""Whether a teacher is above what can be had without looking at the samples, in what Delta is taken of.

Of the accuracy that is the share of the largest class. Of the other figures it is the most that
predictions independent of the gold class have on average: 1 / C for balanced accuracy (its recalls sum
to 1) and for macro F1 (with each class as often as it occurs), 0 for a correlation. C: gold classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from compress.data.splits import Split
from compress.scoring import measures

STANDARD_ERRORS = 3.0
LEAST_SHARE = 0.1
"""Of the way from chance to no error, what a model must have gone not to be underfit."""


@dataclass(frozen=True)
class Chance:
    """The figure without looking at the samples, and its standard error over a split's samples.

    That of the figures by class is of guesses with each class alike; of macro F1 it is then an upper
    bound, about twice too large where a class is rare.
    """

    value: float
    error: float
    metric: str = measures.ACCURACY

    @staticmethod
    def of(split: Split, metric: str = measures.ACCURACY) -> "Chance":
        """Of a split; metric: by name of `measures`."""
        counts = np.bincount(split.labels, minlength=len(split.names))
        if metric == measures.ACCURACY:
            share = float(max(1 / len(split.names), counts.max() / len(split)))
            return Chance(share, float(np.sqrt(share * (1 - share) / len(split))))
        there = counts[counts > 0]
        if metric == "matthews":
            return Chance(0.0, float(1 / np.sqrt(len(split) * max(1, len(there) - 1))), metric)
        share = 1 / len(there)
        return Chance(share, share * float(np.sqrt((share * (1 - share) / there).sum())), metric)

    @property
    def clear(self) -> float:
        """A figure from here on is clearly above it: by three standard errors."""
        return self.value + STANDARD_ERRORS * self.error

    @property
    def name(self) -> str:
        """What it is called."""
        return "the majority class" if self.metric == measures.ACCURACY else "chance"

    def against(self, figure: float) -> str:
        """Such as `55.0% against 50.0%`; another figure than the accuracy with its name."""
        shown = ".3f" if self.metric == "matthews" else ".1%"
        what = "" if self.metric == measures.ACCURACY else f"{measures.NAMES[self.metric]} "
        return f"{what}{figure:{shown}} against {self.value:{shown}}"


def hardly_above(figure: float, split: Split, metric: str = measures.ACCURACY) -> Chance | None:
    """Chance if a figure is below it or hardly above it, else None.

    Above means by three standard errors, and by a tenth of what chance lacks to no error.
    """
    found = Chance.of(split, metric)
    least = max(found.clear, found.value + LEAST_SHARE * (1 - found.value))
    return found if figure < min(1.0, least) else None


def notes(
    figures: Mapping[str, float], splits: Mapping[str, Split], metric: str = measures.ACCURACY
) -> list[str]:
    """A sentence for each split on which the teacher's figure is hardly above chance."""
    said = []
    for name, figure in figures.items():
        found = hardly_above(figure, splits[name], metric)
        if found is None:
            continue
        below = figure < found.value - STANDARD_ERRORS * found.error
        where, why = (
            ("far below", "its labels mean others than it says, or its tokens are not its own")
            if below
            else ("hardly above", "it has learnt little, or its labels or tokens are not the task's")
        )
        said.append(
            f"The teacher is {where} {found.name} on {name} ({found.against(figure)}): {why}; neither "
            "the student's accuracy nor F_bias says anything then."
        )
    return said
