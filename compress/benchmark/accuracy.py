"""`train --teacher`: seconds until each training keeps the dev accuracy that all have at the end.

All distil the same trained teacher with the same share of it in the loss, rate and number of steps.
Dev is scored after each turn of a training, which is not timed. Ours has the teacher's probabilities
scored once, before its first step, which is.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from compress.configuration.config import Config
from compress.errors import UserError
from compress.files import shared
from compress.inference import timing
from compress.mitigations.distil import Distil
from compress.models import encoders
from compress.reporting.training_report import Look, Turn
from compress.scoring import split_pass
from compress.scoring.split_pass import Forward, SplitPass
from compress.stages.context import Context


@dataclass(frozen=True)
class Known:
    """What ours knows of the teacher: probabilities of train [N, C]; seconds to compute them."""

    probabilities: NDArray[np.float32]
    seconds: float


def check(teacher: Path, config: Config) -> None:
    """Raise UserError for no directory, and where a teacher does not make the trainings equal."""
    if not teacher.is_dir():
        raise UserError(f"--teacher {teacher}: is no directory; give that of a trained classifier.")
    if not isinstance(config.robust.loss, Distil) or config.robust.layerwise.any:
        raise UserError(
            "--teacher: what ours is compared with distils the teacher's probabilities only; give "
            "ds_configs/mitigation/distil.json as the loss, and no robust_compression.layerwise."
        )


def load(teacher: Path, context: Context) -> PreTrainedModel:
    """The classifier in the directory."""
    return encoders.load_classifier(teacher, context.data.labels, trained=True, task=context.data.task)


def known(teacher: Path, context: Context) -> Known:
    """The probabilities of a teacher, scored now."""
    wait, low = timing.synchroniser(context.device), context.config.deepspeed.low_precision
    wait()
    began = time.perf_counter()
    forward = split_pass.model_forward(load(teacher, context), context.device, low)
    file = context.output_dir / "teacher.npy"
    _pass(context, "train", forward).write(split_pass.probabilities, file)
    wait()
    return Known(shared.mapped(file), time.perf_counter() - began)


def look(context: Context, turn: Turn, forward: Forward) -> Look:
    """Dev accuracy of a training after a turn; forward: its forward pass, in evaluation mode."""
    dev = context.data.dev
    right = _pass(context, "dev", forward).right(dev)
    return Look(turn.training, turn.round, right / len(dev))


def _pass(context: Context, split: str, forward: Forward) -> SplitPass:
    together = split_pass.together(context.config)
    return SplitPass(forward, context.columns[split], together, context.device)
