"""What a student loses, and when: `compression_training` resolved once against the model's shapes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from compress.compression.pruner import Pruner
from compress.compression.pruners.magnitude import Magnitude
from compress.compression.pruners.neurons import Neurons
from compress.compression.pruning_schedule import n_pruned
from compress.configuration.config import Config, training_steps
from compress.errors import UserError
from compress.models import architectures, compressed, encoders
from compress.models.blocks import find_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ACTIVATIONS = ("hidden_act", "hidden_activation", "activation")
"""Keys of a model's configuration that name the activation of its feed-forward layers."""
NEARLY = 1e-6


@dataclass(frozen=True)
class Resolved:
    """The blocks that layer reduction keeps, in the student's order (None: all), and the pruners.

    model: what the student starts from, without weights (meta device), after layer reduction.
    """

    model: PreTrainedModel
    layers: tuple[int, ...] | None
    pruners: tuple[Pruner, ...]
    timetable: str = ""
    """When each of them works, for people; empty without any."""


def resolve(config: Config, start: Path, samples: int) -> Resolved:
    """What the student's training on `samples` samples does; start: directory of its first weights.

    Raises UserError for whatever of the compression the training would reject: layers that are not
    there, and what the pruners say (`PruningTechnique.resolve`).
    """
    shape, reduction = encoders.load_config(start), config.compression.layers
    layers = reduction.kept(shape) if reduction else None
    with torch.device("meta"):
        model = encoders.fresh_from(start, shape)
        if layers:
            _check_copied(config, model)
            model = encoders.fresh_from(start, compressed.reduced(shape, layers))
    found = pruners(config, model, samples)
    if reduction:
        reduction.check_others(model)
    return Resolved(model, layers, found, _timetable(config, found, _steps(config, samples)))


def pruners(config: Config, model: PreTrainedModel, samples: int) -> tuple[Pruner, ...]:
    """The pruners of a model's training on `samples` samples, in the order of their work."""
    total = _steps(config, samples)
    found = tuple(block.resolve(model, config.robust, total) for block in config.compression.pruning)
    _check_order(config, found)
    _check_amounts(model, found)
    _check_activation(model, found)
    _check_patterns(config, model, found)
    _check_library(config, model, found)
    return found


def _steps(config: Config, samples: int) -> int:
    """Optimiser steps of the student's training."""
    return training_steps(config, samples, config.robust.student.epochs or config.robust.epochs)


def _timetable(config: Config, found: tuple[Pruner, ...], total: int) -> str:
    """Such as "prunes heads20 at step 40 and imp40 8 times between steps 10 and 90, of 100"."""
    blocks = zip(config.compression.pruning, found, strict=True)
    each = [f"{b.label} {next(iter(p.groups.values())).schedules[-1]}" for b, p in blocks]
    return f"prunes {' and '.join(each)}, of {total}" if each else ""


def _check_order(config: Config, found: tuple[Pruner, ...]) -> None:
    """Sparsity is counted on what heads and neurons leave, so it must be completed last."""
    pairs = list(zip(config.compression.pruning, found, strict=True))
    ends = [(p.last, b.end_key(b.at_once(config.robust))) for b, p in pairs if p.cuts]
    for block, pruner in pairs:
        if pruner.cuts or not ends:
            continue
        cutting, key = max(ends)
        if pruner.learned:
            raise UserError(
                "compression_training.sparse_pruning: method 'topk' cannot keep its sparsity while "
                "heads or rows go; use method 'l1', or prune heads and rows in a run of their own."
            )
        if pruner.last < cutting:
            raise UserError(
                f"compression_training: sparse_pruning ends at step {pruner.last}, before heads and "
                f"rows are gone at step {cutting}; raise {block.end_key()} or lower {key}."
            )


def _check_amounts(model: PreTrainedModel, found: tuple[Pruner, ...]) -> None:
    """UserError for a share of weights that leaves a layer nothing, or takes nothing from a group."""
    for name, group in ((n, g) for p in found if isinstance(p, Magnitude) for n, g in p.groups.items()):
        path = f"compression_training.sparse_pruning.different_groups.{name}.params.dense_ratio"
        sizes = {layer: model.get_parameter(f"{layer}.weight").numel() for layer in group.layers}
        target = group.schedules[-1].target
        gone = {layer: n_pruned(size, target) for layer, size in sizes.items()}
        if empty := next((layer for layer, size in sizes.items() if gone[layer] == size), None):
            raise UserError(f"{path}: leaves none of the {sizes[empty]} weights of '{empty}'.")
        if target and not any(gone.values()):
            raise UserError(f"{path}: removes nothing, all {sum(sizes.values())} weights stay.")


def _check_activation(model: PreTrainedModel, found: tuple[Pruner, ...]) -> None:
    """UserError for ffn neurons whose activation is not 0 at 0: one of weights 0 adds to the output.

    None does where the mask also holds what the activation is multiplied by.
    """
    from transformers.activations import ACT2FN

    numbers = [n for p in found if isinstance(p, Neurons) for n in p.numbers]
    blocks = find_blocks(model) if numbers else []
    if all(len(blocks[number].neuron_slices[0].widths) > 1 for number in numbers):
        return
    for key in ACTIVATIONS:
        name = getattr(model.config, key, None)
        if not isinstance(name, str) or name not in ACT2FN:
            continue
        if abs(float(ACT2FN[name](torch.zeros(1, device="cpu")).detach())) > NEARLY:
            raise UserError(
                f"compression_training.row_pruning: '{key}' of the model is '{name}', which is not 0 "
                "at 0, so that an ffn neuron cannot be switched off before it is cut out; prune heads, "
                "layers or single weights."
            )


def check_embeddings(config: Config, model: nn.Module) -> None:
    """UserError for a model whose embeddings DeepSpeed's library would replace, wherever it masks."""
    classes = {type(module) for module in model.modules() if isinstance(module, nn.Embedding)}
    if config.robust.masks == "deepspeed" and classes - {nn.Embedding}:
        raise UserError(
            f"robust_compression.masks: DeepSpeed's library replaces the embeddings of "
            f"{type(model).__name__} by others that compute something else (upstream issue #2283); set "
            "it to 'native'."
        )


def _check_library(config: Config, model: PreTrainedModel, found: tuple[Pruner, ...]) -> None:
    """UserError for what DeepSpeed's library cannot mask."""
    if config.robust.masks != "deepspeed":
        return
    if found:
        check_embeddings(config, model)
    fused = find_blocks(model) if any(pruner.cuts for pruner in found) else []
    if any(len(block.neuron_slices[0].widths) > 1 for block in fused):
        raise UserError(
            "robust_compression.masks: DeepSpeed's library cannot mask ffn neurons of this model, "
            "which has two matrices in one layer; set it to 'native'."
        )


def _check_copied(config: Config, model: PreTrainedModel) -> None:
    """UserError for layers that DeepSpeed's library would copy wrongly; model: before any goes."""
    layers = model.get_submodule(architectures.find(model.config).blocks).children()
    names = [{name for name, _ in layer.named_parameters()} for layer in layers]
    if config.robust.masks == "deepspeed" and any(own != names[0] for own in names):
        raise UserError(
            "robust_compression.masks: DeepSpeed's library copies layers by the place of their "
            "parameters, and those of this model differ; set it to 'native'."
        )


def _check_patterns(config: Config, model: PreTrainedModel, found: tuple[Pruner, ...]) -> None:
    """A pattern must still be there when the inputs of heads and ffn neurons that go are cut out."""
    groups = {n: g for p in found if isinstance(p, Magnitude) for n, g in p.groups.items() if g.pattern}
    if not groups:
        return
    path = f"compression_training.sparse_pruning.different_groups.{next(iter(groups))}"
    if config.robust.masks == "deepspeed":
        raise UserError(
            f"{path}: DeepSpeed's library has no pattern; set robust_compression.masks to 'native'."
        )
    cutting = {pruner.name for pruner in found if pruner.cuts}
    if "neurons" in cutting:
        raise UserError(
            f"{path}: the pattern is lost where row_pruning cuts inputs; use one of the two in a run."
        )
    neighbours = max(group.pattern[1] for group in groups.values() if group.pattern)
    if "heads" in cutting and any(b.head_slices[0].widths[0] % neighbours for b in find_blocks(model)):
        raise UserError(
            f"{path}: the pattern is lost where head_pruning cuts inputs, because the size of a head "
            f"is no multiple of {neighbours}; use one of the two in a run."
        )
