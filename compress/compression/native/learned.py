"""Learned scores: a linear layer that multiplies its weight by a mask of the highest scores.

The straight-through estimator (Bengio et al. 2013; Sanh et al. 2020, Sec. 4): the mask is a step of the
scores in the forward pass, and the identity in the backward pass, so that the gradient of a score is
that of its mask entry, pruned or not. The gradient of a pruned weight is 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from compress.compression.masking import LayerMask
from compress.models import deferred
from compress.models.blocks import Slices

NAME = "mask_scores"
BLOCK, NEAR = 64, 1000
"""Scores looked at together; 1 in NEAR of all lies from a threshold that was missed to a bound."""


class Selection:
    """Which scores stay, between two optimiser steps: all above a threshold, and the first that tie.

    On a CPU the threshold is looked for near the last one, so that no step sorts all scores. What is
    kept are copies: a view would keep what it was taken from, as large as the scores and larger.
    """

    def __init__(self) -> None:
        """Nothing is known."""
        self._threshold: Tensor | None = None
        self._end: Tensor | None = None
        self._count = -1
        self._last: float | None = None
        self._near = (0.0, 0.0)

    def forget(self) -> None:
        """The scores have changed."""
        self._threshold = None

    def mask(self, scores: Tensor, count: int) -> Tensor:
        """The highest `count` scores, of equal ones the first: bool of the shape of `scores`."""
        return self.entries(scores, count).bool()

    def entries(self, scores: Tensor, count: int) -> Tensor:
        """The same as 0 and 1 of the type of `scores`: faster to multiply with than bool."""
        if not 0 < count < scores.numel():
            return torch.full_like(scores, float(count > 0))
        flat = scores.detach().flatten()
        if self._threshold is None or self._count != count:
            self._count = count
            if flat.device.type == "cpu":
                self._find_near(flat, count)
            else:
                self._find(flat, count)
        assert self._threshold is not None
        kept = torch.ge(flat, self._threshold, out=torch.empty_like(flat))
        if self._end is not None:
            late = torch.arange(len(flat), device=flat.device) >= self._end
            kept.masked_fill_((flat == self._threshold) & late, 0)
        return kept.view(scores.shape)

    def _find(self, flat: Tensor, count: int) -> None:
        """Set the threshold, and the position from which on ties do not stay; all on the device."""
        self._threshold = flat.sort(descending=True).values[count - 1].clone()
        wanted = count - (flat > self._threshold).sum()
        self._end = torch.searchsorted((flat == self._threshold).cumsum(0), wanted + 1)

    def _find_near(self, flat: Tensor, count: int) -> None:
        """The same, in what lies between the bounds of the last search; no end if all ties stay."""
        low, high = self._near
        inside, above = _between(flat, low, high), _above(flat, high)
        missed = not above < count <= above + len(inside)
        if missed:
            inside, above = flat, 0
        position = len(inside) - (count - above) + 1
        threshold = inside.kthvalue(position).values
        wanted = count - above - int((inside > threshold).sum())
        self._threshold, self._end = threshold, None
        if int((inside == threshold).sum()) > wanted:
            self._end = (flat == threshold).nonzero().flatten()[wanted].clone()
        self._expect(float(threshold), flat, position if missed else None)

    def _expect(self, found: float, flat: Tensor, position: int | None) -> None:
        """Set the bounds of the next search: it moves as it last moved, within four times its error.

        They narrow by a quarter a step at most. position: of the threshold in sorted order, if the last
        bounds missed it.
        """
        (low, high), last = self._near, self._last
        moved = 0.0 if last is None else found - last
        error = abs(found - (low + high) / 2)
        if position is None:
            reach = max(4 * error, 0.75 * (high - low) / 2)
        else:
            beside = min(position + len(flat) // NEAR, len(flat))
            reach = max(float(flat.kthvalue(beside).values) - found, 0.0 if last is None else error)
        bounds = torch.tensor([found + moved - reach, found + moved + reach], dtype=flat.dtype)
        self._last, self._near = found, tuple(bounds.tolist())


def _blocks(flat: Tensor) -> tuple[Tensor, Tensor]:
    """[N] as [N // BLOCK, BLOCK] and the rest."""
    whole = len(flat) - len(flat) % BLOCK
    return flat[:whole].view(-1, BLOCK), flat[whole:]


def _between(flat: Tensor, low: float, high: float) -> Tensor:
    """The values of [N] from low to high, two numbers of its type, in no order.

    On a CPU comparisons that give bool, and indices of them, take several times as long as arithmetic:
    they see only blocks with a value in reach.
    """
    middle, reach = (low + high) / 2, 1.02 * (high - low) / 2
    distances, _ = _blocks((flat - middle).abs_())
    near = distances.amin(dim=1) <= reach + 1e-6 * abs(middle) + 1e-7
    blocks, rest = _blocks(flat)
    found = torch.cat([blocks[near].flatten(), rest])
    return found[(found >= low) & (found <= high)]


def _above(flat: Tensor, bound: float) -> int:
    """How many values of [N] are above a bound."""
    blocks, rest = _blocks(torch.gt(flat, bound, out=torch.empty_like(flat)))
    return int(blocks.sum(dim=1).sum(dtype=torch.int64)) + int(rest.sum())


class MaskedLinear(nn.Linear):
    """A linear layer whose weight (and bias, for outputs) is multiplied by the mask of its scores.

    mask_scores: [O, I] for weights, [U, 1] for units of outputs, [1, U] for units of inputs; count: how
    many stay.
    """

    mask_scores: nn.Parameter

    def __init__(self, linear: nn.Linear, units: Slices | None = None) -> None:
        """Take the parameters of a layer; scores are 0. units: what has one score; None: a weight."""
        given = (linear.in_features, linear.out_features, linear.bias is not None)
        super().__init__(*given, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.units = units
        shape = tuple(linear.weight.shape)
        if units is not None:
            shape = (1, units.units) if units.axis else (units.units, 1)
        self.mask_scores = deferred.zeros(shape, linear.weight)
        self.count = self.mask_scores.numel()
        self.selection = Selection()
        self.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """Outputs [..., O] of inputs [..., I]."""
        output: Tensor = _Masked.apply(input, self.weight, self.bias, self.mask_scores, self)
        return output

    def masks(self, scores: Tensor) -> tuple[Tensor, Tensor | None]:
        """Masks that fit the weight, and the bias, [O] (None: it stays); 0 and 1, of their type."""
        mask = self.selection.entries(scores, self.count).to(self.weight.dtype)
        if self.units is None:
            return mask, None
        entries = self.units.spread(mask.view(-1))
        return (entries[None, :], None) if self.units.axis else (entries[:, None], entries)

    def folded(self, values: Tensor) -> Tensor:
        """Sum of [O, I] over what shares a score."""
        if self.units is None:
            return values
        units, along = self.units.units, values.t() if self.units.axis else values
        parts = along.split([width * units for width in self.units.widths])
        sums = torch.stack([part.reshape(units, -1).sum(dim=1) for part in parts]).sum(dim=0)
        return sums[None, :] if self.units.axis else sums[:, None]


class _Masked(torch.autograd.Function):
    """The layer's product; saves no masked copy of the weight for the backward pass."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:  # noqa: ANN401  of autograd
        """arguments: input [..., I], weight [O, I], bias [O] or None, scores, layer."""
        inputs, weight, bias, scores, layer = arguments
        ctx.save_for_backward(inputs, weight, bias, scores)
        ctx.layer = layer
        mask, rows = layer.masks(scores)
        masked = bias if bias is None or rows is None else bias * rows
        return nn.functional.linear(inputs, weight * mask, masked)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ANN401  of autograd
        """Gradients of input, weight, bias and scores."""
        [gradient] = gradients
        inputs, weight, bias, scores = ctx.saved_tensors
        mask, rows = ctx.layer.masks(scores)
        to_input = None
        if ctx.needs_input_grad[0]:
            to_input = (gradient @ (weight * mask).to(gradient.dtype)).to(inputs.dtype)
        if not any(ctx.needs_input_grad[1:]):
            return to_input, None, None, None, None
        flat = gradient.reshape(-1, gradient.shape[-1])
        given = inputs.reshape(-1, inputs.shape[-1]).to(gradient.dtype)
        dense = (flat.t() @ given).to(weight.dtype)
        dense_bias = None if bias is None else flat.sum(dim=0).to(bias.dtype)
        to_scores = ctx.layer.folded(dense * weight)
        if dense_bias is not None and rows is not None:
            to_scores = to_scores + ctx.layer.folded((dense_bias * bias)[:, None])
            dense_bias = dense_bias * rows
        return to_input, dense * mask, dense_bias, to_scores, None


class LearnedMask(LayerMask):
    """The scores of one masked layer."""

    def __init__(self, name: str, layer: MaskedLinear) -> None:
        """name: of the layer in the model."""
        self._name, self.layer = name, layer
        self.size = self.count = layer.count

    def choose(self, units: Iterable[int]) -> None:
        """Learned scores are not chosen."""
        raise TypeError("units with learned scores follow their scores")

    def keep(self, count: int) -> None:
        """Let the highest `count` entries stay."""
        self.count = self.layer.count = count

    def state(self) -> Tensor:
        """How many stay."""
        return torch.tensor(self.count)

    def load(self, state: Tensor) -> None:
        """Put back what `state` gave."""
        self.keep(int(state))

    def take(self, weights: dict[str, Tensor]) -> Tensor:
        """The final mask, from gathered weights; scores are taken out of them."""
        return Selection().mask(weights.pop(f"{self._name}.{NAME}"), self.count)
