"""What magnitude and movement pruning share: groups of layers whose single weights go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from compress.compression.pruner import Living, Planned, Pruner
from compress.compression.pruning_schedule import PruningSchedule
from compress.compression.technique import Group, PruningTechnique, Schedule, Share
from compress.configuration.blocks import Count

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from compress.configuration.robust_schema import RobustCompression


class WeightSchedule(Schedule):
    """What holds for all groups of weights."""

    schedule_offset_stride: Count | None = None
    """Optimiser steps between two refreshes of the masks; learned scores have one at every step."""


class WeightGroup(Group):
    """Layers that lose single weights."""

    params: Share
    """How much stays."""

    @property
    def dense(self) -> float:
        """Share of the weights that stays."""
        return self.params.dense_ratio


@dataclass(frozen=True)
class Weights(Planned):
    """Layers whose single weights are pruned along the same schedules."""

    layers: tuple[str, ...]


class WeightPruner(Pruner[Weights]):
    """Masks on single weights, as large as the weights."""

    kind = "sparse"

    @property
    def carriers(self) -> list[str]:
        """Names of the layers."""
        return [name for group in self.groups.values() for name in group.layers]

    def counts(self, living: Living) -> tuple[float, float]:
        """Pruned weights and all weights of the layers, among those that heads and neurons leave."""
        raise NotImplementedError

    def finish(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Zero the pruned weights in place."""
        for name, mask in self.masks.items():
            weight = weights[f"{name}.weight"]
            weights[f"{name}.weight"] = weight * mask.take(weights, name).to(weight)
        return weights


W = TypeVar("W", bound=WeightSchedule)


class WeightTechnique(PruningTechnique[W, WeightGroup]):
    """`compression_training.sparse_pruning`."""

    key = "sparse_pruning"
    fractions = "pruning"
    order = 40

    @property
    def pruner(self) -> type[WeightPruner]:
        """What does it to a model in training."""
        raise NotImplementedError

    def stride(self, begin: int, end: int, updates: int) -> int:
        """Optimiser steps between two refreshes of the masks."""
        raise NotImplementedError

    def resolve(self, model: PreTrainedModel, robust: RobustCompression, total: int) -> WeightPruner:
        """See `PruningTechnique.resolve`."""
        pruning, names = robust.pruning, self.matched(model)
        begin, end = self.steps(total, pruning.begin, pruning.end)
        stride = self.stride(begin, end, pruning.updates)
        groups: Mapping[str, Weights] = {
            name: Weights(
                (PruningSchedule(0.0, 1 - group.dense, begin, end, stride, pruning.curve),),
                tuple(names[name]),
            )
            for name, group in self.different_groups.items()
        }
        return self.pruner(groups)
