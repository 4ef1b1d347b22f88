"""Stage shallow: the difficulty of every training sample for a bag of words, instead of the variance.

A classifier that sees which words the two texts hold and how they overlap, trained on the other folds,
gives each sample the probability of its gold label; difficulty grows with 1 minus that. What it solves
a shortcut solves (Clark et al. 2019; Utama et al. 2020). It needs no sub-networks.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress import artefacts, bag_of_words
from compress.stages.context import Artefact, Context, found, publish

FOLDS, MOST = 5, 50_000


def inputs_of(context: Context) -> dict[str, Any]:
    """What the shallow classifier depends on: the training set alone, whatever the seed."""
    return {
        "stage": "shallow",
        "train": context.data.fingerprint("train"),
        "settings": [*bag_of_words.SETTINGS, FOLDS, MOST],
    }


def make(context: Context) -> Artefact:
    """`wrong.npy`: 1 - p(gold label) of every training sample out of fold, float32 [N]."""
    inputs = inputs_of(context)
    path = artefacts.place(context.cache_dir, "shallow", inputs)
    if (old := found(path, inputs)) is not None:
        return old
    began, train = time.perf_counter(), context.data.train

    def fill(folder: Path) -> None:
        rows = [bag_of_words.pair_bags(*pair) for pair in zip(*train.texts, strict=True)]
        p = bag_of_words.out_of_fold(rows, train.labels, len(context.data.labels), FOLDS, MOST)
        np.save(folder / "wrong.npy", 1 - p[np.arange(len(p)), train.labels])

    return publish(path, inputs, began, fill)


def load(artefact: Artefact) -> NDArray[np.float64]:
    """1 - p(gold label) of every training sample, [N] in [0, 1]."""
    return np.load(artefact.path / "wrong.npy").astype(np.float64)
