"""Which entries of lowest magnitude go, when every rank has a part of each matrix.

A non-negative float32 orders like its bits, so that the threshold is found digit by digit from
histograms (radix select): 11, 10 and 10 bits in three sums over the ranks. No weight leaves its rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.runtime import ranks

DIGITS = ((20, 11), (10, 10), (0, 10))
"""Shift and width of each digit of a 31-bit magnitude, highest first."""


def magnitude_bits(weights: Tensor, precision: torch.dtype) -> Tensor:
    """|w| rounded to a type, as int32 bits of a float32, ordered like the magnitudes; same shape."""
    return weights.detach().to(precision).float().abs().view(torch.int32)


def lowest(keys: Sequence[Tensor], counts: Sequence[int], divided: bool) -> list[Tensor]:
    """For each matrix the `counts` lowest of its entries, bool of the shape of this rank's `keys`.

    keys: int32 [n] of this rank, not negative; counts: over all ranks, at most the entries that there
    are. Of equal entries those of lower ranks and positions go. divided: the ranks hold parts of each
    matrix, else each holds the whole. Collective if divided.
    """
    total = ranks.sum_tensor if divided else _same
    device = keys[0].device
    wanted = torch.tensor(counts, dtype=torch.int64, device=device)
    threshold = torch.zeros_like(wanted)
    candidates = list(keys)
    for shift, width in DIGITS:
        histogram = total(torch.stack([_counts(part, shift, width) for part in candidates]))
        reached = histogram.cumsum(dim=1)
        digit = (reached < wanted[:, None]).sum(dim=1).clamp(max=(1 << width) - 1)
        below = reached - histogram
        wanted = wanted - below.gather(1, digit[:, None]).squeeze(1)
        threshold |= digit << shift
        chosen = digit.unbind()
        candidates = [p[_digits(p, shift, width) == n] for p, n in zip(candidates, chosen, strict=True)]
    ties = torch.tensor([len(part) for part in candidates], dtype=torch.int64, device=device)
    wanted = (wanted - _before(ties) if divided else wanted).clamp(min=0).minimum(ties)
    limits = zip(keys, threshold.tolist(), wanted.tolist(), counts, strict=True)
    return [_mark(part, limit, share) if count else part < 0 for part, limit, share, count in limits]


def _digits(keys: Tensor, shift: int, width: int) -> Tensor:
    return (keys >> shift) & ((1 << width) - 1)


def _counts(keys: Tensor, shift: int, width: int) -> Tensor:
    """How often each value of a digit occurs, int64 [2^width]."""
    return torch.bincount(_digits(keys, shift, width), minlength=1 << width)


def _mark(keys: Tensor, threshold: int, ties: int) -> Tensor:
    """Entries below the threshold, and the first `ties` of those that are equal to it."""
    found = keys < threshold
    if ties:
        equal = (keys == threshold).nonzero().flatten()
        found[equal[:ties]] = True
    return found


def _before(own: Tensor) -> Tensor:
    """Sum of the counts of lower ranks, int64 like `own`."""
    table = own.new_zeros(ranks.world_size(), *own.shape)
    table[ranks.rank()] = own
    return ranks.sum_tensor(table)[: ranks.rank()].sum(dim=0)


def _same(counts: Tensor) -> Tensor:
    return counts
