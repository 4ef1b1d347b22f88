"""Samples on which teacher and student part: one of them is right and the other wrong.

A student with the accuracy of its teacher may still be wrong on other samples (Hooker et al. 2019),
which no accuracy shows.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.scoring.bias import Hits
from compress.scoring.bootstrap import NORMAL_975


def wilson(count: int, size: int) -> tuple[float, float]:
    """95 % interval of a share, `count` of `size` > 0 samples, by Wilson's score (Wilson 1927).

    It holds where the count is 0 or the size, of which a bootstrap says nothing.
    """
    share, z = count / size, NORMAL_975
    centre = (share + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z * np.sqrt(share * (1 - share) / size + z**2 / (4 * size**2)) / (1 + z**2 / size)
    low = 0.0 if count == 0 else float(centre - half)
    return low, 1.0 if count == size else float(centre + half)


def figures(teacher: Hits, student: Hits) -> dict[str, dict[str, Any]]:
    """By set `lost`, that the teacher alone gets right, and `gained`, that the student alone does.

    teacher, student: whether each sample was right, [N] by set. Of each: samples, share, 95 % interval.
    """
    return {
        name: {"lost": part(right & ~student[name]), "gained": part(~right & student[name])}
        for name, right in teacher.items()
    }


def part(chosen: NDArray[np.bool_]) -> dict[str, Any]:
    """Number of chosen samples [N], their share, and its 95 % interval."""
    count, size = int(chosen.sum()), len(chosen)
    return {"samples": count, "share": count / size, "interval": list(wilson(count, size))}
