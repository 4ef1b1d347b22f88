"""Single weights of lowest magnitude, layer by layer, among what heads and ffn neurons leave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from compress.checkpoints.pieces import Piece, Readable
from compress.compression.masking import Remaining, Target, WeightMasks
from compress.compression.native import patterns, selection
from compress.compression.native.zeroing import Zeroing
from compress.compression.pruning_schedule import n_pruned
from compress.runtime import ranks
from compress.training.shards import Shard

ENTRIES = 1 << 25
"""Entries of a rank that are looked at together: a sum over the ranks is worth it, memory suffices."""


class ZeroedWeights(WeightMasks):
    """Weights that are pruned by magnitude, held at 0."""

    def __init__(self, zeroing: Zeroing, layers: Sequence[str]) -> None:
        """layers: names of linear layers whose weights `zeroing` has."""
        self._zeroing, self._layers = zeroing, tuple(layers)

    def prune(self, targets: Mapping[str, Target], remaining: Remaining) -> None:
        """Bring layers to their targets; what is pruned stays pruned. Collective from ZeRO 1 on."""
        for layers in self._portions(list(targets)):
            shards = [self._shard(layer) for layer in layers]
            open_ = [self._open(layer, remaining) for layer in layers]
            gone = self._summed(~free & left for free, left in open_)
            sizes = [size(s.shape, remaining.get(n)) for n, s in zip(layers, shards, strict=True)]
            counts = [
                max(0, n_pruned(full, targets[layer].sparsity) - already)
                for layer, full, already in zip(layers, sizes, gone, strict=True)
            ]
            allowed = self._allowed(layers, targets)
            free = [
                unpruned & left if rule is None else unpruned & left & rule
                for (unpruned, left), rule in zip(open_, allowed, strict=True)
            ]
            keys = [
                selection.magnitude_bits(shard.master[mask], shard.precision)
                for shard, mask in zip(shards, free, strict=True)
            ]
            found = selection.lowest(keys, counts, self._divided)
            for layer, mask, lowest in zip(layers, free, found, strict=True):
                entries = torch.zeros_like(mask).masked_scatter_(mask, lowest)
                self._zeroing.prune(weight_of(layer), entries)

    def _allowed(self, layers: Sequence[str], targets: Mapping[str, Target]) -> list[Tensor | None]:
        """What may go of this rank's shards under their patterns, bool [length]; None: everything."""
        found = dict[str, Tensor]()
        kinds = {targets[layer].pattern for layer in layers}
        for pattern in sorted(kind for kind in kinds if kind is not None):
            named = [layer for layer in layers if targets[layer].pattern == pattern]
            parts = [self._shard(layer) for layer in named]
            keys = []
            for layer, shard in zip(named, parts, strict=True):
                bits = selection.magnitude_bits(shard.master, shard.precision)
                kept = self._zeroing.kept.get(weight_of(layer))
                keys.append(bits if kept is None else bits.masked_fill(~kept, -1))
            starts = [shard.start for shard in parts]
            masks = patterns.candidates(keys, starts, pattern, self._divided)
            found |= dict(zip(named, masks, strict=True))
        return [found.get(layer) for layer in layers]

    def counts(self, remaining: Remaining) -> tuple[float, float]:
        """Pruned and all weights among those that are remaining, over all ranks; collective."""
        open_ = (self._open(layer, remaining) for layer in self._layers)
        pruned = sum(self._summed(~free & left for free, left in open_))
        shapes = [self._shard(layer).shape for layer in self._layers]
        total = sum(size(s, remaining.get(n)) for s, n in zip(shapes, self._layers, strict=True))
        return float(pruned), float(total)

    def finish(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights as they are: what is pruned is 0."""
        return weights

    def state(self) -> dict[str, Piece]:
        """What is pruned of this rank's shards by layer, bool."""
        kept = self._zeroing.kept
        names = {layer: weight_of(layer) for layer in self._layers}
        return {
            layer: self._shard(layer).owned(~kept[name])
            for layer, name in names.items()
            if name in kept
        }

    def load(self, state: Mapping[str, Readable]) -> None:
        """Put back what `state` gave, of any ranks."""
        for layer, pieces in state.items():
            shard = self._shard(layer)
            mask = pieces.read(shard.start, shard.length)
            self._zeroing.prune(weight_of(layer), mask.to(shard.master.device))

    @property
    def _divided(self) -> bool:
        return self._shard(self._layers[0]).divided

    def _shard(self, layer: str) -> Shard:
        return self._zeroing.shards[weight_of(layer)]

    def _portions(self, layers: Sequence[str]) -> Iterator[list[str]]:
        """Layers in groups of about `ENTRIES` entries a rank, alike on all ranks."""
        share = ranks.world_size() if layers and self._divided else 1
        portion, entries = [], 0
        for layer in layers:
            portion.append(layer)
            entries += self._shard(layer).shape.numel() // share
            if entries >= ENTRIES:
                yield portion
                portion, entries = [], 0
        if portion:
            yield portion

    def _open(self, layer: str, remaining: Remaining) -> tuple[Tensor, Tensor]:
        """Of this rank's shard: what is not pruned, and what heads and neurons leave, bool [length]."""
        shard, kept = self._shard(layer), self._zeroing.kept.get(weight_of(layer))
        device = shard.master.device
        everything = torch.ones(shard.length, dtype=torch.bool, device=device)
        left = everything
        if layer in remaining:
            outputs, inputs = remaining[layer]
            left = inside(shard, outputs, inputs).to(device)
        return everything if kept is None else kept, left

    def _summed(self, masks: Iterable[Tensor]) -> list[int]:
        """Entries of each mask, over all ranks; one mask after another is in memory."""
        counts = torch.stack([mask.sum() for mask in masks])
        numbers: list[int] = (ranks.sum_tensor(counts) if self._divided else counts).tolist()
        return numbers


def weight_of(layer: str) -> str:
    """Name of a layer's weight."""
    return f"{layer}.weight"


def size(shape: torch.Size, left: tuple[Tensor | None, Tensor | None] | None) -> int:
    """Entries of a matrix among these outputs and inputs (None: all)."""
    kept = left or (None, None)
    rows, columns = (n if k is None else len(k) for n, k in zip(shape, kept, strict=True))
    return rows * columns


def inside(shard: Shard, outputs: Tensor | None, inputs: Tensor | None) -> Tensor:
    """Entries of a shard that lie in these outputs and inputs (None: all), bool [length] on the CPU."""
    rows, columns = shard.shape
    chosen = [torch.zeros(n, dtype=torch.bool) for n in (rows, columns)]
    for mask, kept in zip(chosen, (outputs, inputs), strict=True):
        mask[slice(None) if kept is None else kept.cpu()] = True
    first, last = shard.start // columns, -(-(shard.start + shard.length) // columns)
    block = chosen[0][first:last, None] & chosen[1]
    return block.flatten()[shard.start - first * columns :][: shard.length]
