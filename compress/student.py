"""Stage student: compress as `compression_training` says, train with the loss hook, export."""

import hashlib
import inspect
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress import artefacts, checkpoint, difficulty, losses, models
from compress.compression import Group, Masks
from compress.config import Config, training_steps
from compress.context import Artefact, Context, found, new_trainer, publish, start_model, watch_dev
from compress.data import TaskData
from compress.errors import UserError
from compress.losses import NEED_DIFFICULTY, LossWeights
from compress.pruning import Ramp
from compress.trainer import Signals


def inputs_of(context: Context, teacher: Artefact, hardness: Artefact | None) -> dict[str, Any]:
    """What the student depends on."""
    robust, merged = context.config.robust, context.config.merged
    block = robust.uncertainty
    hook = losses.resolve(robust.loss.hook)
    inputs = {
        **context.training_inputs(),
        "stage": "student",
        "epochs": robust.student.epochs or robust.epochs,
        "init_from": robust.student.init_from,
        "compression_training": merged.get("compression_training", {}),
        "pruning": robust.pruning.model_dump(),
        "hook": robust.loss.hook,
        "lambda": robust.loss.lambda_,
        "teacher": teacher.key,
    }
    if hook not in losses.LOSSES.values():
        source = Path(inspect.getfile(hook)).read_bytes()
        inputs["hook_source"] = hashlib.sha256(source).hexdigest()
    if hardness is not None:
        inputs["difficulty"] = hardness.key
        inputs["uncertainty"] = [block.alpha, block.normalisation, block.quantile]
    return inputs


def _needed(context: Context, hardness: Artefact | None) -> Artefact | None:
    """The loss matrix if the hook can use it, so that other students do not depend on it.

    Raises UserError if the hook cannot do without and there is none.
    """
    hook = context.config.robust.loss.hook
    if hook in NEED_DIFFICULTY and hardness is None:
        raise UserError(f"the loss '{hook}' needs the difficulty; run --stage difficulty first.")
    return hardness if hook in NEED_DIFFICULTY or ":" in hook else None


def make(context: Context, teacher: Artefact, hardness: Artefact | None) -> Artefact:
    """Compress as `compression_training` says, trained with the loss hook; export the model.

    hardness: the loss matrix, if there is one.
    """
    robust = context.config.robust
    hardness = _needed(context, hardness)
    inputs = inputs_of(context, teacher, hardness)
    path = context.output_dir / "student"
    if (old := found(path, inputs)) is not None:
        return old
    began = time.perf_counter()
    model = start_model(context, robust.student.init_from, teacher.path / "model")
    shape = models.fresh(model)
    epochs = robust.student.epochs or robust.epochs
    masks = Masks(model, pruning_groups(context.config, len(context.data.train)))
    signals = _signals(context, teacher, hardness)
    trainer = new_trainer("student", context, model, masks, signals, epochs)
    trainer.run_until(trainer.total_steps, watch_dev(context))
    sparsity = masks.sparsity()
    weights = checkpoint.gather(trainer.engine)
    trainer.close()

    def fill(folder: Path) -> None:
        setattr(shape.config, models.TRAINED_LENGTH, robust.task.max_length)
        checkpoint.export(weights, masks, shape, context.tokenizer, folder / "model")
        artefacts.write_json(folder / "student.json", {"sparsity": sparsity})

    return publish(path, inputs, began, fill)


def pruning_groups(config: Config, samples: int) -> dict[str, Group]:
    """Pruning groups of the student: targets from `compression_training`, steps from the schedule.

    Raises UserError if the schedule ends after the training.
    """
    training = config.deepspeed.compression_training
    sparse = training.sparse_pruning if training else None
    if sparse is None or not sparse.shared_parameters.enabled:
        return {}
    shared, pruning = sparse.shared_parameters, config.robust.pruning
    epochs = config.robust.student.epochs or config.robust.epochs
    total = training_steps(config, samples, epochs)
    begin, end = round(pruning.begin * total), round(pruning.end * total)
    begin = begin if shared.schedule_offset is None else shared.schedule_offset
    end = end if shared.schedule_offset_end is None else shared.schedule_offset_end
    if not begin <= end <= total:
        raise UserError(
            f"compression_training.sparse_pruning: the schedule goes from step {begin} to {end}, "
            f"but the student trains {total} steps; the offsets must rise and end before that."
        )
    stride = shared.schedule_offset_stride or max(1, (end - begin) // pruning.updates)
    return {
        name: Group(
            tuple(group.modules),
            (Ramp(0.0, 1 - group.params.dense_ratio, begin, end, stride, pruning.curve),),
        )
        for name, group in sparse.different_groups.items()
    }


def check(config: Config, model: Path, data: TaskData) -> None:
    """Raise UserError now for a schedule or module keyword that the student's training would reject.

    Builds the model's shape on the meta device: no weights.
    """
    groups = pruning_groups(config, len(data.train))
    if groups:
        with torch.device("meta"):
            Masks.match(models.fresh_from(model), groups)


def _signals(context: Context, teacher: Artefact, hardness: Artefact | None) -> Signals:
    robust = context.config.robust
    probabilities = np.load(teacher.path / "probabilities.npy", mmap_mode="r")
    d = None
    if hardness is not None:
        d = difficulty.sample_difficulty(context, difficulty.load_losses(hardness.path, "train"))
    mean = float(d.mean()) if d is not None and d.any() else 1.0
    weights = LossWeights(distillation=robust.loss.lambda_, mean_difficulty=mean)
    return Signals(losses.resolve(robust.loss.hook), weights, probabilities, d)


def find(context: Context, teacher: Artefact, hardness: Artefact | None) -> Artefact | None:
    """The student if it is finished."""
    inputs = inputs_of(context, teacher, _needed(context, hardness))
    return found(context.output_dir / "student", inputs)
