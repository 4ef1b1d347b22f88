"""Ids of samples, as the data name them: how a cell is written as text, and where a sample is found.

An id is known by a hash of `DIGEST` bytes, so that 40 million of them are two arrays of 1 GB together,
on the main rank alone, whatever they look like.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.texts import DIGEST, hashed

Keys = NDArray[np.bytes_]
"""Hashes of ids, [N] of `DIGEST` bytes."""
KIND = f"S{DIGEST}"


def written(cell: object) -> str | None:
    """A cell as an id: a text as it is, a whole number by its digits; None for a cell that is none."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    return cell if isinstance(cell, str) and cell.strip() else None


def keys(ids: Iterable[str]) -> list[bytes]:
    """The hash of each id."""
    return [hashed(one.encode("utf-8", "surrogatepass"), DIGEST) for one in ids]


@dataclass(frozen=True)
class Index:
    """Where each of N ids stands; found: their hashes in ascending order; order: their places, [N]."""

    found: Keys
    order: NDArray[np.int64]

    @staticmethod
    def of(found: Keys) -> "Index":
        """Of the hashes of all samples, in their order."""
        order = found.argsort(kind="stable")
        return Index(found[order], order)

    def twice(self) -> tuple[int, int] | None:
        """Places of the first sample whose id another before it has: (of that one, of it)."""
        same = np.flatnonzero(self.found[1:] == self.found[:-1])
        if not len(same):
            return None
        first = same[self.order[same + 1].argmin()]
        return int(self.order[first]), int(self.order[first + 1])

    def places(self, wanted: Keys) -> NDArray[Any]:
        """The place of each of some ids [n]; -1 for one that there is not."""
        near = np.minimum(np.searchsorted(self.found, wanted), len(self.found) - 1)
        return np.where(self.found[near] == wanted, self.order[near], -1)
