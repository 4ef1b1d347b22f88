"""A shallow classifier of hashed words: what can be guessed without reading, and without an encoder.

After fastText (Joulin et al. 2017): a sample is one or more bags of features; a bag's vector is the
mean of its hashed features' vectors, the bags' vectors side by side go through a linear layer. It is
trained on at most `MOST` samples; the others pass by.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data.texts import Places, Texts
from compress.runtime import parallel
from compress.stages.bags import BUCKETS, MOST_WORDS, Bags, Features

WIDTH, EPOCHS, BATCH, RATE = 32, 2, 64, 0.1
MOST = 100_000
SETTINGS = (BUCKETS, MOST_WORDS, WIDTH, EPOCHS, BATCH, RATE, MOST)
BagsOf = Callable[[Places | None], Iterator[list[Bags]]]
"""Gives the bags of some samples, None: of all, in their order and in blocks."""


def bags_of(texts: Texts, features: Features, processes: int) -> BagsOf:
    """The bags of the texts of samples."""

    def of(places: Places | None) -> Iterator[list[Bags]]:
        chosen = texts if places is None else texts.part(places)
        return parallel.in_order(features, chosen.blocks(), processes)

    return of


def spread(count: int, most: int) -> Places:
    """At most `most` places of `count`, spread evenly."""
    return np.arange(count) if count <= most else np.arange(most) * count // most


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
    """
    count, draw = len(labels), np.random.default_rng(0)
    fold_of = np.empty(count, np.int8)
    for number, fold in enumerate(np.array_split(draw.permutation(count), folds)):
        fold_of[fold] = number
    pool = spread(count, most)
    rows = [row for block in bags(pool) for row in block]
    models = []
    for number in range(folds):
        others = np.flatnonzero(fold_of[pool] != number)
        models.append(fit([rows[i] for i in others], labels[pool[others]], classes))
    found, start = np.empty((count, classes), np.float32), 0
    for block in bags(None):
        for number, model in enumerate(models):
            own = np.flatnonzero(fold_of[start : start + len(block)] == number)
            if len(own):
                found[start + own] = model.predict([block[i] for i in own])
        start += len(block)
    return found


def _flat(bags: Bags) -> tuple[Tensor, Tensor]:
    """Indices and offsets as EmbeddingBag takes them."""
    lengths = torch.tensor([0, *map(len, bags[:-1])])
    return torch.from_numpy(np.concatenate(bags).astype(np.int64)), lengths.cumsum(0)
