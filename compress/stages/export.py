"""A trained model as a directory that loads anywhere, checked before it counts as finished.

safetensors only, with the tokenizer, the labels, a model card, and the code that plain transformers
needs where layers have dimensions of their own (`remote_code`). The logits of the masked model in
training and of the exported, reloaded one must agree to 1e-5 in float32, else the export fails.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compress.data.columns import Columns
from compress.data.tasks import Task
from compress.errors import UserError
from compress.models import encoders, remote_code
from compress.scoring import evaluation

SAMPLES = 256
TOLERANCE = 1e-5


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    task: Task,
    folder: Path,
) -> None:
    """Write model and tokenizer.

    max_length: tokens of a sample in training; it, the number of texts and which was cut last go into
    config.json, for `compress.predict`.
    """
    setattr(model.config, encoders.TRAINED_LENGTH, max_length)
    setattr(model.config, encoders.TRAINED_KEEP, task.keep)
    setattr(model.config, encoders.TRAINED_TEXTS, len(task.texts))
    remote_code.save(model, folder)
    if tokenizer.is_fast:  # the length that it was last used with is no part of it
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)


def difference(
    folder: Path, expected: NDArray[np.float64], data: Columns, device: torch.device
) -> float:
    """Largest difference between expected logits [N, C] and a directory's, relative above 1.

    data: the N samples. Runs on the calling rank alone. Raises UserError above the tolerance.
    """
    forward = evaluation.model_forward(encoders.load_compressed(folder), device)
    found = evaluation.logits(forward, data, SAMPLES, expected.shape[1], device, alone=True)
    worst = float((np.abs(found - expected) / np.maximum(1.0, np.abs(expected))).max())
    if not worst <= TOLERANCE:
        raise UserError(
            f"{folder}: the exported model differs from the one in training by {worst:.1e} in its "
            f"logits (allowed: {TOLERANCE:.0e}); this is a defect of this program, please report it."
        )
    return worst
