"""The bias models: which stage makes the probabilities that a loss asks for, and what they hold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.configuration.config import Config
from compress.data.splits import TaskData
from compress.errors import UserError
from compress.microbatch import SampleData
from compress.mitigations._shared import TRAINED_BIAS, FromBias, Mitigation
from compress.models import encoders, label_order
from compress.runtime import ranks
from compress.stages import calibration
from compress.stages.context import Context
from compress.stages.partial_encoder import PartialEncoder
from compress.stages.shallow import Shallow
from compress.stages.stage import Stage, find, obtain
from compress.stages.weak import Weak
from compress.stages.workspace import Artefact

MODELS: dict[str, Stage[Context]] = {
    "shallow": Shallow(),
    "partial": Shallow(partial=True),
    "partial_encoder": PartialEncoder(),
    "weak": Weak(),
}
"""Value of `loss.bias` -> the stage."""


def needed(loss: Mitigation) -> list[Stage[Context]]:
    """The stage of a loss that uses the probabilities of a bias model; none for another loss."""
    return [MODELS[loss.bias_model]] if loss.uses("bias") else []


def prepare(run: Context) -> None:
    """Make what bias models that are still to make read beside the tokens of whole samples."""
    models = (model for loss in run.config.robust.losses for model in needed(loss))
    for stage in {model.label: model for model in models}.values():
        if find(stage, run) is None:
            for need in stage.needs(run):
                obtain(need, run)


def known_with(known: SampleData, loss: Mitigation, labels: NDArray[np.integer]) -> SampleData:
    """With the exponent that calibrates the bias model, if the loss asks for it; says what it knows.

    labels: of the training samples [N].
    """
    bias = known.bias
    if bias is None:
        return known
    calibrates = isinstance(loss, FromBias) and loss.calibrate

    def find() -> float:
        right = calibration.accuracy(bias, labels)
        exponent = calibration.exponent(bias, labels) if calibrates else 1.0
        line = f"bias model '{loss.bias_model}': right for {right:.1%} of the training samples"
        line += ", each out of fold"
        if calibrates:
            line += f"; calibrated by the exponent {exponent:.2f}"
            line += "" if exponent else ": it knows nothing of the labels, and changes nothing"
        ranks.say(line)
        return exponent

    return replace(known, bias_exponent=ranks.on_main(find))


def load(artefact: Artefact) -> NDArray[np.float32]:
    """Probabilities [N, C] of the training samples, mapped."""
    found: NDArray[np.float32] = np.load(artefact.path / "probabilities.npy", mmap_mode="r")
    return found


def check(config: Config, model: Path, data: TaskData) -> None:
    """Raise UserError if a loss asks for a trained bias model and the encoder knows the task already.

    model: directory of the run's encoder. A classifier of these labels may have seen every sample.
    """
    robust = config.robust
    keys = {"loss": robust.loss, "teacher.loss": robust.teacher.loss}
    asked = [key for key, loss in keys.items() if loss.uses("bias") and loss.bias_model in TRAINED_BIAS]
    if not asked or not label_order.is_classifier(encoders.load_config(model)):
        return
    if encoders.find_labels(model, data.labels, data.task).outputs is not None:
        trained = keys[asked[0]].bias_model
        raise UserError(
            f"robust_compression.{asked[0]}.bias: '{trained}' trains the encoder on a part of the "
            f"samples, but '{robust.model}' is a classifier of these labels, which may have seen them "
            "all; take 'shallow' or 'partial', or name a plain encoder as model."
        )
