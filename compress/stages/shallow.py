"""Stage shallow: what bags of words make of every training sample, by classifiers of the other folds.

Of a pair both texts, their words and how they overlap, or one of the texts; of a single text its words
without their order, and its length. What they solve a shortcut solves (Clark et al. 2019; Utama et al.
2020a). Their error is a difficulty that needs no sub-networks, their probabilities are a bias model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.runtime import parallel
from compress.stages import bag_of_words, bags
from compress.stages.context import Context
from compress.stages.stage import Fill, Stage
from compress.stages.workspace import Artefact

FOLDS, MOST = 5, 62_500
"""So each classifier is trained on about 50,000 samples at most."""


@dataclass(frozen=True)
class Shallow(Stage[Context]):
    """`probabilities.npy` [N, C] of every training sample out of fold, float32.

    partial: whether the classifiers see one text of a pair alone, the one that the task names.
    """

    partial: bool = False
    name = "shallow"

    @property
    def label(self) -> str:
        """With what it sees."""
        return f"{self.name} of one text" if self.partial else self.name

    def facts(self, run: Context) -> dict[str, Any]:
        """The training set alone, whatever the seed."""
        settings = [*bag_of_words.SETTINGS, FOLDS, MOST]
        text = {"text": run.data.task.partial} if self.partial else {}
        gives = {"gives": "[N, C]", "folds": "by features"}
        return {"train": run.data.fingerprint("train"), "settings": settings, **gives, **text}

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Train on the other folds, predict."""
        train, classes = run.data.train, len(run.data.labels)
        processes = run.config.robust.processes or parallel.available()
        features = (bags.partial_input if self.partial else bags.shallow)(run.data.task)

        def fill(folder: Path) -> None:
            every = bag_of_words.bags_of(train.texts, features, processes)
            p = bag_of_words.out_of_fold(every, train.labels, classes, FOLDS, MOST)
            np.save(folder / "probabilities.npy", p)

        return fill


def load(artefact: Artefact, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 - p(gold label) of every training sample, [N] in [0, 1]; labels: [N]."""
    p = np.load(artefact.path / "probabilities.npy", mmap_mode="r")
    return 1 - p[np.arange(len(p)), labels].astype(np.float64)
