"""Pruned weights held at 0: master weights after each optimiser step, gradients before clipping.

So the forward pass needs no mask, and a mask is as large as the part of a matrix that the rank owns.
The master weights are zeroed in torch's own hook after `Optimizer.step`, before DeepSpeed copies them
to the weights that the model computes with; momentum could revive them otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.training import shards
from compress.training.shards import Shard
from compress.untyped import Engine


class Zeroing:
    """Parameters with pruned entries.

    shards: by name of the parameter; kept: by name, bool [length of the shard] on its device, where
    anything is pruned.
    """

    def __init__(self) -> None:
        """Nothing is pruned."""
        self.parameters: dict[str, nn.Parameter] = {}
        self.shards: dict[str, Shard] = {}
        self.kept: dict[str, Tensor] = {}
        self._changed: set[str] = set()
        self._engine: Any = None

    def add(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Parameters of a model without an engine yet."""
        self.parameters |= parameters
        self.shards |= shards.plain(parameters)

    def bind(self, engine: Engine) -> None:
        """Find the shards of this rank, and zero them after each step of the engine's optimiser."""
        if not self.parameters:
            return
        self._engine = engine
        self.shards = shards.of(engine, self.parameters)
        engine.basic_optimizer.register_step_post_hook(self._after_optimizer)

    def prune(self, name: str, entries: Tensor) -> None:
        """Prune these entries of a parameter too, bool [length of the shard]; then call `refresh`."""
        earlier = self.kept.get(name)
        self.kept[name] = ~entries if earlier is None else earlier & ~entries
        self.shards[name].zero(self.kept[name])
        self._changed.add(name)

    def refresh(self) -> None:
        """Zero what the model computes with where `prune` was called; collective from ZeRO 1 on."""
        changed = [(self.shards[n], self.kept[n]) for n in self.parameters if n in self._changed]
        self._changed.clear()
        if changed:
            shards.refresh_copies(self._engine, changed)

    def before_step(self) -> None:
        """Zero the gradients of pruned weights, so that the norm that clips does not count them."""
        for name, kept in self.kept.items():
            self.shards[name].zero_gradient(kept)

    def _after_optimizer(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:  # noqa: ANN401  of torch
        """Zero master weights that this step has changed: DeepSpeed steps one group at a time."""
        groups = optimizer.param_groups
        stepped = {p.untyped_storage().data_ptr() for group in groups for p in group["params"]}
        for name, kept in self.kept.items():
            shard = self.shards[name]
            if shard.length and shard.stored_in(stepped):
                shard.zero(kept)
