"""The one place that knows DeepSpeed's compression library: its version, its layers, its masks.

What: `prepare` turns the Linear layers of the encoder blocks into the library's compressible layers,
`Masks` refreshes their masks along a sparsity schedule and removes them in the end. Why a seam: the
library left DeepSpeed with 0.19.7 (upstream PR #8490), so the rest of the package must not care.

Two gaps of the library are filled here. `sparse_pruning` with method l1 fails in the first step,
because the scheduler reads `schedule_offset_end`, which the parser fills for snip_momentum only. And
its mask is computed once, from the initial weights: iterating is ours.
"""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
from deepspeed.compression.basic_layer import LinearLayer_Compress
from deepspeed.compression.compress import init_compression
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.errors import UserError
from compress.pruning import Ramp, magnitude_mask

GROUPS = "compression_training.sparse_pruning.different_groups"


@dataclass(frozen=True)
class Group:
    """Layers pruned together: module keywords (regular expressions) and their ramps in order."""

    modules: tuple[str, ...]
    ramps: tuple[Ramp, ...]

    def ramp(self, step: int) -> Ramp:
        """The ramp that a step belongs to: the first that has not ended before it."""
        return next((ramp for ramp in self.ramps if step <= ramp.end), self.ramps[-1])


def _matches(model: nn.Module, name: str, group: Group) -> list[str]:
    """Names of the Linear layers of a group; UserError for a keyword that matches none."""
    found: list[str] = []
    for keyword in group.modules:
        layers = [
            layer
            for layer, module in model.named_modules()
            if re.search(keyword, layer) and isinstance(module, nn.Linear)
        ]
        if not layers:
            raise UserError(
                f"{GROUPS}.{name}.modules: '{keyword}' matches no linear layer of the model; "
                f"its layers have names such as '{_example(model)}'."
            )
        found += [layer for layer in layers if layer not in found]
    return found


def _example(model: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if isinstance(module, nn.Linear))


class Masks:
    """Sparse masks of a model under training: the position of the schedule is the caller's step."""

    def __init__(self, model: PreTrainedModel, groups: Mapping[str, Group]) -> None:
        """Convert the matched layers; all masks are 1 until the first refresh.

        Raises UserError for a keyword without a layer, or two groups that share one.
        """
        self.groups = dict(groups)
        self._names = self.match(model, groups)
        self._partitioned = False
        if groups:
            init_compression(model, {"compression_training": self._library_block()})
        modules = dict(model.named_modules())
        self.layers: dict[str, LinearLayer_Compress] = {
            layer: modules[layer] for layers in self._names.values() for layer in layers
        }

    @staticmethod
    def match(model: nn.Module, groups: Mapping[str, Group]) -> dict[str, list[str]]:
        """Names of the layers of each group; UserError as for the constructor."""
        names: dict[str, list[str]] = {}
        for name, group in groups.items():
            found = _matches(model, name, group)
            for layer in found:
                if any(layer in others for others in names.values()):
                    raise UserError(f"{GROUPS}.{name}: another group has the layer '{layer}' too.")
            names[name] = found
        return names

    def _library_block(self) -> dict[str, Any]:
        """DeepSpeed's schema for the groups, dense at first."""
        shared = {"enabled": True, "method": "l1", "schedule_offset": 0}
        different = {
            name: {
                "params": {"dense_ratio": 1.0},
                "modules": [f"^{re.escape(layer)}$" for layer in layers],
            }
            for name, layers in self._names.items()
        }
        return {"sparse_pruning": {"shared_parameters": shared, "different_groups": different}}

    def engine_block(self) -> dict[str, Any]:
        """`compression_training` for the engine's configuration; empty without groups."""
        return {"compression_training": self._library_block()} if self.groups else {}

    def attach(self, engine: deepspeed.DeepSpeedEngine) -> None:
        """Bind to the initialised engine.

        Gives its scheduler the key that its parser drops, and the masks the dtype of the weights: the
        engine converts parameters to bf16 or fp16, not buffers.
        """
        methods = engine.compression_scheduler.different_compression_methods
        methods["sparse_pruning"]["shared_parameters"].setdefault("schedule_offset_end", 0)
        self._partitioned = engine.zero_optimization_stage() == 3
        for layer in self.layers.values():
            layer.sparse_pruning_enabled = True
            layer.sparse_pruning_mask = layer.sparse_pruning_mask.to(layer.weight)

    def _gathered(self, layer: LinearLayer_Compress) -> AbstractContextManager[None]:
        if self._partitioned:
            return deepspeed.zero.GatheredParameters([layer.weight])
        return nullcontext()

    def refresh(self, step: int) -> bool:
        """Prune by magnitude where the schedule of `step` says so; whether a mask was refreshed.

        Runs on all ranks alike: the weights are equal there, and so are the masks.
        """
        refreshed = False
        for name, group in self.groups.items():
            ramp = group.ramp(step)
            if not ramp.refresh_at(step):
                continue
            refreshed = True
            for layer in (self.layers[layer] for layer in self._names[name]):
                with self._gathered(layer), torch.no_grad():
                    mask = layer.sparse_pruning_mask
                    new = magnitude_mask(
                        layer.weight, mask.view(layer.weight.shape), ramp.sparsity(step)
                    )
                layer.sparse_pruning_mask = new
        return refreshed

    def sparsity(self) -> float:
        """Share of pruned weights among the weights of all pruned layers (0 without groups)."""
        masks = [layer.sparse_pruning_mask for layer in self.layers.values()]
        total = sum(mask.numel() for mask in masks)
        return 1 - sum(float(mask.float().sum()) for mask in masks) / total if total else 0.0

    def state_dict(self) -> dict[str, Tensor]:
        """Masks by layer name, as bool on the CPU."""
        return {n: layer.sparse_pruning_mask.bool().cpu() for n, layer in self.layers.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back masks of `state_dict`."""
        for name, layer in self.layers.items():
            old = layer.sparse_pruning_mask
            layer.sparse_pruning_mask = state[name].view(old.shape).to(old.device, old.dtype)

    def apply(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Plain weights of a masked state dict: pruned weights exactly 0, no masks left."""
        for name, layer in self.layers.items():
            mask = layer.sparse_pruning_mask.view(weights[f"{name}.weight"].shape)
            weights[f"{name}.weight"] *= mask.to(weights[f"{name}.weight"])
        return {n: w for n, w in weights.items() if not n.endswith(".sparse_pruning_mask")}
