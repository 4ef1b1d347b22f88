"""Batches: which samples, in which order, padded to the longest of the batch.

The order depends on seed and epoch only. A global batch is cut into equal micro-batches, one for each
rank and accumulation step; a short last batch is padded with samples of weight 0, so that every rank
takes part in every step and the mean over the batch is exact for any number of ranks.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int64]
WINDOW = 50


def epoch_batches(lengths: Indices, batch_size: int, seed: int, epoch: int) -> list[Indices]:
    """Global batches of one epoch: lengths [N] -> index arrays [<= batch_size], each sample once.

    Shuffled by (seed, epoch), then sorted by length within windows of `WINDOW` batches, so that the
    samples of a batch are of similar length; the order of the batches is shuffled again.
    """
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), batch_size * WINDOW):
        window = order[start : start + batch_size * WINDOW]
        window = window[np.argsort(lengths[window], kind="stable")]
        batches += [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def scoring_batches(lengths: Indices, batch_size: int) -> list[Indices]:
    """Batches for a pass without training: all samples, longest first."""
    order = np.argsort(-lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


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
