"""Pruning as arithmetic: the schedule, the masks, the choice of heads and rows.

Lowest-magnitude weights are removed step by step until the target; a pruned weight stays pruned, no
rewinding (Du et al. 2023, Sec. 3.1 and App. A). The cubic schedule is Zhu and Gupta 2017, Eq. 1. The
lowest heads over the whole model go (Michel et al. 2019). Where the masks live is the business of
`compress.compression.masks`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ramp:
    """Sparsity as a function of the optimiser step: `start` until `begin`, `target` from `end` on.

    begin, end: optimiser steps; stride: steps between two refreshes; curve: "cubic" or "linear".
    """

    start: float
    target: float
    begin: int
    end: int
    stride: int = 1
    curve: str = "cubic"

    def sparsity(self, step: int) -> float:
        """Sparsity in force once `step` optimiser steps are done."""
        if step >= self.end:
            return self.target
        if step < self.begin:
            return self.start
        progress = (step - self.begin) / (self.end - self.begin)
        power = 3 if self.curve == "cubic" else 1
        return self.target + (self.start - self.target) * (1 - progress) ** power

    def refresh_at(self, step: int) -> bool:
        """Whether the masks change at this step: every `stride` steps in the ramp, and at its end."""
        if step == self.end:
            return True
        return self.begin <= step < self.end and (step - self.begin) % self.stride == 0


def n_pruned(size: int, sparsity: float) -> int:
    """Number of weights removed from a tensor of `size` at this sparsity."""
    return min(round(size * sparsity), size)


def magnitude_mask(weight: Tensor, mask: Tensor | None, sparsity: float) -> Tensor:
    """Mask that removes the lowest-magnitude weights and keeps removed what `mask` removed.

    weight, mask: same shape, mask 0/1; exactly `n_pruned` entries of the result are 0 (or more, if
    the old mask has more). Ties go to the lower index, so every rank decides alike.
    """
    flat = weight.detach().float().abs().flatten()
    if mask is not None:
        flat = flat.masked_fill(mask.flatten() == 0, -1.0)
    count = n_pruned(flat.numel(), sparsity)
    new = torch.ones_like(flat)
    if count:
        threshold = torch.kthvalue(flat, count).values
        below = flat < threshold
        ties = (flat == threshold).nonzero().flatten()
        new[below] = 0
        new[ties[: count - int(below.sum())]] = 0
    if mask is not None:
        new *= mask.flatten()
    return new.view(weight.shape).to(weight.dtype)


def kept_heads(
    importance: Sequence[Tensor], keep: int, gone: Sequence[Collection[int]]
) -> list[tuple[int, ...]]:
    """The `keep` most important heads over all layers, by layer, ascending.

    importance: one tensor [H] a layer; gone: heads removed earlier, which stay removed. At least one
    head stays in each layer: the best of those that are left. Ties go to the earlier head, so every
    rank decides alike.
    """
    heads = [
        (float(-score), layer, head)
        for layer, scores in enumerate(importance)
        for head, score in enumerate(scores.tolist())
        if head not in gone[layer]
    ]
    heads.sort()
    floor = {next((layer, head) for _, layer, head in heads if layer == n) for n in range(len(gone))}
    rest = [(layer, head) for _, layer, head in heads if (layer, head) not in floor]
    chosen = floor | set(rest[: max(0, keep - len(floor))])
    return [tuple(sorted(h for layer, h in chosen if layer == n)) for n in range(len(gone))]


def kept_rows(importance: Tensor, keep: int, gone: Collection[int]) -> tuple[int, ...]:
    """The `keep` most important rows [I] of one layer, ascending; `gone` stay removed."""
    scores = importance.double().clone()
    scores[list(gone)] = -torch.inf
    order = torch.sort(scores, descending=True, stable=True).indices
    return tuple(sorted(order[: min(keep, len(scores) - len(gone))].tolist()))


def rounded_width(width: int, multiple: int, full: int) -> int:
    """The multiple nearest to `width`, at least one and at most `full`."""
    nearest = multiple * max(1, (2 * width + multiple) // (2 * multiple))
    return min(nearest, full)
