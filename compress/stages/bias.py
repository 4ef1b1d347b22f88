"""The bias models: which stage makes the probabilities that a loss asks for, and what they hold."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from compress.microbatch import SampleData
from compress.mitigations._shared import FromBias, Mitigation
from compress.runtime import ranks
from compress.stages import calibration
from compress.stages.context import Context
from compress.stages.shallow import Shallow
from compress.stages.stage import Stage
from compress.stages.weak import Weak
from compress.stages.workspace import Artefact

MODELS: dict[str, Stage[Context]] = {
    "shallow": Shallow(),
    "partial": Shallow(partial=True),
    "weak": Weak(),
}
"""Value of `loss.bias` -> the stage."""


def needed(loss: Mitigation) -> list[Stage[Context]]:
    """The stage of a loss that uses the probabilities of a bias model; none for another loss."""
    return [MODELS[loss.bias_model]] if loss.uses("bias") else []


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
        ranks.say(line)
        return exponent

    return replace(known, bias_exponent=ranks.on_main(find))


def load(artefact: Artefact) -> NDArray[np.float32]:
    """Probabilities [N, C] of the training samples, mapped."""
    found: NDArray[np.float32] = np.load(artefact.path / "probabilities.npy", mmap_mode="r")
    return found
