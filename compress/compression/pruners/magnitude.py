"""Iterative magnitude pruning (IMP): `sparse_pruning` with method "l1".

The weights of lowest magnitude go step by step until the target; a pruned weight stays pruned, no
rewinding (Du et al. 2023, Sec. 3.1 and App. A).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from compress.compression.pruner import Planned, Pruner, PruningState, Remaining
from compress.compression.pruning_schedule import PruningSchedule
from compress.compression.technique import Group, PruningTechnique, Schedule, Share
from compress.configuration.blocks import Count

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from compress.configuration.robust_schema import RobustCompression


@dataclass(frozen=True)
class Weights(Planned):
    """Layers whose single weights are pruned along the same schedules."""

    layers: tuple[str, ...]


class Magnitude(Pruner):
    """Masks that remove the weights of lowest magnitude, among what heads and neurons leave."""

    name = "magnitude"
    kind = "sparse"
    groups: Mapping[str, Weights]

    @property
    def carriers(self) -> dict[str, int | None]:
        """Names of the layers."""
        return {name: None for group in self.groups.values() for name in group.layers}

    def refresh(self, step: int, state: PruningState) -> bool:
        """Prune where the schedule of `step` says so; whether it did."""
        due = [g for g in self.groups.values() if g.schedule(step).refresh_at(step)]
        for group in due:
            for name in group.layers:
                self.prune(name, group.schedule(step).sparsity(step), state)
        return bool(due)

    def prune(self, name: str, sparsity: float, state: PruningState) -> None:
        """Bring a layer to this sparsity."""
        mask, remaining = self.masks[name], state.remaining.get(name, (None, None))
        with state.whole(mask.layer):
            mask.set(_refreshed(mask.layer.weight.detach(), mask.value, sparsity, *remaining))

    def counts(self, remaining: Remaining) -> tuple[float, float]:
        """Pruned weights and all weights of the layers, among those that heads and neurons leave."""
        pruned = total = 0.0
        for name, mask in self.masks.items():
            left = _select(mask.value, *remaining.get(name, (None, None)))
            pruned += left.numel() - float(left.float().sum())
            total += left.numel()
        return pruned, total

    def finish(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Zero the pruned weights in place."""
        for name, mask in self.masks.items():
            weight = weights[f"{name}.weight"]
            weights[f"{name}.weight"] = weight * mask.take(weights, name).to(weight)
        return weights


class WeightGroup(Group):
    """Layers that lose single weights."""

    params: Share
    """How much stays."""


class MagnitudeShared(Schedule):
    """What holds for all groups of weights."""

    method: Literal["l1"] = "l1"
    """l1: the weights of lowest magnitude go (IMP)."""
    schedule_offset_stride: Count | None = None
    """Optimiser steps between two refreshes of the masks."""


class MagnitudePruning(PruningTechnique):
    """Single weights of lowest magnitude go, step by step."""

    key = "sparse_pruning"
    method = "l1"
    order = 40
    fractions = "pruning"
    word = "imp"
    pruner: ClassVar[type[Magnitude]] = Magnitude

    shared_parameters: MagnitudeShared
    """What holds for all groups."""
    different_groups: Annotated[dict[str, WeightGroup], Field(min_length=1)]
    """Groups of layers, each under a name of your choice."""

    def takes(self, robust: RobustCompression) -> set[str]:
        """The schedule of single weights."""
        return {"pruning", "pruning.updates"}

    def stride(self, begin: int, end: int, updates: int) -> int:
        """Steps between two refreshes: as given, else so that there are at least `updates` of them."""
        return self.shared_parameters.schedule_offset_stride or max(1, (end - begin) // updates)

    def resolve(self, model: PreTrainedModel, robust: RobustCompression, total: int) -> Magnitude:
        """See `PruningTechnique.resolve`."""
        pruning, groups = robust.pruning, {}
        begin, end = self.steps(total, pruning.begin, pruning.end)
        stride = self.stride(begin, end, pruning.updates)
        for name, layers in self.matched(model).items():
            target = 1 - self.different_groups[name].params.dense_ratio
            schedule = PruningSchedule(0.0, target, begin, end, stride, pruning.curve)
            groups[name] = Weights((schedule,), tuple(layers))
        return self.pruner(groups)


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
    new = flat.new_ones(flat.shape)
    if count:
        threshold = flat.kthvalue(count).values
        below = flat < threshold
        ties = (flat == threshold).nonzero().flatten()
        new[below] = 0
        new[ties[: count - int(below.sum())]] = 0
    if mask is not None:
        new *= mask.flatten()
    return new.view(weight.shape).to(weight.dtype)


def _select(matrix: Tensor, outputs: Tensor | None, inputs: Tensor | None) -> Tensor:
    matrix = matrix if outputs is None else matrix[outputs.to(matrix.device)]
    return matrix if inputs is None else matrix[:, inputs.to(matrix.device)]


def _refreshed(
    weight: Tensor, mask: Tensor, sparsity: float, outputs: Tensor | None, inputs: Tensor | None
) -> Tensor:
    """The mask with `sparsity` among the remaining outputs and inputs; the rest of it stays."""
    import torch

    weight = _select(weight, outputs, inputs).contiguous()
    new = magnitude_mask(weight, _select(mask, outputs, inputs), sparsity)
    if outputs is None and inputs is None:
        return new
    whole = mask.clone()
    rows = torch.arange(mask.shape[0]) if outputs is None else outputs
    columns = torch.arange(mask.shape[1]) if inputs is None else inputs
    whole[rows[:, None].to(mask.device), columns[None, :].to(mask.device)] = new
    return whole
