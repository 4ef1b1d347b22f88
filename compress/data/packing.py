"""Arrays of a micro-batch in one buffer, which goes to the device in one copy.

For a GPU the buffer is in pinned memory, so that the copy runs beside the computation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ALIGNED = 8
"""Bytes: of the largest type."""
TYPES = {np.dtype(np.int64): torch.int64, np.dtype(np.float32): torch.float32}
Shape = tuple[tuple[int, ...], type[np.int64] | type[np.float32]]


@dataclass(frozen=True)
class Packed:
    """buffer: uint8; arrays: views of it to write to, by name."""

    buffer: Tensor
    arrays: Mapping[str, NDArray[Any]]

    @staticmethod
    def of(shapes: Mapping[str, Shape], pinned: bool) -> "Packed":
        """Room for arrays of these shapes and types; their content is undefined."""
        sizes = [prod(shape) * np.dtype(kind).itemsize for shape, kind in shapes.values()]
        ends = np.cumsum([-(-size // ALIGNED) * ALIGNED for size in sizes]).tolist()
        buffer = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=pinned)
        whole = buffer.numpy()
        arrays = {
            name: whole[start : start + size].view(kind).reshape(shape)
            for (name, (shape, kind)), start, size in zip(
                shapes.items(), [0, *ends[:-1]], sizes, strict=True
            )
        }
        return Packed(buffer, arrays)

    def to(self, device: str | torch.device) -> dict[str, Tensor]:
        """The arrays as tensors on the device; without a wait for a copy."""
        there, start, found = self.buffer.to(device, non_blocking=True), 0, {}
        for name, array in self.arrays.items():
            part = there[start : start + array.nbytes].view(TYPES[array.dtype])
            found[name] = part.view(array.shape)
            start += -(-array.nbytes // ALIGNED) * ALIGNED
        return found
