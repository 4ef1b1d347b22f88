"""Iterative magnitude pruning (IMP): `sparse_pruning` with method "l1".

The weights of lowest magnitude go step by step until the target; a pruned weight stays pruned, no
rewinding (Du et al. 2023, Sec. 3.1 and App. A).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from compress.compression.pruner import Living, Now
from compress.compression.weights import WeightPruner, WeightSchedule, WeightTechnique

if TYPE_CHECKING:
    from torch import Tensor

    from compress.configuration.robust_schema import RobustCompression


class MagnitudeSchedule(WeightSchedule):
    """What holds for all groups."""

    method: Literal["l1"] = "l1"
    """l1: the weights of lowest magnitude go (IMP)."""


class Magnitude(WeightPruner):
    """Masks that remove the lowest magnitudes among what heads and neurons leave."""

    name = "magnitude"

    def refresh(self, step: int, now: Now) -> bool:
        """Prune where the schedule of `step` says so; the sparsity holds among what is living."""
        due = [g for g in self.groups.values() if g.schedule(step).refresh_at(step)]
        for group in due:
            sparsity = group.schedule(step).sparsity(step)
            for name in group.layers:
                mask, living = self.masks[name], now.living.get(name, (None, None))
                with now.whole(mask.layer):
                    mask.set(_refreshed(mask.layer.weight.detach(), mask.value, sparsity, *living))
        return bool(due)

    def counts(self, living: Living) -> tuple[float, float]:
        """Pruned weights and all weights of the layers, among those that heads and neurons leave."""
        pruned = total = 0.0
        for name, mask in self.masks.items():
            left = _select(mask.value, *living.get(name, (None, None)))
            pruned += left.numel() - float(left.float().sum())
            total += left.numel()
        return pruned, total


class MagnitudePruning(WeightTechnique[MagnitudeSchedule]):
    """Single weights of lowest magnitude go, step by step."""

    method = "l1"
    default = True

    @property
    def pruner(self) -> type[WeightPruner]:
        """See `Magnitude`."""
        return Magnitude

    @property
    def label(self) -> str:
        """Such as `imp40`."""
        return f"imp{self.percent()}"

    def takes(self, robust: RobustCompression) -> set[str]:
        """The schedule of single weights."""
        return {"pruning", "pruning.updates"}

    def stride(self, begin: int, end: int, updates: int) -> int:
        """As given, else so that there are at least `updates` refreshes."""
        return self.shared_parameters.schedule_offset_stride or max(1, (end - begin) // updates)


def n_pruned(size: int, sparsity: float) -> int:
    """Number of weights removed from a tensor of `size` at this sparsity."""
    return min(round(size * sparsity), size)


def magnitude_mask(weight: Tensor, mask: Tensor | None, sparsity: float) -> Tensor:
    """Mask that removes the lowest-magnitude weights and keeps removed what `mask` removed.

    weight, mask: same shape, mask 0/1; exactly `n_pruned` entries of the result are 0 (or more, if
    the old mask has more). Ties go to the lower index, so every rank decides alike.
    """
    import torch

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


def _select(matrix: Tensor, outputs: Tensor | None, inputs: Tensor | None) -> Tensor:
    matrix = matrix if outputs is None else matrix[outputs.to(matrix.device)]
    return matrix if inputs is None else matrix[:, inputs.to(matrix.device)]


def _refreshed(
    weight: Tensor, mask: Tensor, sparsity: float, outputs: Tensor | None, inputs: Tensor | None
) -> Tensor:
    """The mask with `sparsity` among the living outputs and inputs; the rest of it stays."""
    import torch

    weight = _select(weight, outputs, inputs).contiguous()
    new = magnitude_mask(weight, _select(mask, outputs, inputs), sparsity)
    if outputs is None and inputs is None:
        return new
    out = mask.clone()
    first = torch.arange(mask.shape[0]) if outputs is None else outputs
    second = torch.arange(mask.shape[1]) if inputs is None else inputs
    out[first[:, None].to(mask.device), second[None, :].to(mask.device)] = new
    return out
