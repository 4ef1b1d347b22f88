"""A rank's micro-batch: model inputs, labels and what is known of its samples, in one buffer."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.data.batches import Indices
from compress.data.columns import Columns
from compress.data.packing import Packed, Shape
from compress.microbatch import SampleData

LABELS, VALID = "labels", "valid"


@dataclass(frozen=True)
class OnDevice:
    """inputs: of the model [m, L]; labels [m]; valid [m]: 1, or 0 for padding; known: of samples."""

    inputs: Mapping[str, Tensor]
    labels: Tensor
    valid: Tensor
    known: Mapping[str, Tensor]


@dataclass(frozen=True)
class MicroBatch:
    """The samples `indices` [m], in memory; inputs, known: names of these parts of the buffer."""

    indices: Indices
    buffer: Packed
    inputs: tuple[str, ...]
    known: tuple[str, ...]

    def to(self, device: torch.device) -> OnDevice:
        """On the device, in one copy that is not waited for."""
        there = self.buffer.to(device)
        inputs, known = ({name: there[name] for name in names} for names in (self.inputs, self.known))
        return OnDevice(inputs, there[LABELS], there[VALID], known)


def packed(
    data: Columns, known: SampleData, indices: Indices, valid: NDArray[np.float32], pinned: bool
) -> MicroBatch:
    """Gather the samples `indices` [m]; pinned: for a GPU."""
    inputs, rows = data.shapes(indices), known.rows(indices)
    shapes: dict[str, Shape] = {**inputs, LABELS: (indices.shape, np.int64)}
    shapes |= {VALID: (valid.shape, np.float32)}
    shapes |= {name: (values.shape, np.float32) for name, values in rows.items()}
    buffer = Packed.of(shapes, pinned)
    data.fill(buffer.arrays, indices)
    for name, values in {LABELS: data.labels[indices], VALID: valid, **rows}.items():
        buffer.arrays[name][:] = values
    return MicroBatch(indices, buffer, tuple(inputs), tuple(rows))
