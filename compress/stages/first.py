"""Stage first: the first model of just train twice, whose mistakes weigh more (Liu et al. 2021).

The encoder is fine-tuned for a few epochs and dropped; its softmax on train is kept in the cache,
shared by all runs with the same data, encoder, seed and epochs. A teacher that is trained
for as many epochs is the same model and is not trained again.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress import method_code
from compress.configuration.config import Config
from compress.mitigations.vanilla import Vanilla
from compress.stages.context import TRAINING, Context
from compress.stages.stage import Fill, Stage
from compress.stages.teacher import FILE, Teacher, fine_tune
from compress.stages.workspace import Artefact


@dataclass(frozen=True)
class First(Stage[Context]):
    """`probabilities.npy`: the first model's softmax [N, C] for every training sample, float32.

    epochs: of its training, as the loss says.
    """

    epochs: int
    name = "first"

    def reads(self, config: Config) -> tuple[str, ...]:
        """Keys of any training."""
        return TRAINING

    def needs(self, run: Context) -> tuple[Stage, ...]:
        """The teacher if it is the same model."""
        return (Teacher(),) if run.config.robust.first_is_teacher else ()

    def facts(self, run: Context) -> dict[str, Any]:
        """Facts of any training, the epochs, and the code of the loss."""
        own = {"epochs": self.epochs, "code": method_code.digest(Vanilla)}
        return {**run.training_facts(), **own}

    def includes(self, label: str) -> bool:
        """The teacher's seconds."""
        return label == "teacher"

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Train it, unless the teacher is the same model."""
        if "teacher" in made:
            file = made["teacher"].path / FILE
        else:
            with run.monitor.progress.stage("first"):
                file, _ = fine_tune(run, "first", self.epochs)

        def fill(folder: Path) -> None:
            shutil.copyfile(file, folder / FILE)

        return fill
