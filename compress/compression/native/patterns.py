"""N:M sparsity: of each m neighbouring inputs of an output, the m - n of lowest magnitude may go.

Such zeros can be skipped by GPUs (2:4: Mishra et al. 2021). A shard may begin or end within a group of
m, so the ranks tell each other the magnitudes in the groups that they share, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.runtime import ranks


def candidates(
    keys: Sequence[Tensor], starts: Sequence[int], pattern: tuple[int, int], divided: bool
) -> list[Tensor]:
    """The m - n lowest of each group in this rank's shards, bool like `keys`; ties go by position.

    keys: magnitude bits, int32 [length], -1 where pruned; starts: position of each shard in its
    flattened matrix, whose rows are multiples of m long; divided: the ranks hold parts of each matrix.
    Collective if divided.
    """
    stay, size = pattern
    found = [torch.zeros_like(part, dtype=torch.bool) for part in keys]
    for part, start, mask in zip(keys, starts, found, strict=True):
        first = min(-start % size, len(part))
        last = first + (len(part) - first) // size * size
        groups = part[first:last].view(-1, size)
        mask[first:last] = _lowest(groups, size - stay).flatten()
    if divided and ranks.world_size() > 1:
        _shared(keys, starts, found, pattern)
    return found


def _lowest(groups: Tensor, count: int) -> Tensor:
    """The `count` lowest of each row, of equal ones the first, bool."""
    chosen = groups.argsort(dim=1, stable=True)[:, :count]
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(1, chosen, True)


def _shared(
    keys: Sequence[Tensor], starts: Sequence[int], found: Sequence[Tensor], pattern: tuple[int, int]
) -> None:
    """Fill in the groups that ranks share, in place.

    The table has a row for each matrix and rank: the group in which the rank's shard begins, if it
    begins within one. Each rank enters its own part of a group, and 0 elsewhere.
    """
    stay, size = pattern
    device = keys[0].device
    begins = torch.zeros(len(keys), ranks.world_size(), dtype=torch.int64, device=device)
    begins[:, ranks.rank()] = torch.tensor(starts, device=device)
    begins = ranks.sum_tensor(begins)
    inside = begins % size != 0
    firsts = torch.where(inside, begins // size * size, -1).tolist()
    table = torch.zeros(*begins.shape, size, dtype=torch.int64, device=device)
    mine: list[tuple[int, int, int, int, int]] = []
    for matrix, (part, start) in enumerate(zip(keys, starts, strict=True)):
        end = start + len(part)
        for rank, first in enumerate(firsts[matrix]):
            low, high = max(start, first), min(end, first + size)
            if first >= 0 and low < high:
                table[matrix, rank, low - first : high - first] = part[low - start : high - start] + 2
                mine.append((matrix, rank, first, low, high))
    table = ranks.sum_tensor(table)
    lowest = _lowest(table.view(-1, size), size - stay).view(table.shape)
    for matrix, rank, first, low, high in mine:
        start = starts[matrix]
        found[matrix][low - start : high - start] = lowest[matrix, rank, low - first : high - first]
