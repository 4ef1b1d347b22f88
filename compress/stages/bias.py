"""The bias models: which stage makes the probabilities that a loss asks for, and what they hold."""

import numpy as np
from numpy.typing import NDArray

from compress.mitigations._shared import Mitigation
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


def load(artefact: Artefact) -> NDArray[np.float32]:
    """Probabilities [N, C] of the training samples, mapped."""
    found: NDArray[np.float32] = np.load(artefact.path / "probabilities.npy", mmap_mode="r")
    return found
