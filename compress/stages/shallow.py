"""Stage shallow: the difficulty of every training sample for a bag of words, instead of the variance.

A classifier that sees which words the two texts hold and how they overlap, trained on the other folds,
gives each sample the probability of its gold label; difficulty grows with 1 minus that. What it solves
a shortcut solves (Clark et al. 2019; Utama et al. 2020). It needs no sub-networks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.runtime import parallel
from compress.stages import bag_of_words
from compress.stages.bags import OfPair
from compress.stages.context import Context
from compress.stages.stage import Fill, Stage
from compress.stages.workspace import Artefact

FOLDS, MOST = 5, 62_500
"""So each classifier is trained on at most 50,000 samples."""


class Shallow(Stage[Context]):
    """`wrong.npy`: 1 - p(gold label) of every training sample out of fold, float32 [N]."""

    name = "shallow"

    def facts(self, run: Context) -> dict[str, Any]:
        """The training set alone, whatever the seed."""
        settings = [*bag_of_words.SETTINGS, FOLDS, MOST]
        return {"train": run.data.fingerprint("train"), "settings": settings}

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Train on the other folds, predict."""
        train, classes = run.data.train, len(run.data.labels)
        processes = run.config.robust.processes or parallel.available()

        def fill(folder: Path) -> None:
            bags = bag_of_words.bags_of(train.texts, OfPair(), processes)
            p = bag_of_words.out_of_fold(bags, train.labels, classes, FOLDS, MOST)
            np.save(folder / "wrong.npy", 1 - p[np.arange(len(p)), train.labels])

        return fill


def load(artefact: Artefact) -> NDArray[np.float64]:
    """1 - p(gold label) of every training sample, [N] in [0, 1]."""
    return np.load(artefact.path / "wrong.npy").astype(np.float64)
