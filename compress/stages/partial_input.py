"""Stage partial input: a classifier that sees a part of the input cuts dev into easy and hard.

What it gets right from the hypothesis (claim, first question) alone is easy, the rest is hard
(Gururangan et al. 2018; Du et al. 2023, Sec. 4.1). Of a single text it sees the words without their
order, and the length. A bag of words, as Gururangan et al. used; one for each data set, whatever the
run's seed; kept in the cache.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data import draw
from compress.data.splits import Split
from compress.runtime import parallel
from compress.stages import bag_of_words, bags
from compress.stages.bags import Features
from compress.stages.context import Context
from compress.stages.stage import Fill, Stage
from compress.stages.workspace import Artefact


class PartialInput(Stage[Context]):
    """`hard.npy`: for every dev sample whether the classifier errs, bool [N]."""

    name = "partial_input"

    def facts(self, run: Context) -> dict[str, Any]:
        """The data alone."""
        splits, settings = run.data.fingerprint("train", "dev"), list(bag_of_words.SETTINGS)
        task = run.data.task
        return {
            "splits": splits,
            "text": "words" if task.single else task.partial,
            "settings": settings,
        }

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Train on train, predict dev."""
        data, processes = run.data, run.config.robust.processes or parallel.available()

        def fill(folder: Path) -> None:
            features, classes = bags.partial_input(data.task), len(data.labels)
            predicted = classify(data.train, data.dev, features, classes, processes)
            np.save(folder / "hard.npy", predicted != data.dev.labels)

        return fill


def load(artefact: Artefact) -> NDArray[np.bool_]:
    """The hard dev samples, bool [N]."""
    return np.load(artefact.path / "hard.npy")


def classify(
    train: Split, test: Split, features: Features, classes: int, processes: int = 1
) -> NDArray[np.int64]:
    """Train on the features of the training samples; the predicted classes [N] of the test samples."""
    known, asked = (bag_of_words.bags_of(s.texts, features, processes) for s in (train, test))
    places = draw.evenly(len(train), bag_of_words.MOST)
    rows = [row for block in known(places) for row in block]
    model = bag_of_words.fit(rows, train.labels[places], classes)
    return np.concatenate([model.predict(block).argmax(axis=1) for block in asked(None)])
