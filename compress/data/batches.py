"""Batches: which samples, in which order, padded to the longest of the batch.

The order depends on seed and epoch only. A global batch is cut into equal micro-batches, one for each
rank and accumulation step; a short last batch is padded with samples of weight 0, so that every rank
takes part in every step and the mean over the batch is exact for any number of ranks.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int64]
WINDOW = 50


class EpochBatches(Sequence[Indices]):
    """Global batches of one epoch: index arrays, each sample once, the shortest of a batch first.

    Shuffled by (seed, epoch), then sorted by length within windows of `WINDOW` batches, so that the
    samples of a batch are of similar length; the order of the batches is shuffled again. A batch is
    made when it is asked for; what is held is one number a sample.
    """

    def __init__(
        self,
        lengths: NDArray[Any],
        batch_size: int,
        seed: int,
        epoch: int,
        by: Literal["samples", "tokens"] = "samples",
        similar: bool = True,
    ) -> None:
        """lengths: [N].

        by: what the batches have as many of; with "tokens" there are as many batches as with "samples",
        of batch_size samples on average. similar: whether samples of a batch are of similar length.
        """
        self._by, self._similar = by, similar
        self._ends = dict[int, NDArray[Any]]()
        generator = np.random.default_rng((seed, epoch))
        smallest = np.min_scalar_type(max(1, len(lengths)))
        self._lengths, self._size = lengths, batch_size
        self._order = generator.permutation(len(lengths)).astype(smallest)
        self._turns = generator.permutation(-(-len(lengths) // batch_size))
        self._sorted = np.zeros(-(-len(self._turns) // WINDOW), dtype=np.bool_)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._turns)

    def __getitem__(self, turn: Any) -> Any:  # noqa: ANN401  overloads of Sequence: a number here
        """The batch of a turn; its window is sorted at the first turn in it."""
        window, number = divmod(int(self._turns[turn]), WINDOW)
        rows = self._order[window * WINDOW * self._size : (window + 1) * WINDOW * self._size]
        if self._similar and not self._sorted[window]:
            rows[:] = rows[np.argsort(self._lengths[rows], kind="stable")]
            self._sorted[window] = True
        start, end = number * self._size, (number + 1) * self._size
        if self._by == "tokens":
            if window not in self._ends:
                self._ends[window] = _ends(self._lengths[rows], -(-len(rows) // self._size))
            start, end = self._ends[window][number : number + 2]
        found = rows[start:end].astype(np.int64)
        return found if self._similar else found[np.argsort(self._lengths[found], kind="stable")]


def _ends(lengths: NDArray[Any], parts: int) -> Indices:
    """Where to cut N samples into parts of about as many tokens, each of one sample at least.

    0, then the end of each part: [parts + 1].
    """
    sums, inner = np.cumsum(lengths, dtype=np.int64), np.arange(1, parts)
    ends = np.searchsorted(sums, sums[-1] * inner / parts) + 1
    spare = np.maximum.accumulate((ends - inner).clip(0, len(lengths) - parts))
    return np.concatenate([[0], spare + inner, [len(lengths)]])


def scoring_order(lengths: NDArray[Any]) -> Indices:
    """The order of a pass without training: all samples, longest first."""
    return np.argsort(-lengths, kind="stable")


def scoring_batches(lengths: NDArray[Any], batch_size: int) -> Iterator[Indices]:
    """Batches for a pass without training, in `scoring_order`."""
    return cut(scoring_order(lengths), batch_size)


def cut(order: Indices, batch_size: int) -> Iterator[Indices]:
    """The samples in pieces of `batch_size`."""
    return (order[i : i + batch_size] for i in range(0, len(order), batch_size))


def joined(rows: NDArray[Any], order: Indices, batch_size: int) -> NDArray[Any]:
    """What all parts computed of their `share` of each batch, in the order of the samples [N, C].

    rows: [parts, R, C], the rows of a part one batch after another; order: that was cut into batches.
    """
    parts, _, classes = rows.shape
    whole, size = len(order) // batch_size, -(-batch_size // parts)
    each = rows[:, : whole * size].reshape(parts, whole, size, classes).transpose(1, 2, 0, 3)
    head = each.reshape(whole, size * parts, classes)[:, :batch_size].reshape(-1, classes)
    tail = rows[:, whole * size :].transpose(1, 0, 2).reshape(-1, classes)
    values = np.empty((len(order), classes), rows.dtype)
    values[order] = np.concatenate([head, tail[: len(order) - len(head)]])
    return values


def share(batch: Indices, rank: int, parts: int) -> tuple[Indices, NDArray[np.float32]]:
    """Part `rank` of `parts` of a batch: (indices [m], weights [m]), m = ceil(len / parts).

    Padding repeats the first sample with weight 0.
    """
    size = -(-len(batch) // parts)
    padded = np.concatenate([batch, np.repeat(batch[:1], size * parts - len(batch))])
    weights = np.zeros(size * parts, dtype=np.float32)
    weights[: len(batch)] = 1.0
    return padded[rank::parts], weights[rank::parts]


def pad(
    rows: Mapping[str, Sequence[Sequence[int]]], pad_id: int, side: str = "right"
) -> dict[str, Tensor]:
    """Pad token lists to the longest on one side: attention_mask is 1 on tokens, 0 on padding."""

    def padded(lists: Sequence[Tensor], value: int = 0) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(lists), True, value, side)

    ids = [torch.as_tensor(r) for r in rows["input_ids"]]
    mask = padded([torch.ones_like(r) for r in ids])
    inputs = {"input_ids": padded(ids, pad_id), "attention_mask": mask}
    if "token_type_ids" in rows:
        inputs["token_type_ids"] = padded([torch.as_tensor(r) for r in rows["token_type_ids"]])
    return inputs
