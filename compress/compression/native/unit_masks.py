"""Heads and ffn neurons that are chosen: their weights on one layer of their block are held at 0."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from compress.compression.masking import LayerMask
from compress.compression.native.weights import inside
from compress.compression.native.zeroing import Zeroing
from compress.models.blocks import Slices


class ZeroedUnits(LayerMask):
    """Units at the inputs of a layer, or at its outputs with their biases."""

    def __init__(self, zeroing: Zeroing, own: Slices) -> None:
        """own: the units in a layer whose weight `zeroing` has, and its bias for outputs."""
        self._zeroing, self._own = zeroing, own
        self.size = self.count = own.units
        self._kept = torch.ones(own.units, dtype=torch.bool)

    def choose(self, units: Iterable[int]) -> None:
        """Let exactly these units stay; what is removed stays removed."""
        self._kept = torch.zeros(self.size, dtype=torch.bool)
        self._kept[list(units)] = True
        self.count = int(self._kept.sum())
        self._zero()

    def _zero(self) -> None:
        layer, shards = self._own.layer, self._zeroing.shards
        shard, entries = shards[f"{layer}.weight"], self._own.spread(self._kept)
        places = entries.nonzero().flatten()
        left = inside(shard, None, places) if self._own.axis else inside(shard, places, None)
        self._zeroing.prune(f"{layer}.weight", ~left.to(shard.master.device))
        bias = None if self._own.axis else shards.get(f"{layer}.bias")
        if bias is not None:
            kept = entries[bias.start : bias.start + bias.length]
            self._zeroing.prune(f"{layer}.bias", ~kept.to(bias.master.device))

    def keep(self, count: int) -> None:
        """Chosen units are not counted down."""
        raise TypeError("units without learned scores are chosen")

    def state(self) -> Tensor:
        """The mask, bool [size]."""
        return self._kept.clone()

    def load(self, state: Tensor) -> None:
        """Put back what `state` gave."""
        self.choose(state.nonzero().flatten().tolist())

    def take(self, weights: dict[str, Tensor]) -> Tensor:
        """The mask, bool [size]."""
        return self._kept
