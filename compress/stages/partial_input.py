"""Stage partial input: a classifier that sees one text of the pair cuts dev into easy and hard.

What it gets right from the hypothesis (claim, first question) alone is easy, the rest is hard
(Gururangan et al. 2018; Du et al. 2023, Sec. 4.1). After fastText (Joulin et al. 2017), which
Gururangan et al. used: the mean of hashed word and word-pair vectors, and a linear layer. One for each
data set, whatever the run's seed; kept in the cache.
"""

import re
import time
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from compress import artefacts
from compress.data.splits import Split
from compress.stages.context import Artefact, Context, found, publish

BUCKETS = 1 << 18
WIDTH, EPOCHS, BATCH, RATE = 32, 2, 64, 0.1


def make(context: Context) -> Artefact:
    """`hard.npy`: for every dev sample whether the classifier errs, bool [N]."""
    data = context.data
    inputs = {
        "stage": "partial_input",
        "splits": data.fingerprint("train", "dev"),
        "text": data.task.partial,
        "settings": [BUCKETS, WIDTH, EPOCHS, BATCH, RATE],
    }
    path = artefacts.place(context.cache_dir, "partial_input", inputs)
    if (old := found(path, inputs)) is not None:
        return old
    began, which = time.perf_counter(), data.task.partial

    def fill(folder: Path) -> None:
        predicted = classify(data.train, data.dev, which, len(data.labels))
        np.save(folder / "hard.npy", predicted != data.dev.labels)

    return publish(path, inputs, began, fill)


def load(artefact: Artefact) -> NDArray[np.bool_]:
    """The hard dev samples, bool [N]."""
    return np.load(artefact.path / "hard.npy")


def classify(train: Split, test: Split, which: int, classes: int) -> NDArray[np.int64]:
    """Train on one text of the training pairs; the predicted classes [N] of the test pairs."""
    unchecked = torch.sparse.check_sparse_tensor_invariants(enable=False)  # says so, else it warns
    with torch.random.fork_rng(devices=[]), unchecked:
        torch.manual_seed(0)
        bags = nn.EmbeddingBag(BUCKETS, WIDTH, mode="mean", sparse=True)
        nn.init.uniform_(bags.weight, -1 / WIDTH, 1 / WIDTH)
        head = nn.Linear(WIDTH, classes)
        nn.init.zeros_(head.weight)
        optimizer = torch.optim.Adagrad([*bags.parameters(), *head.parameters()], lr=RATE)
        rows, labels = [features(text) for text in train.texts[which]], torch.as_tensor(train.labels)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(rows)).split(BATCH):
                logits = head(bags(*_flat([rows[i] for i in batch])))
                optimizer.zero_grad()
                F.cross_entropy(logits, labels[batch]).backward()
                optimizer.step()
    with torch.no_grad():
        return head(bags(*_flat([features(t) for t in test.texts[which]]))).argmax(dim=1).numpy()


def features(text: str) -> list[int]:
    """Hashed words and neighbouring word pairs of a text, at least one."""
    words = ["<s>", *re.findall(r"\w+", text.lower()), "</s>"]
    grams = [*words[1:-1], *(f"{a} {b}" for a, b in pairwise(words))]
    return [zlib.crc32(gram.encode()) % BUCKETS for gram in grams]


def _flat(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Indices and offsets as EmbeddingBag takes them."""
    lengths = torch.tensor([0, *map(len, rows[:-1])])
    return torch.tensor([index for row in rows for index in row]), lengths.cumsum(0)
