"""Stage partial input: a classifier that sees one text of the pair cuts dev into easy and hard.

What it gets right from the hypothesis (claim, first question) alone is easy, the rest is hard
(Gururangan et al. 2018; Du et al. 2023, Sec. 4.1). A bag of words, as Gururangan et al. used; one for
each data set, whatever the run's seed; kept in the cache.
"""

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress import artefacts, bag_of_words
from compress.data.splits import Split
from compress.stages.context import Artefact, Context, found, publish


def make(context: Context) -> Artefact:
    """`hard.npy`: for every dev sample whether the classifier errs, bool [N]."""
    data = context.data
    inputs = {
        "stage": "partial_input",
        "splits": data.fingerprint("train", "dev"),
        "text": data.task.partial,
        "settings": list(bag_of_words.SETTINGS),
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
    rows, others = (
        [bag_of_words.text_bags(text) for text in split.texts[which]] for split in (train, test)
    )
    return bag_of_words.fit_predict(rows, train.labels, others, classes).argmax(axis=1)
