"""A shallow classifier of hashed words: what can be guessed without reading, and without an encoder.

After fastText (Joulin et al. 2017): a sample is one or more bags of features; a bag's vector is the
mean of its hashed features' vectors, the bags' vectors side by side go through a linear layer.
`text_bags` sees one text (Gururangan et al. 2018), `pair_bags` both texts and how their words overlap,
as the bias models of Clark et al. 2019 do.
"""

import re
import zlib
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

BUCKETS = 1 << 18
WIDTH, EPOCHS, BATCH, RATE = 32, 2, 64, 0.1
SETTINGS = (BUCKETS, WIDTH, EPOCHS, BATCH, RATE)

Bags = Sequence[NDArray[np.int32]]


def text_bags(text: str) -> Bags:
    """One bag: the words and neighbouring word pairs of a text, hashed."""
    return [_hashed(_grams(_words(text)))]


def pair_bags(first: str, second: str) -> Bags:
    """Six bags: the grams of each text, the words only in one, in both, and measures of overlap."""
    a, b = _words(first), _words(second)
    one, two = set(a), set(b)
    return [
        _bag("first", _grams(a)),
        _bag("second", _grams(b)),
        _bag("only first", sorted(one - two)),
        _bag("only second", sorted(two - one)),
        _bag("both", sorted(one & two)),
        _bag("overlap", _overlap(one, two)),
    ]


def _overlap(one: set[str], two: set[str]) -> Iterable[str]:
    """Of each text, in tenths the words that the other has, and the number of those that it lacks."""
    for name, own, other in (("first", one, two), ("second", two, one)):
        yield f"{name} shared {round(10 * len(own & other) / max(1, len(own)))}"
        yield f"{name} missing {min(10, len(own - other))}"


def fit_predict(
    rows: Sequence[Bags], labels: NDArray[np.int64], test: Sequence[Bags], classes: int
) -> NDArray[np.float32]:
    """Train on rows and labels [N]; the probabilities [M, C] of the test rows. The same every time."""
    unchecked = torch.sparse.check_sparse_tensor_invariants(enable=False)  # says so, else it warns
    with torch.random.fork_rng(devices=[]), unchecked:
        torch.manual_seed(0)
        vectors = nn.EmbeddingBag(BUCKETS, WIDTH, mode="mean", sparse=True)
        nn.init.uniform_(vectors.weight, -1 / WIDTH, 1 / WIDTH)
        head = nn.Linear(WIDTH * len(rows[0]), classes)
        nn.init.zeros_(head.weight)
        optimizer = torch.optim.Adagrad([*vectors.parameters(), *head.parameters()], lr=RATE)
        gold = torch.as_tensor(labels)

        def logits(chosen: Sequence[Bags]) -> Tensor:
            return head(vectors(*_flat([bag for bags in chosen for bag in bags])).view(len(chosen), -1))

        for _ in range(EPOCHS):
            for batch in torch.randperm(len(rows)).split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(logits([rows[i] for i in batch]), gold[batch]).backward()
                optimizer.step()
    with torch.no_grad():
        return logits(test).softmax(dim=1).numpy()


def out_of_fold(
    rows: Sequence[Bags], labels: NDArray[np.int64], classes: int, folds: int, most: int
) -> NDArray[np.float32]:
    """Probabilities [N, C] of every row by a classifier that was trained on the other folds.

    most: rows that a classifier is trained on at most, which bounds the time on a large set.
    """
    draw = np.random.default_rng(0)
    found = np.zeros((len(rows), classes), dtype=np.float32)
    for fold in np.array_split(draw.permutation(len(rows)), folds):
        rest = np.setdiff1d(np.arange(len(rows)), fold)
        rest = np.sort(draw.permutation(rest)[:most])
        train, test = ([rows[i] for i in part] for part in (rest, fold))
        found[fold] = fit_predict(train, labels[rest], test, classes)
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _grams(words: list[str]) -> list[str]:
    return [*words, *(f"{a} {b}" for a, b in pairwise(["<s>", *words, "</s>"]))]


def _bag(name: str, grams: Iterable[str]) -> NDArray[np.int32]:
    """Hashed features of a bag, which are its own; at least one."""
    return _hashed([f"{name}: {gram}" for gram in grams] or [f"{name}:"])


def _hashed(grams: Sequence[str]) -> NDArray[np.int32]:
    return np.array([zlib.crc32(gram.encode()) % BUCKETS for gram in grams], dtype=np.int32)


def _flat(bags: Bags) -> tuple[Tensor, Tensor]:
    """Indices and offsets as EmbeddingBag takes them."""
    lengths = torch.tensor([0, *map(len, bags[:-1])])
    return torch.from_numpy(np.concatenate(bags).astype(np.int64)), lengths.cumsum(0)
