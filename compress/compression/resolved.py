"""What a student loses, and when: `compression_training` resolved once against the model's shapes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from compress.compression.pruner import Pruner
from compress.configuration.config import Config, training_steps
from compress.errors import UserError
from compress.models import compressed, encoders

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Resolved:
    """The blocks that layer reduction keeps, in the student's order (None: all), and the pruners.

    model: what the student starts from, without weights (meta device), after layer reduction.
    """

    model: PreTrainedModel
    layers: tuple[int, ...] | None
    pruners: tuple[Pruner, ...]


def resolve(config: Config, start: Path, samples: int) -> Resolved:
    """What the student's training on `samples` samples does; start: directory of its first weights.

    Raises UserError for whatever of the compression the training would reject: layers that are not
    there, and what the pruners say (`PruningTechnique.resolve`).
    """
    shape, reduction = encoders.load_config(start), config.compression.layers
    layers = reduction.kept(shape) if reduction else None
    with torch.device("meta"):
        model = encoders.fresh_from(start, compressed.reduced(shape, layers) if layers else shape)
    found = pruners(config, model, samples)
    if reduction:
        reduction.check_others(model)
    return Resolved(model, layers, found)


def pruners(config: Config, model: PreTrainedModel, samples: int) -> tuple[Pruner, ...]:
    """The pruners of a model's training on `samples` samples, in the order of their work."""
    epochs = config.robust.student.epochs or config.robust.epochs
    total = training_steps(config, samples, epochs)
    found = tuple(block.resolve(model, config.robust, total) for block in config.compression.pruning)
    _check_order(found)
    return found


def _check_order(found: tuple[Pruner, ...]) -> None:
    """Sparsity is counted on what heads and neurons leave, so it must be completed last."""
    cutting = max((pruner.last for pruner in found if pruner.cuts), default=None)
    for pruner in found:
        if pruner.cuts or cutting is None:
            continue
        if pruner.learned:
            raise UserError(
                "compression_training.sparse_pruning: method 'topk' cannot keep its sparsity while "
                "heads or rows go; use method 'l1', or prune heads and rows in a run of their own."
            )
        if pruner.last < cutting:
            raise UserError(
                f"compression_training: sparse_pruning ends at step {pruner.last}, before heads and "
                f"rows are gone at step {cutting}; raise robust_compression.pruning.end or lower "
                "robust_compression.structured.end."
            )
