"""Stage first: the first model of just train twice, whose mistakes weigh more (Liu et al. 2021).

The encoder is fine-tuned for a few epochs and dropped; its softmax on train is kept in the cache,
shared by all runs with the same data, encoder, seed and `loss.first_epochs`. A teacher that was trained
for as many epochs is the same model and is not trained again.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np

from compress import artefacts
from compress.stages import teacher
from compress.stages.context import Artefact, Context, found, publish


def inputs_of(context: Context) -> dict[str, Any]:
    """What the first model depends on."""
    epochs = context.config.robust.loss.first_model_epochs
    return {**context.training_inputs(), "stage": "first", "epochs": epochs}


def make(context: Context) -> Artefact:
    """`probabilities.npy`: the first model's softmax [N, C] for every training sample, float32."""
    inputs = inputs_of(context)
    path = artefacts.place(context.cache_dir, "first", inputs)
    if (old := found(path, inputs)) is not None:
        return old
    began = time.perf_counter()
    same = {**inputs, "stage": "teacher"} == teacher.inputs_of(context)
    twin = teacher.find(context) if same else None
    if twin is not None:
        probabilities = np.load(twin.path / "probabilities.npy")
        began -= twin.seconds
    else:
        _, scores, _ = teacher.fine_tune(context, "first", inputs["epochs"])
        probabilities = np.exp(scores).astype(np.float32)

    def fill(folder: Path) -> None:
        np.save(folder / "probabilities.npy", probabilities)

    return publish(path, inputs, began, fill)
