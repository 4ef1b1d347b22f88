"""The texts of samples, one or two each, in an Arrow table, which a file may hold; keys of them."""

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compress.data.reading import AT_ONCE

COLUMNS = ("first", "second")
KINDS = {1: "single texts", 2: "pairs of texts"}
"""What samples are, by their number of texts."""
UNSEEN = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
"""Characters without width, which two copies of a text may differ in."""
DIGEST = 16
Places = NDArray[np.int64]
Lists = tuple[list[str], ...]
"""For each text of a sample, one or two, a list of N."""


@dataclass(frozen=True)
class Texts:
    """The texts of N samples.

    table: its columns `COLUMNS`, or the first alone, hold them; places: of the rows of the table that
    count [N], None: all.
    """

    table: pa.Table
    places: Places | None = None

    @staticmethod
    def of(*lists: Sequence[str]) -> "Texts":
        """Of one or two lists [N], in memory."""
        return Texts(pa.table(columns_of(lists)))

    def __len__(self) -> int:
        """Number of samples N."""
        return len(self.table) if self.places is None else len(self.places)

    def __getitem__(self, chosen: slice | Places) -> Lists:
        """A list for each text, of some samples, by a slice or by their numbers [n]."""
        if isinstance(chosen, slice):
            chosen = np.arange(*chosen.indices(len(self)))
        places = chosen if self.places is None else self.places[chosen]
        names = [name for name in COLUMNS if name in self.table.column_names]
        return tuple(taken(self.table.column(name), places) for name in names)

    def part(self, chosen: Places) -> "Texts":
        """Those of these numbers [n] only."""
        return Texts(self.table, chosen if self.places is None else self.places[chosen])

    def alone(self, number: int) -> "Texts":
        """The first (0) or the second (1) text of each sample alone."""
        return Texts(self.table.select([COLUMNS[number]]), self.places)

    def row(self, sample: int, split: str) -> str:
        """Where a sample stands, for messages: its row in the source, or its place in the split."""
        place = sample if self.places is None else int(self.places[sample])
        if "number" not in self.table.column_names:
            return f"sample {place + 1} of {split}"
        return f"row {self.table.column('number')[place].as_py()} of {split}"

    def blocks(self, size: int = AT_ONCE) -> Iterator[Lists]:
        """All samples in their order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def spread(self, most: int) -> Lists:
        """At most `most` samples, spread evenly over all."""
        return self[np.arange(0, len(self), max(1, len(self) // most))[:most]]


def columns_of(lists: Sequence[Sequence[str]]) -> dict[str, pa.Array]:
    """One or two lists of texts [N] as the columns of a table."""
    return {
        name: pa.array(texts, pa.large_string()) for name, texts in zip(COLUMNS, lists, strict=False)
    }


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


def keys(lists: Lists, symmetric: bool) -> NDArray[np.uint64]:
    """A 64-bit hash of the texts of each sample [N], without regard to case, blanks, form of Unicode.

    symmetric: nor to the order of the texts. Among 40 million samples and 40,000 others, two that
    differ have one key with a probability of 1 in 10 million.
    """
    samples: Iterable[list[str]] = (
        [_comparable(text) for text in texts] for texts in zip(*lists, strict=True)
    )
    if symmetric:
        samples = (sorted(texts) for texts in samples)
    hashes = b"".join(hashed("\0".join(texts).encode(), 8) for texts in samples)
    return np.frombuffer(hashes, "<u8").astype(np.uint64)


def digests(lists: Lists, labels: Iterable[int]) -> list[bytes]:
    """A hash of `DIGEST` bytes of the texts and the label of each sample, as they are written [N].

    A single text never has that of a pair whose second text is empty.
    """
    samples = zip(zip(*lists, strict=True), labels, strict=True)
    return [hashed(f"{label} {_written(*texts)}".encode(), DIGEST) for texts, label in samples]


def _written(first: str, second: str | None = None) -> str:
    return f"one {first}" if second is None else f"{len(first)} {first}{second}"


def hashed(data: bytes, size: int) -> bytes:
    """A hash of `size` bytes."""
    return hashlib.blake2b(data, digest_size=size).digest()


def _comparable(text: str) -> str:
    """A text without case, repeated blanks and characters without width, in one form of Unicode."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(UNSEEN)
    return " ".join(text.casefold().split())
