"""A trained model as a directory that loads anywhere, checked before it counts as finished.

safetensors only, with the tokenizer, the labels, a model card, and the code that plain transformers
needs where layers have dimensions of their own (`remote_code`). The weights are written one Transformer
block at a time into the place of the unfinished work, and moved when the rest is written. The logits of
the masked model in training and of the exported, reloaded one must agree to 1e-5 in float32, relative
to the largest, else the export fails.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compress.data.columns import Columns
from compress.data.tasks import Task
from compress.errors import UserError
from compress.files import disk
from compress.models import encoders, label_order, remote_code, streamed
from compress.models.weight_files import WeightWriter
from compress.runtime import ranks
from compress.scoring import evaluation
from compress.training import gathering
from compress.training.gathering import Portion

SAMPLES = 256
TOLERANCE = 1e-5


def begin(*folders: Path) -> list[WeightWriter]:
    """Writers into these directories, which are emptied; the main rank alone uses them."""

    def empty() -> None:
        for folder in folders:
            with disk.writing(folder):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)

    ranks.on_main(empty)
    return [WeightWriter(folder) for folder in folders]


def write(found: Iterator[Portion], take: Callable[[Portion], None], *writers: WeightWriter) -> None:
    """Have the main rank `take` all portions into these writers, and complete them.

    Collective where `found` is.
    """
    gathering.each(found, take, writers[0].folder)
    with ranks.sharing_errors():
        for writer in writers if ranks.is_main() else ():
            with disk.writing(writer.folder):
                writer.close()


def write_plain(found: Iterator[Portion], shape: PreTrainedModel, folder: Path) -> None:
    """Write the weights of a model as they are; collective where `found` is.

    shape: of the model, whose state they are.
    """
    names, [writer] = shape.state_dict().keys(), begin(folder)

    def take(portion: Portion) -> None:
        writer.add((name, value) for name, value in portion.items() if name in names)

    write(found, take, writer)


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    task: Task,
    folder: Path,
    weights: Path | None = None,
) -> None:
    """Write model and tokenizer.

    max_length: tokens of a sample in training; it, the number of texts and which was cut last go into
    config.json, for `compress.predict`. weights: a directory whose files are moved there; None: the
    model's own are written.
    """
    setattr(model.config, encoders.TRAINED_LENGTH, max_length)
    setattr(model.config, encoders.TRAINED_KEEP, task.keep)
    setattr(model.config, encoders.TRAINED_TEXTS, len(task.texts))
    remote_code.save(model, folder, weights)
    if tokenizer.is_fast:  # the length that it was last used with is no part of it
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)


def logits(folder: Path, data: Columns, classes: int, device: torch.device) -> NDArray[np.float64]:
    """Logits [N, C] of the model of a directory, computed block by block; on the calling rank alone."""
    names = label_order.names(folder, encoders.load_config(folder))
    model = encoders.load_classifier(folder, tuple(names), trained=True, whole=False).eval()
    with streamed.blocks(model, device):
        forward = evaluation.forward_of(model, device)
        return evaluation.logits(forward, data, SAMPLES, classes, device, alone=True)


def difference(
    folder: Path, expected: NDArray[np.float64], data: Columns, device: torch.device
) -> float:
    """Largest difference between expected logits [N, C] and a directory's, relative to the largest.

    Below a largest logit of 1 it is absolute. data: the N samples. Runs on the calling rank alone.
    Raises UserError above the tolerance.
    """
    found = logits(folder, data, expected.shape[1], device)
    worst = float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
    if not worst <= TOLERANCE:
        raise UserError(
            f"{folder}: the exported model differs from the one in training by {worst:.1e} in its "
            f"logits (allowed: {TOLERANCE:.0e}); this is a defect of this program, please report it."
        )
    return worst
