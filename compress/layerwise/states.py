"""The teacher's hidden states of every token of train: a file that all ranks write and then map.

`states.bin` holds [T, K, H] float32: of T tokens, one sample after another as in `Columns`, the states
after K layers of width H; `states.json` names the layers, counted from 0. The layers of a token lie
side by side, so that a sample is read in one piece. float32, because a training with them is then that
with a live teacher within rounding, and the student's key need not say which of the two it was.
float16 would halve the file and fail above 65504; rounding by up to 2^-11 of each state moved losses of
tiny random models by up to 1e-4 of their value, against 1e-7 in float32.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from compress.data.batches import Indices
from compress.data.columns import Columns
from compress.errors import UserError
from compress.files import artefacts, disk

NAME = "teacher_states"
"""Of the states among the values of tokens that a micro-batch holds, [B, L, K, H]."""
FILE, TABLE = "states.bin", "states.json"
TYPE = np.dtype(np.float32)
GIB = 2**30


@dataclass(frozen=True)
class States:
    """layers: of the teacher [K]; rows: their states of every token [T, K, H], mapped."""

    layers: tuple[int, ...]
    rows: NDArray[np.float32]

    @staticmethod
    def open(folder: Path) -> "States":
        """Map what the ranks have written and `describe` has described."""
        about = artefacts.read_json(folder / TABLE)
        layers, width = tuple(about["layers"]), about["width"]
        rows = np.asarray(np.memmap(folder / FILE, TYPE, "r")).reshape(-1, len(layers), width)
        return States(layers, rows)

    def of(self, layer: int, padded: Tensor) -> Tensor:
        """The states after one layer [B, L, H] among those of a micro-batch [B, L, K, H]."""
        return padded[:, :, self.layers.index(layer)]


def describe(folder: Path, layers: tuple[int, ...], width: int) -> None:
    """Say what the file in a folder holds."""
    artefacts.write_json(folder / TABLE, {"layers": layers, "width": width})


class Writer:
    """Writes the states of samples at their places in a file that other ranks write to as well.

    An error of the disk is kept until `check`: a rank that raised it at once would leave the others
    waiting.
    """

    def __init__(self, file: Path, columns: Columns) -> None:
        """columns: of train; they must be padded at the right."""
        self._path, self._columns = file, columns
        self._error: OSError | None = None
        self._file = os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT, 0o666), "wb")

    def write(self, indices: Indices, states: NDArray[Any]) -> None:
        """Of the samples `indices` [B]; states: [B, L, K, H] float32."""
        _, _, *row = states.shape
        try:
            for number, index in enumerate(indices.tolist()):
                self._file.seek(int(self._columns.offsets[index]) * int(np.prod(row)) * TYPE.itemsize)
                self._file.write(states[number, : self._columns.lengths[index]].data)
        except OSError as error:
            self._error = self._error or error

    def flush(self) -> None:
        """Bring all to the disk; raises UserError if it has not taken it."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._error = self._error or error
        self.check()

    def close(self) -> None:
        """Close the file; what the disk has not taken is an error of `check`."""
        with suppress(UserError):
            self.flush()
        with suppress(OSError):
            self._file.close()

    def check(self) -> None:
        """Raise UserError if the disk has not taken all."""
        if self._error is not None:
            with disk.writing(self._path):
                raise self._error
