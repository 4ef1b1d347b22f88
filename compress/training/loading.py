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
from compress.models import unpadding

LABELS, VALID = "labels", "valid"


@dataclass(frozen=True)
class OnDevice:
    """inputs: of the model [m, L]; layout: of `unpadding`, for the model too; labels [m]; valid [m]: 1,
    or 0 for padding; known: of samples.
    """

    inputs: Mapping[str, Tensor]
    labels: Tensor
    valid: Tensor
    known: Mapping[str, Tensor]
    layout: Mapping[str, Tensor]


@dataclass(frozen=True)
class MicroBatch:
    """The samples `indices` [m], in memory; parts: names of inputs, known and layout in the buffer."""

    indices: Indices
    buffer: Packed
    parts: tuple[tuple[str, ...], ...]

    def to(self, device: torch.device) -> OnDevice:
        """On the device, in one copy that is not waited for."""
        there = self.buffer.to(device)
        inputs, known, layout = ({name: there[name] for name in names} for names in self.parts)
        return OnDevice(inputs, there[LABELS], there[VALID], known, layout)


@dataclass(frozen=True)
class Gather:
    """Makes micro-batches. pinned: for a GPU; padding_free: with the layout of the real tokens."""

    data: Columns
    known: SampleData
    pinned: bool = False
    padding_free: bool = False

    def __call__(self, indices: Indices, valid: NDArray[np.float32]) -> MicroBatch:
        """Of the samples `indices` [m]; valid: [m]."""
        layout = unpadding.arrays(self.data.lengths[indices]) if self.padding_free else {}
        inputs, rows = self.data.shapes(indices), self.known.rows(indices)
        shapes: dict[str, Shape] = {**inputs, LABELS: (indices.shape, np.int64)}
        shapes |= {VALID: (valid.shape, np.float32)}
        shapes |= {name: (values.shape, np.float32) for name, values in rows.items()}
        shapes |= {name: (values.shape, np.int64) for name, values in layout.items()}
        buffer = Packed.of(shapes, self.pinned)
        self.data.fill(buffer.arrays, indices)
        beside = {LABELS: self.data.labels[indices], VALID: valid, **rows, **layout}
        for name, values in beside.items():
            buffer.arrays[name][:] = values
        return MicroBatch(indices, buffer, (tuple(inputs), tuple(rows), tuple(layout)))
