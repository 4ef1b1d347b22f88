"""Batches: which samples, in which order, padded to the longest of the batch.

The order depends on seed and epoch only. A global batch is cut into equal micro-batches, one for each
rank and accumulation step; a short last batch is padded with samples of weight 0, so that every rank
takes part in every step and the mean over the batch is exact for any number of ranks.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int64]
WINDOW = 50


class EpochBatches(Sequence[Indices]):
    """Global batches of one epoch: index arrays [<= batch_size], each sample once.

    Shuffled by (seed, epoch), then sorted by length within windows of `WINDOW` batches, so that the
    samples of a batch are of similar length; the order of the batches is shuffled again. A batch is
    made when it is asked for; what is held is one number a sample.
    """

    def __init__(self, lengths: NDArray[Any], batch_size: int, seed: int, epoch: int) -> None:
        """lengths: [N]."""
        generator = np.random.default_rng((seed, epoch))
        smallest = np.min_scalar_type(max(1, len(lengths)))
        self._lengths, self._size = lengths, batch_size
        self._order = generator.permutation(len(lengths)).astype(smallest)
        self._turns = generator.permutation(-(-len(lengths) // batch_size))

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._turns)

    def __getitem__(self, turn: Any) -> Any:  # noqa: ANN401  overloads of Sequence: a number here
        """The batch of a turn."""
        window, number = divmod(int(self._turns[turn]), WINDOW)
        start = window * WINDOW * self._size
        rows = self._order[start : start + WINDOW * self._size].astype(np.int64)
        rows = rows[np.argsort(self._lengths[rows], kind="stable")]
        return rows[number * self._size : (number + 1) * self._size]


def scoring_batches(lengths: Indices, batch_size: int) -> Iterator[Indices]:
    """Batches for a pass without training: all samples, longest first."""
    order = np.argsort(-lengths, kind="stable")
    return (order[i : i + batch_size] for i in range(0, len(order), batch_size))


def shares(
    lengths: Indices, batch_size: int, rank: int, parts: int
) -> tuple[Indices, NDArray[np.bool_]]:
    """What `share` gives of all `scoring_batches`, one after another: indices, and which are real."""
    order = np.argsort(-lengths, kind="stable")
    whole = len(order) // batch_size * batch_size
    rows, size = order[:whole].reshape(-1, batch_size), -(-batch_size // parts)
    padding = np.repeat(rows[:, :1], size * parts - batch_size, axis=1)
    indices = np.concatenate([rows, padding], axis=1)[:, rank::parts]
    real = np.broadcast_to(np.arange(size * parts)[rank::parts] < batch_size, indices.shape)
    found = [indices.ravel()], [real.ravel()]
    if whole < len(order):
        last, weight = share(order[whole:], rank, parts)
        found[0].append(last)
        found[1].append(weight > 0)
    return np.concatenate(found[0]), np.concatenate(found[1])


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
