"""Bias models that are trained encoders: none judges a sample that it was trained on.

`EncoderBias` trains the run's encoder several times, each time on some samples, and keeps what each
makes of others. Which samples, and what it sees of them, its subclasses say.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compress import method_code
from compress.compression.masks import Masks
from compress.configuration.config import Config, training_steps
from compress.data import draw
from compress.data.columns import Columns
from compress.files import arrays
from compress.mitigations.vanilla import Vanilla
from compress.scoring import split_pass
from compress.stages.context import TRAINING, Context, new_trainer, score, start_model
from compress.stages.stage import Fill, Stage
from compress.stages.workspace import Artefact

Places = NDArray[np.int64]
Cut = tuple[Places, Places]
"""Places to train on, places to judge."""


class EncoderBias(Stage[Context]):
    """`probabilities.npy` [N, C] of every training sample, float32."""

    epochs: ClassVar[int]
    """Of each training."""

    @abstractmethod
    def cuts(self, columns: Columns, seed: int) -> Iterator[Cut]:
        """The samples of each model; every sample is judged once, by a model of others."""

    @abstractmethod
    def sizes(self, count: int) -> list[int]:
        """How many of `count` samples each is trained on, or about so many, before they are read."""

    @abstractmethod
    def settings(self) -> dict[str, int]:
        """What the cuts and the trainings depend on, as facts."""

    def columns(self, run: Context, made: Mapping[str, Artefact]) -> Columns:
        """The training samples as the models see them."""
        return run.columns["train"]

    def reads(self, config: Config) -> tuple[str, ...]:
        """Keys of any training."""
        return TRAINING

    def facts(self, run: Context) -> dict[str, Any]:
        """Facts of any training, the settings, how parts are drawn, and the code of the loss."""
        own = {**self.settings(), "draw": draw.SEED, "code": method_code.digest(Vanilla)}
        return {**run.training_facts(), **own}

    def work(self, config: Config, count: int) -> tuple[int, int]:
        """Optimiser steps of all trainings, and samples that are judged."""
        return sum(training_steps(config, own, self.epochs) for own in self.sizes(count)), count

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Train, and score."""
        columns = self.columns(run, made)
        count, judgements = len(columns), list[tuple[Places, Path]]()
        with run.monitor.progress.stage(self.name):
            for number, cut in enumerate(self.cuts(columns, run.config.robust.seed), 1):
                file = _judged(run, f"{self.name} {number}", columns, cut, self.epochs)
                judgements.append((cut[1], file))

        def fill(folder: Path) -> None:
            found = arrays.new(folder / "probabilities.npy", (count, len(run.data.labels)))
            for places, file in judgements:
                found[places] = np.load(file, mmap_mode="r")
            found.flush()

        return fill


def _judged(run: Context, name: str, columns: Columns, cut: Cut, epochs: int) -> Path:
    """The file of the probabilities of the samples to judge, by an encoder trained on others."""
    trained, judged = cut

    def only(places: Places) -> Context:
        encoder = replace(run.encoder, columns={"train": columns.part(places)})
        return replace(run, encoders={**run.encoders, run.active: encoder})

    part = f"{name} train"
    if (known := run.unfinished.known(part)) is not None:
        run.monitor.progress.skip(training_steps(run.config, len(trained), epochs))
        return known
    few = only(trained)
    trainer = new_trainer(name, few, start_model(few, run.encoder.model), [Masks(), Vanilla()], epochs)
    trainer.run_until(trainer.total_steps)
    trainer.engine.eval()
    write = partial(score, only(judged), "train", trainer.forward, split_pass.probabilities)
    file = run.unfinished.file(part, write)
    trainer.close()
    run.unfinished.forget(name)
    return file
