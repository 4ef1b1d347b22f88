"""A rank's micro-batch: model inputs, labels and what is known of its samples, in one buffer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    or 0 for padding; known: of samples; tokens: values of tokens [m, L, ...].
    """

    inputs: Mapping[str, Tensor]
    labels: Tensor
    valid: Tensor
    known: Mapping[str, Tensor]
    layout: Mapping[str, Tensor]
    tokens: Mapping[str, Tensor]


@dataclass(frozen=True)
class MicroBatch:
    """The samples `indices` [m], in memory; parts: names in the buffer, as in `OnDevice`."""

    indices: Indices
    buffer: Packed
    parts: tuple[tuple[str, ...], ...]

    def to(self, device: torch.device) -> OnDevice:
        """On the device, in one copy that is not waited for."""
        there = self.buffer.to(device)
        inputs, *others = ({name: there[name] for name in names} for names in self.parts)
        return OnDevice(inputs, there[LABELS], there[VALID], *others)


@dataclass(frozen=True)
class Gather:
    """Makes micro-batches. pinned: for a GPU; padding_free: with the layout of the real tokens.

    tokens: values of every token [T, ...] by name, float32; those of a micro-batch are read here, and
    so in the thread of the feed.
    """

    data: Columns
    known: SampleData
    pinned: bool = False
    padding_free: bool = False
    tokens: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def __call__(self, indices: Indices, valid: NDArray[np.float32]) -> MicroBatch:
        """Of the samples `indices` [m]; valid: [m]."""
        layout = unpadding.arrays(self.data.lengths[indices]) if self.padding_free else {}
        inputs, rows = self.data.shapes(indices), self.known.rows(indices)
        shapes: dict[str, Shape] = {**inputs, LABELS: (indices.shape, np.int64)}
        shapes |= {VALID: (valid.shape, np.float32)}
        shapes |= {name: (values.shape, np.float32) for name, values in rows.items()}
        shapes |= {name: (values.shape, np.int64) for name, values in layout.items()}
        padded = inputs["input_ids"][0]
        shapes |= {name: ((*padded, *v.shape[1:]), np.float32) for name, v in self.tokens.items()}
        buffer = Packed.of(shapes, self.pinned)
        self.data.fill(buffer.arrays, indices)
        for name, values in self.tokens.items():
            self.data.fill_values(buffer.arrays[name], values, indices)
        beside = {LABELS: self.data.labels[indices], VALID: valid, **rows, **layout}
        for name, values in beside.items():
            buffer.arrays[name][:] = values
        parts = (tuple(inputs), tuple(rows), tuple(layout), tuple(self.tokens))
        return MicroBatch(indices, buffer, parts)
