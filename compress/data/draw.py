"""A part of many rows, drawn alike in every process and every run."""

import numpy as np

from compress.data.texts import Places

SEED = 0


def evenly(count: int, most: int) -> Places:
    """At most `most` places of `count`, in order: a random one of each of as many equal intervals.

    So no share changes, though the rows are sorted by source, subset or label, or alternate in labels.
    """
    if count <= most:
        return np.arange(count)
    ends = np.arange(most + 1) * count // most
    return np.random.default_rng(SEED).integers(ends[:-1], ends[1:])
