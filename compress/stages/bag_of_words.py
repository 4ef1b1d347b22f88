"""A shallow classifier of hashed words: what can be guessed without reading, and without an encoder.

After fastText (Joulin et al. 2017): a sample is one or more bags of features; a bag's vector is the
mean of its hashed features' vectors, the bags' vectors side by side go through a linear layer. It is
trained on at most `MOST` samples; the others pass by.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data import draw
from compress.data.texts import Places, Texts
from compress.errors import UserError
from compress.runtime import parallel
from compress.stages.bags import BUCKETS, MOST_WORDS, Bags, Features

WIDTH, EPOCHS, BATCH, RATE = 32, 2, 64, 0.1
MOST = 100_000
SETTINGS = (BUCKETS, MOST_WORDS, WIDTH, EPOCHS, BATCH, RATE, MOST, draw.SEED)
BagsOf = Callable[[Places | None], Iterator[list[Bags]]]
"""Gives the bags of some samples, None: of all, in their order and in blocks."""


def bags_of(texts: Texts, features: Features, processes: int) -> BagsOf:
    """The bags of the texts of samples."""

    def of(places: Places | None) -> Iterator[list[Bags]]:
        chosen = texts if places is None else texts.part(places)
        return parallel.in_order(features, chosen.blocks(), processes)

    return of


@dataclass(frozen=True)
class Classifier:
    """A trained classifier."""

    vectors: nn.EmbeddingBag
    head: nn.Linear

    def logits(self, rows: Sequence[Bags]) -> Tensor:
        """Of some samples [B, C]."""
        flat = self.vectors(*_flat([bag for bags in rows for bag in bags]))
        return self.head(flat.view(len(rows), -1))

    def predict(self, rows: Sequence[Bags]) -> NDArray[np.float32]:
        """Probabilities of some samples [B, C]."""
        with torch.no_grad():
            return self.logits(rows).softmax(dim=1).numpy()


def fit(rows: Sequence[Bags], labels: NDArray[np.int64], classes: int) -> Classifier:
    """Train on rows and labels [N]. The same every time."""
    unchecked = torch.sparse.check_sparse_tensor_invariants(enable=False)  # says so, else it warns
    with torch.random.fork_rng(devices=[]), unchecked:
        torch.manual_seed(0)
        vectors = nn.EmbeddingBag(BUCKETS, WIDTH, mode="mean", sparse=True)
        nn.init.uniform_(vectors.weight, -1 / WIDTH, 1 / WIDTH)
        head = nn.Linear(WIDTH * len(rows[0]), classes)
        nn.init.zeros_(head.weight)
        made = Classifier(vectors, head)
        optimizer = torch.optim.Adagrad([*vectors.parameters(), *head.parameters()], lr=RATE)
        gold = torch.as_tensor(np.array(labels))
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(rows)).split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(made.logits([rows[i] for i in batch]), gold[batch]).backward()
                optimizer.step()
    return made


def out_of_fold(
    bags: BagsOf, labels: NDArray[np.int64], classes: int, folds: int, most: int
) -> NDArray[np.float32]:
    """Probabilities [N, C] of every sample by a classifier that was trained on the other folds.

    most: samples that the classifiers are trained on together, which bounds time and memory.
    Raises UserError if all of these have the same features.
    """
    count, start = len(labels), 0
    pool = draw.evenly(count, most)
    rows = [row for block in bags(pool) for row in block]
    fold_of = folds_of(rows, folds)
    if (fold_of == fold_of[0]).all():
        raise UserError(
            f"train: what a bag of words sees of it is the same in too many of its {count} samples to "
            "train on some and judge others; take another robust_compression.loss."
        )
    models = []
    for number in range(folds):
        others = np.flatnonzero(fold_of != number)
        models.append(fit([rows[i] for i in others], labels[pool[others]], classes))
    found = np.empty((count, classes), np.float32)
    for block in bags(None):
        fold_of = folds_of(block, folds)
        for number, model in enumerate(models):
            own = np.flatnonzero(fold_of == number)
            if len(own):
                found[start + own] = model.predict([block[i] for i in own])
        start += len(block)
    return found


def folds_of(rows: Sequence[Bags], folds: int) -> NDArray[np.int8]:
    """The fold of each sample [B]; that of samples with the same features is the same.

    A claim is often that of several samples, with one label, which a model of the others would only
    remember.
    """
    return np.array([zlib.crc32(np.concatenate(row).tobytes()) % folds for row in rows], np.int8)


def _flat(bags: Bags) -> tuple[Tensor, Tensor]:
    """Indices and offsets as EmbeddingBag takes them."""
    lengths = torch.tensor([0, *map(len, bags[:-1])])
    return torch.from_numpy(np.concatenate(bags).astype(np.int64)), lengths.cumsum(0)
