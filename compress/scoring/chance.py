"""Whether a teacher's accuracy is above that of always predicting the largest class."""

from collections.abc import Mapping

import numpy as np

from compress.data.splits import Split

STANDARD_ERRORS = 3.0
LEAST_SHARE = 0.1
"""Of the way from the majority class to no error, what a model must have gone not to be underfit."""


def majority(split: Split) -> float:
    """Share of the largest class, or of one of equal classes if that is more."""
    counts = np.bincount(split.labels, minlength=len(split.names))
    return float(max(1 / len(split.names), counts.max() / len(split)))


def error(share: float, split: Split) -> float:
    """Standard error of an accuracy of `share` over the split's samples."""
    return float(np.sqrt(share * (1 - share) / len(split)))


def hardly_above(accuracy: float, split: Split) -> float | None:
    """The majority's share if an accuracy is below it or hardly above it, else None.

    Above means by three standard errors, and by a tenth of what the majority class gets wrong.
    """
    share = majority(split)
    least = max(STANDARD_ERRORS * error(share, split), LEAST_SHARE * (1 - share))
    return share if accuracy < min(1.0, share + least) else None


def notes(accuracies: Mapping[str, float], splits: Mapping[str, Split]) -> list[str]:
    """A sentence for each split on which the teacher is hardly above the majority class."""
    found = []
    for name, accuracy in accuracies.items():
        share = hardly_above(accuracy, splits[name])
        if share is None:
            continue
        below = accuracy < share - STANDARD_ERRORS * error(share, splits[name])
        where, why = (
            ("far below", "its labels mean others than it says, or its tokens are not its own")
            if below
            else ("hardly above", "it has learnt little, or its labels or tokens are not the task's")
        )
        found.append(
            f"The teacher is {where} the majority class on {name} ({accuracy:.1%} against "
            f"{share:.1%}): {why}; neither the student's accuracy nor F_bias says anything then."
        )
    return found
