"""Pairs of texts in an Arrow table, which a file may hold; keys that find the same pair again."""

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compress.data.reading import AT_ONCE

TEXTS = ("first", "second")
UNSEEN = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
"""Characters without width, which two copies of a text may differ in."""
DIGEST = 16
Places = NDArray[np.int64]
Lists = tuple[list[str], list[str]]


@dataclass(frozen=True)
class Pairs:
    """N pairs of texts.

    table: its columns `TEXTS` hold them; places: of the rows of the table that count [N], None: all.
    """

    table: pa.Table
    places: Places | None = None

    @staticmethod
    def of(first: Sequence[str], second: Sequence[str]) -> "Pairs":
        """Of two lists [N], in memory."""
        columns = [pa.array(texts, pa.large_string()) for texts in (first, second)]
        return Pairs(pa.table(dict(zip(TEXTS, columns, strict=True))))

    def __len__(self) -> int:
        """Number of pairs N."""
        return len(self.table) if self.places is None else len(self.places)

    def __getitem__(self, chosen: slice | Places) -> Lists:
        """Two lists of the texts of some pairs, by a slice or by their numbers [n]."""
        if isinstance(chosen, slice):
            chosen = np.arange(*chosen.indices(len(self)))
        places = chosen if self.places is None else self.places[chosen]
        first, second = (taken(self.table.column(name), places) for name in TEXTS)
        return first, second

    def part(self, chosen: Places) -> "Pairs":
        """Those of these numbers [n] only."""
        return Pairs(self.table, chosen if self.places is None else self.places[chosen])

    def blocks(self, size: int = AT_ONCE) -> Iterator[Lists]:
        """All pairs in their order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def spread(self, most: int) -> Lists:
        """At most `most` pairs, spread evenly over all."""
        return self[np.arange(0, len(self), max(1, len(self) // most))[:most]]


def taken(column: pa.ChunkedArray, places: Places) -> list[Any]:
    """The values of a column at some places [n], in their order; reads no other.

    Arrow's own `take` of a column in several chunks copies the whole column first.
    """
    found: list[Any] = [None] * len(places)
    for chunk, own, here in chunks_of(column, places):
        for number, value in zip(own.tolist(), chunk.take(pa.array(here)).to_pylist(), strict=True):
            found[number] = value
    return found


def chunks_of(column: pa.ChunkedArray, places: Places) -> Iterator[tuple[pa.Array, Places, Places]]:
    """Each chunk that holds some of the places, which of them those are, and where in the chunk."""
    ends = np.cumsum([len(chunk) for chunk in column.chunks])
    where = np.searchsorted(ends, places, side="right")
    for number in np.unique(where):
        own = np.flatnonzero(where == number)
        chunk = column.chunks[number]
        yield chunk, own, places[own] - (ends[number] - len(chunk))


def keys(first: Iterable[str], second: Iterable[str], symmetric: bool) -> NDArray[np.uint64]:
    """A 64-bit hash of each pair of texts [N], without regard to case, blanks, and form of Unicode.

    symmetric: nor to the order of the texts. Among 40 million pairs and 40,000 others, two that differ
    have one key with a probability of 1 in 10 million.
    """
    pairs: Iterable[list[str]] = (
        [_comparable(t) for t in pair] for pair in zip(first, second, strict=True)
    )
    if symmetric:
        pairs = (sorted(pair) for pair in pairs)
    hashes = b"".join(_hash("\0".join(pair).encode(), 8) for pair in pairs)
    return np.frombuffer(hashes, "<u8").astype(np.uint64)


def digests(first: Iterable[str], second: Iterable[str], labels: Iterable[int]) -> list[bytes]:
    """A hash of `DIGEST` bytes of each pair of texts with its label, as they are written [N]."""
    return [
        _hash(f"{label} {len(one)} {one}{two}".encode(), DIGEST)
        for one, two, label in zip(first, second, labels, strict=True)
    ]


def _hash(data: bytes, size: int) -> bytes:
    return hashlib.blake2b(data, digest_size=size).digest()


def _comparable(text: str) -> str:
    """A text without case, repeated blanks and characters without width, in one form of Unicode."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(UNSEEN)
    return " ".join(text.casefold().split())
