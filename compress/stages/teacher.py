"""Stage teacher: fine-tune the encoder, store its softmax for every training sample.

A teacher given as `teacher.model` is not trained, only scored.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from compress import artefacts, checkpoint, export
from compress.compression.masks import Masks
from compress.mitigations.vanilla import Vanilla
from compress.models import encoders, label_order
from compress.scoring import evaluation
from compress.stages.context import (
    Artefact,
    Context,
    found,
    new_trainer,
    publish,
    score_split,
    watch_dev,
    watched,
)

KEY = "robust_compression.teacher.model"
Teacher = tuple[dict[str, Tensor], NDArray[np.float64], PreTrainedModel]


def inputs_of(context: Context) -> dict[str, Any]:
    """What the teacher depends on."""
    block = context.config.robust.teacher
    if block.model is not None:
        source = encoders.directory(block.model, KEY)
        order = encoders.find_labels(source, context.data.labels, context.data.task, trained=True)
        return {
            **context.for_teacher().training_inputs(),
            "stage": "teacher",
            "teacher": encoders.fingerprint(source),
            **label_order.inputs_of(order),
        }
    epochs = block.epochs or context.config.robust.epochs
    return {**context.training_inputs(), "stage": "teacher", "epochs": epochs}


def make(context: Context) -> Artefact:
    """Fine-tune the encoder on the task; store its softmax for every training sample [N, C]."""
    inputs = inputs_of(context)
    path = artefacts.place(context.cache_dir, "teacher", inputs)
    if (old := found(path, inputs)) is not None:
        return old
    began = time.perf_counter()
    block = context.config.robust.teacher
    epochs = block.epochs or context.config.robust.epochs
    weights, scores, shape = _given(context) if block.model else fine_tune(context, "teacher", epochs)

    def fill(folder: Path) -> None:
        np.save(folder / "probabilities.npy", np.exp(scores).astype(np.float32))
        shape.load_state_dict({name: weights[name] for name in shape.state_dict()})
        length = context.config.robust.task.max_length
        keep = context.data.task.keep
        tokenizer = context.for_teacher().encoder.tokenizer
        export.save(shape, tokenizer, length, keep, folder / "model")

    return publish(path, inputs, began, fill)


def train_accuracy(context: Context, made: Artefact) -> dict[str, float]:
    """Accuracy of a finished teacher on its training samples, as `{"train": accuracy}`."""
    probabilities = np.load(made.path / "probabilities.npy", mmap_mode="r")
    return {"train": float(evaluation.correct(probabilities, context.data.train).mean())}


def fine_tune(context: Context, name: str, epochs: int) -> Teacher:
    """Fine-tune the encoder; name: prefix of the events.

    Returns its weights, log-probabilities [N, C] of train, and an empty model of its shape.
    """
    torch.manual_seed(context.config.robust.seed)
    model = encoders.load_classifier(context.encoder.model, context.data.labels, task=context.data.task)
    shape = encoders.fresh(model)
    trainer = new_trainer(name, context, model, [Masks(), Vanilla()], epochs)
    trainer.run_until(trainer.total_steps, watch_dev(context))
    scores = score_split(context, trainer, "train")
    weights = checkpoint.gather(trainer.engine)
    trainer.close()
    return weights, scores, shape


def _given(context: Context) -> Teacher:
    """Score a teacher that the user has fine-tuned, in its own tokens, its outputs in our order."""
    robust, data = context.config.robust, context.data
    source = encoders.directory(robust.teacher.model or "", KEY)
    model = encoders.load_classifier(source, data.labels, trained=True, task=data.task)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    scores = evaluation.score(
        watched(context, "train", evaluation.model_forward(model, context.device)),
        context.for_teacher().columns["train"],
        robust.evaluation.batch_size,
        len(data.labels),
        context.device,
    )
    return weights, scores, encoders.fresh(model)


def find(context: Context) -> Artefact | None:
    """The teacher if it is finished."""
    inputs = inputs_of(context)
    return found(artefacts.place(context.cache_dir, "teacher", inputs), inputs)
