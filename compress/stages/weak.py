"""Stage weak: the encoder trained on few samples, a bias model that needs no idea of the bias.

With 2,000 samples an encoder learns what is easy, mostly shortcuts (Utama et al. 2020b). Two are
trained on different samples: the second judges the samples of the first, the first all others, so that
none judges what it was trained on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress import method_code
from compress.compression.masks import Masks
from compress.configuration.config import Config, training_steps
from compress.data.splits import TaskData
from compress.errors import UserError
from compress.files import arrays
from compress.mitigations.vanilla import Vanilla
from compress.models import encoders, label_order
from compress.scoring import split_pass
from compress.stages.context import TRAINING, Context, new_trainer, score, start_model
from compress.stages.stage import Fill, Stage
from compress.stages.workspace import Artefact

SAMPLES, EPOCHS = 2000, 3
Places = NDArray[np.int64]


class Weak(Stage[Context]):
    """`probabilities.npy` [N, C] of every training sample, float32."""

    name = "weak"

    def reads(self, config: Config) -> tuple[str, ...]:
        """Keys of any training."""
        return TRAINING

    def facts(self, run: Context) -> dict[str, Any]:
        """Facts of any training, how many samples and epochs, and the code of the loss."""
        few = {"samples": SAMPLES, "epochs": EPOCHS}
        return {**run.training_facts(), **few, "code": method_code.digest(Vanilla)}

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Train the two, and score."""
        count = len(run.columns["train"])
        judgements: list[tuple[Places, Path]] = []
        with run.monitor.progress.stage(self.name):
            for number, (trained, judged) in enumerate(cuts(count, run.config.robust.seed), 1):
                judgements.append((judged, _judged(run, f"{self.name} {number}", trained, judged)))

        def fill(folder: Path) -> None:
            found = arrays.new(folder / "probabilities.npy", (count, len(run.data.labels)))
            for places, file in judgements:
                found[places] = np.load(file, mmap_mode="r")
            found.flush()

        return fill


def check(config: Config, model: Path, data: TaskData) -> None:
    """Raise UserError if a loss asks for this bias model and the encoder knows the task already.

    model: directory of the run's encoder. A classifier of these labels may have seen every sample.
    """
    robust = config.robust
    keys = {"loss": robust.loss, "teacher.loss": robust.teacher.loss}
    asked = [key for key, loss in keys.items() if loss.uses("bias") and loss.bias_model == "weak"]
    if not asked or not label_order.is_classifier(encoders.load_config(model)):
        return
    if encoders.find_labels(model, data.labels, data.task).outputs is not None:
        raise UserError(
            f"robust_compression.{asked[0]}.bias: 'weak' trains the encoder on few samples, but "
            f"'{robust.model}' is a classifier of these labels, which may have seen them all; take "
            "'shallow' or 'partial', or name a plain encoder as model."
        )


def cuts(count: int, seed: int) -> Iterator[tuple[Places, Places]]:
    """(places to train on, places to judge) of the two models; of `count` samples, all judged once."""
    order, few = np.random.default_rng((seed, 0x3EA)).permutation(count), min(SAMPLES, count // 2)
    first, second = np.sort(order[:few]), np.sort(order[few : 2 * few])
    yield first, np.sort(order[few:])
    yield second, first


def steps(config: Config, count: int) -> int:
    """Optimiser steps of both trainings."""
    return 2 * training_steps(config, min(SAMPLES, count // 2), EPOCHS)


def _judged(run: Context, name: str, trained: Places, judged: Places) -> Path:
    """The file of the probabilities of the samples to judge, by an encoder trained on others."""

    def only(places: Places) -> Context:
        columns = {"train": run.columns["train"].part(places)}
        encoder = replace(run.encoder, columns=columns)
        return replace(run, encoders={**run.encoders, run.active: encoder})

    part = f"{name} train"
    if (known := run.unfinished.known(part)) is not None:
        run.monitor.progress.skip(training_steps(run.config, len(trained), EPOCHS))
        return known
    few = only(trained)
    trainer = new_trainer(name, few, start_model(few, run.encoder.model), [Masks(), Vanilla()], EPOCHS)
    trainer.run_until(trainer.total_steps)
    trainer.engine.eval()
    write = partial(score, only(judged), "train", trainer.forward, split_pass.probabilities)
    file = run.unfinished.file(part, write)
    trainer.close()
    run.unfinished.forget(name)
    return file
