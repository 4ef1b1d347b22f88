"""A tokenised split in flat files that every rank maps, so that none holds all tokens or any text.

`input_ids.bin` and `token_type_ids.bin` hold the tokens of all samples, one sample after another;
`offsets.bin` [N + 1] says where each begins, `lengths.bin` [N] how long it is, `labels.bin` [N] its
class; `columns.json` names the columns and their types.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.data.packing import Packed, Shape

Array = NDArray[Any]
Part = Mapping[str, Array]
"""Columns of tokens of some samples, one sample after another, and the `lengths` of each."""
TABLE = "columns.json"
TOKENS = ("input_ids", "token_type_ids")
SMALL = 1 << 16
"""Ids below it take two bytes."""
CHUNK = 1 << 22
"""Tokens that are compared at once."""


def write(folder: Path, parts: Iterable[Part], labels: Array, largest: int) -> None:
    """Write a split, part by part; labels: [N]; largest: id that a token may have."""
    ids = np.uint16 if largest < SMALL else np.int32
    types: dict[str, Any] = {"input_ids": ids, "token_type_ids": np.uint8}
    types |= {"offsets": np.int64, "lengths": np.int32, "labels": np.int16}
    folder.mkdir(parents=True)
    end, files = 0, dict[str, Any]()
    with ExitStack() as stack:

        def append(name: str, values: Array) -> None:
            if name not in files:
                files[name] = stack.enter_context(_file(folder, name).open("wb"))
            files[name].write(values.astype(types[name]).data)

        append("offsets", np.zeros(1))
        for part in parts:
            for name, values in part.items():
                append(name, values)
            append("offsets", end + np.cumsum(part["lengths"], dtype=np.int64))
            end += int(part["lengths"].sum(dtype=np.int64))
        for start in range(0, len(labels), CHUNK):
            append("labels", labels[start : start + CHUNK])
    (folder / TABLE).write_text(json.dumps({name: np.dtype(types[name]).str for name in sorted(files)}))


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.bin"


@dataclass(frozen=True)
class Columns:
    """The mapped columns of a tokenised split of N samples with T tokens in all.

    tokens: by name, [T] each; offsets: [N + 1]; lengths, labels: [N].
    """

    tokens: Mapping[str, Array]
    offsets: Array
    lengths: Array
    labels: Array
    pad_id: int
    side: str = "right"

    @staticmethod
    def open(folder: Path, pad_id: int, side: str = "right") -> "Columns":
        """Map what `write` has written; pad_id, side: of the padding."""
        types = json.loads((folder / TABLE).read_text())
        found = {n: np.asarray(np.memmap(_file(folder, n), t, "r")) for n, t in types.items()}
        tokens = {name: found.pop(name) for name in TOKENS if name in found}
        return Columns(tokens=tokens, pad_id=pad_id, side=side, **found)

    def __len__(self) -> int:
        """Number of samples N."""
        return len(self.labels)

    def head(self, count: int) -> "Columns":
        """The first `count` samples."""
        labels = self.labels[:count]
        return replace(
            self, labels=labels, lengths=self.lengths[:count], offsets=self.offsets[: len(labels) + 1]
        )

    def part(self, places: Array) -> "Columns":
        """The samples at these places [n], in this order."""
        labels, lengths = self.labels[places], self.lengths[places]
        return replace(self, labels=labels, lengths=lengths, offsets=self.offsets[places])

    def places(self, indices: Array) -> Array:
        """Where the tokens of some samples are in each column of tokens, one sample after another."""
        lengths = self.lengths[indices].astype(np.int64)
        before = np.cumsum(lengths) - lengths
        return np.repeat(self.offsets[indices] - before, lengths) + np.arange(lengths.sum())

    def shapes(self, indices: Array) -> dict[str, Shape]:
        """Shapes of the model inputs of the samples [B], padded to the longest: [B, L] each."""
        shape = (len(indices), int(self.lengths[indices].max()))
        return dict.fromkeys(("attention_mask", *self.tokens), (shape, np.int64))

    def fill(self, arrays: Mapping[str, Array], indices: Array) -> None:
        """Write the model inputs of the samples into arrays of these shapes."""
        lengths, places = self.lengths[indices][:, None], self.places(indices)
        mask = arrays["attention_mask"]
        width = np.arange(mask.shape[1])
        real = width < lengths if self.side == "right" else width >= len(width) - lengths
        mask[:] = real
        for name, column in self.tokens.items():
            arrays[name][:] = self.pad_id if name == "input_ids" else 0
            arrays[name][real] = column[places]

    def fill_values(self, array: Array, values: Array, indices: Array) -> None:
        """Write those of the samples [B] into an array [B, L, ...], 0 on padding; values: [T, ...]."""
        starts, lengths = self.offsets[indices].tolist(), self.lengths[indices].tolist()
        for row, start, length in zip(array, starts, lengths, strict=True):
            begin = 0 if self.side == "right" else len(row) - length
            row[:begin], row[begin + length :] = 0, 0
            row[begin : begin + length] = values[start : start + length]

    def batch(self, indices: Array, device: str | torch.device) -> dict[str, Tensor]:
        """Model inputs of the samples [B]: input_ids, attention_mask (and token_type_ids) [B, L].

        Padded to the longest; made in one buffer, which is copied to the device at once.
        """
        packed = Packed.of(self.shapes(indices), torch.device(device).type == "cuda")
        self.fill(packed.arrays, indices)
        return packed.to(device)

    def same_tokens(self, other: "Columns") -> bool:
        """Whether two models have every sample in the same tokens; reads all of them."""
        if self.tokens.keys() != other.tokens.keys() or len(self) != len(other):
            return False
        pairs = [(self.lengths, other.lengths)]
        pairs += [(column, other.tokens[name]) for name, column in self.tokens.items()]
        return all(
            len(one) == len(two) and np.array_equal(one[n : n + CHUNK], two[n : n + CHUNK])
            for one, two in pairs
            for n in range(0, len(one), CHUNK)
        )
