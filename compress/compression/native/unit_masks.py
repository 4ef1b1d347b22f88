"""Heads and ffn neurons that are chosen: their weights on one layer of their block are held at 0."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from compress.compression.masking import LayerMask
from compress.compression.native.weights import inside
from compress.compression.native.zeroing import Zeroing


class ZeroedHeads(LayerMask):
    """Heads at the inputs of the attention output layer."""

    def __init__(self, zeroing: Zeroing, layer: str, size: int) -> None:
        """layer: its name, whose weight `zeroing` has; size: heads."""
        self._zeroing, self._layer = zeroing, layer
        self.size = self.count = size
        self._kept = torch.ones(size, dtype=torch.bool)

    def choose(self, units: Iterable[int]) -> None:
        """Let exactly these units stay; what is removed stays removed."""
        self._kept = torch.zeros(self.size, dtype=torch.bool)
        self._kept[list(units)] = True
        self.count = int(self._kept.sum())
        self._zero()

    def _zero(self) -> None:
        shard = self._zeroing.shards[f"{self._layer}.weight"]
        columns = self._kept.repeat_interleave(shard.shape[1] // self.size)
        left = inside(shard, None, columns.nonzero().flatten())
        self._zeroing.prune(f"{self._layer}.weight", ~left.to(shard.master.device))

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


class ZeroedNeurons(ZeroedHeads):
    """Ffn neurons at the outputs of the first feed-forward layer, with their biases."""

    def _zero(self) -> None:
        rows = self._kept.nonzero().flatten()
        shard = self._zeroing.shards[f"{self._layer}.weight"]
        left = inside(shard, rows, None)
        self._zeroing.prune(f"{self._layer}.weight", ~left.to(shard.master.device))
        bias = self._zeroing.shards.get(f"{self._layer}.bias")
        if bias is not None:
            kept = self._kept[bias.start : bias.start + bias.length]
            self._zeroing.prune(f"{self._layer}.bias", ~kept.to(bias.master.device))
