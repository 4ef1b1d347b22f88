"""Stage difficulty: the loss of every sample under pruned sub-networks of rising sparsity.

The loss matrix is the artefact; alpha and the normalisation of Eq. 1 (Du et al. 2023, Sec. 5.1) come
later, so that changing them costs nothing. The arithmetic is in `compress.uncertainty`.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from compress import artefacts, uncertainty
from compress.compression.masks import Masks
from compress.compression.pruners.magnitude import Magnitude, Weights
from compress.compression.pruning_schedule import PruningSchedule
from compress.compression.technique import match
from compress.configuration.config import Config, training_steps
from compress.configuration.robust_schema import RobustCompression
from compress.errors import UserError
from compress.mitigations.vanilla import Vanilla
from compress.models import encoders
from compress.scoring import evaluation
from compress.stages.context import (
    Artefact,
    Context,
    found,
    new_trainer,
    publish,
    score_split,
    start_model,
)
from compress.training.trainer import Trainer

UPDATES_PER_LEVEL = 10


def inputs_of(context: Context, teacher: Artefact) -> dict[str, Any]:
    """What the loss matrix depends on (not alpha and the normalisation, which come later)."""
    robust = context.config.robust
    here = context.starting_from(robust.uncertainty.init_from)
    inputs = {
        **here.training_inputs(),
        "stage": "difficulty",
        "dev": context.data.fingerprint("dev"),
        **robust.sub_networks,
    }
    from_teacher = robust.uncertainty.init_from == "teacher"
    return {**inputs, "teacher": teacher.key} if from_teacher else inputs


def make(context: Context, teacher: Artefact) -> Artefact:
    """Losses [N, T] of every train and dev sample under T sub-networks of rising sparsity.

    `trajectory`: one gradual pruning run that stops at each sparsity, scores and goes on.
    `independent`: one run for each sparsity (Du et al. 2023, Sec. 5.1).
    """
    inputs = inputs_of(context, teacher)
    path = artefacts.place(context.cache_dir, "difficulty", inputs)
    if (old := found(path, inputs)) is not None:
        return old
    check(context.config, len(context.data.train))
    began = time.perf_counter()
    block = context.config.robust.uncertainty
    context = context.starting_from(block.init_from)
    levels = [float(level) for level in block.sparsities]
    train: list[NDArray[np.float64]] = []
    dev: list[NDArray[np.float64]] = []
    runs = [levels] if block.protocol == "trajectory" else [[level] for level in levels]
    for targets in runs:
        for trainer in _stops(context, targets, teacher.path / "model"):
            for name, into in (("train", train), ("dev", dev)):
                scores = score_split(context, trainer, name)
                into.append(evaluation.cross_entropy(scores, context.columns[name].labels))

    def fill(folder: Path) -> None:
        for name, columns in (("train", train), ("dev", dev)):
            labels = context.columns[name].labels
            save_losses(folder / f"{name}.parquet", levels, np.stack(columns, 1), labels)

    return publish(path, inputs, began, fill)


def used(robust: RobustCompression) -> bool:
    """Whether the loss gets a difficulty."""
    return robust.loss.uses("difficulty")


def needed(robust: RobustCompression) -> bool:
    """Whether the run needs the loss matrix: for the loss itself, or to choose alpha for it."""
    return used(robust) and (not robust.loss.shallow or robust.uncertainty.alpha == "auto")


def _steps(config: Config, samples: int) -> int:
    return training_steps(config, samples, config.robust.sub_networks["epochs"])


def check(config: Config, samples: int) -> None:
    """Raise UserError now if the sub-networks do not fit into the training steps."""
    levels, steps = len(config.robust.uncertainty.sparsities), _steps(config, samples)
    if steps < levels:
        raise UserError(
            f"robust_compression.uncertainty: {levels} sparsities do not fit into {steps} "
            "training steps; raise uncertainty.epochs or lower train_batch_size."
        )


def check_model(config: Config, model: Path) -> None:
    """Raise UserError now if a model has no linear layers in blocks, which is what this stage prunes.

    model: directory of the run's encoder. Builds the shape on the meta device: no weights.
    """
    robust, key = config.robust, "model"
    name = robust.model
    if robust.uncertainty.init_from == "teacher" and robust.teacher.model is not None:
        name, key = robust.teacher.model, "teacher.model"
        model = encoders.directory(name, f"robust_compression.{key}")
    with torch.device("meta"):
        shape = encoders.fresh_from(model)
    try:
        _linear_layers(shape)
    except UserError:
        raise UserError(
            f"robust_compression.{key}: the stage difficulty prunes the linear layers of Transformer "
            f"blocks, and '{name}' ({type(shape).__name__}) has none that can be found; take another "
            "model, or a loss without it (such as distil, or robust_compression.loss.difficulty "
            "'shallow') and the stages teacher, student and evaluate in turn."
        ) from None


def _linear_layers(model: PreTrainedModel) -> list[str]:
    """Names of the linear layers in the Transformer blocks; UserError if there are none."""
    return match(model, {"blocks": [block_pattern(model)]}, "sparse_pruning")["blocks"]


def _stops(context: Context, targets: list[float], teacher_model: Path) -> Iterator[Trainer]:
    """Train one pruning run and yield the trainer at each target sparsity, recovered."""
    block = context.config.robust.uncertainty
    epochs = context.config.robust.sub_networks["epochs"]
    model = start_model(context, block.init_from, teacher_model)
    total = _steps(context.config, len(context.data.train))
    ends = [round(total * (i + 1) / len(targets)) for i in range(len(targets))]
    begins = [0, *ends[:-1]]
    schedules = []
    for start, target, begin, end in zip([0.0, *targets], targets, begins, ends, strict=False):
        half = begin + max(1, (end - begin) // 2)
        stride = max(1, (half - begin) // UPDATES_PER_LEVEL)
        schedules.append(PruningSchedule(start, target, begin, half, stride))
    layers = _linear_layers(model)
    masks = Masks([Magnitude({"blocks": Weights(tuple(schedules), tuple(layers))})])
    masks.attach(model)
    name = "difficulty" if len(targets) > 1 else f"difficulty {targets[0]:.2f}"
    trainer = new_trainer(name, context, model, [masks, Vanilla()], epochs)
    for end in ends:
        trainer.run_until(end)
        yield trainer
    trainer.close()


def block_pattern(model: PreTrainedModel) -> str:
    """Regular expression for everything in the encoder's Transformer blocks."""
    return "^" + encoders.block_prefix(model).replace(".", r"\.") + r"\."


def save_losses(
    file: Path, levels: list[float], matrix: NDArray[np.float64], labels: NDArray[np.int64]
) -> None:
    """Write one row a sample: index, label, the loss under each sub-network, the variance."""
    columns: dict[str, NDArray[Any]] = {"index": np.arange(len(labels)), "label": labels}
    columns |= {f"loss_{level!r}": matrix[:, i] for i, level in enumerate(levels)}
    columns["variance"] = uncertainty.variance(matrix)
    pq.write_table(pa.table(columns), file)


def load_losses(folder: Path, split: str) -> NDArray[np.float64]:
    """The loss matrix [N, T] of a split."""
    table = pq.read_table(folder / f"{split}.parquet")
    names = [name for name in table.column_names if name.startswith("loss_")]
    return np.stack([table[name].to_numpy() for name in names], axis=1)


def sample_difficulty(context: Context, v: NDArray[np.float64]) -> NDArray[np.float64]:
    """v [N] -> d [N] of Eq. 1 with the configured alpha and normalisation."""
    block = context.config.robust.uncertainty
    assert isinstance(block.alpha, float), "alpha 'auto' is settled before it is used"
    return uncertainty.difficulty(v, block.alpha, block.normalisation, block.quantile)


def find(context: Context, teacher: Artefact) -> Artefact | None:
    """The loss matrix if it is finished."""
    inputs = inputs_of(context, teacher)
    return found(artefacts.place(context.cache_dir, "difficulty", inputs), inputs)
