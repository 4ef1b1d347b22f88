"""Stage teacher: fine-tune the encoder, store its softmax for every training sample.

A teacher given as `teacher.model` is not trained, only scored.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress import artefacts, checkpoint, losses, models
from compress.compression import Masks
from compress.context import Artefact, Context, found, new_trainer, publish, score_split, watch_dev
from compress.errors import UserError
from compress.trainer import Signals


def inputs_of(context: Context) -> dict[str, Any]:
    """What the teacher depends on."""
    block = context.config.robust.teacher
    if block.model is not None:
        return {
            **context.training_inputs(),
            "stage": "teacher",
            "teacher": models.fingerprint(models.directory(block.model)),
        }
    epochs = block.epochs or context.config.robust.epochs
    return {**context.training_inputs(), "stage": "teacher", "epochs": epochs}


def path_of(context: Context, inputs: Mapping[str, Any]) -> Path:
    """Directory of the teacher in the cache."""
    return context.cache_dir / "teacher" / artefacts.key(inputs)[:16]


def make(context: Context) -> Artefact:
    """Fine-tune the encoder on the task; store its softmax for every training sample [N, C]."""
    inputs = inputs_of(context)
    path = path_of(context, inputs)
    if (old := found(path, inputs)) is not None:
        return old
    began = time.perf_counter()
    robust = context.config.robust
    given = robust.teacher.model
    source = models.directory(given) if given else context.model
    if given and models.load_tokenizer(source).get_vocab() != context.tokenizer.get_vocab():
        raise UserError(
            f"robust_compression.teacher.model: '{given}' has another vocabulary than "
            f"'{robust.model}'; name an encoder with the teacher's vocabulary as model."
        )
    torch.manual_seed(robust.seed)
    model = models.load_classifier(source, context.data.labels, trained=given is not None)
    masks, shape = Masks(model, {}), models.fresh(model)
    epochs = robust.teacher.epochs or robust.epochs
    vanilla = Signals(losses.vanilla)
    trainer = new_trainer("teacher", context, model, masks, vanilla, epochs)
    if given is None:
        trainer.run_until(trainer.total_steps, watch_dev(context))
    scores = score_split(context, trainer, "train")
    weights = checkpoint.gather(trainer.engine)
    trainer.close()

    def fill(folder: Path) -> None:
        np.save(folder / "probabilities.npy", np.exp(scores).astype(np.float32))
        checkpoint.export(weights, masks, shape, context.tokenizer, folder / "model")

    return publish(path, inputs, began, fill)


def find(context: Context) -> Artefact | None:
    """The teacher if it is finished."""
    inputs = inputs_of(context)
    return found(path_of(context, inputs), inputs)
