"""Iterative magnitude pruning (IMP): `sparse_pruning` with method "l1".

The weights of lowest magnitude go step by step until the target; a pruned weight stays pruned, no
rewinding (Du et al. 2023, Sec. 3.1 and App. A).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import Field

from compress.compression.masking import Remaining, Target
from compress.compression.pruner import Planned, Pruner, PruningState
from compress.compression.pruning_schedule import PruningSchedule
from compress.compression.technique import Group, PruningTechnique, Schedule, Share
from compress.configuration.blocks import Count
from compress.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from compress.compression.masking import WeightMasks
    from compress.configuration.robust_schema import RobustCompression
    from compress.models.blocks import Slices


@dataclass(frozen=True)
class Weights(Planned):
    """Layers whose single weights are pruned along the same schedules; pattern: see `Target`."""

    layers: tuple[str, ...]
    pattern: tuple[int, int] | None = None


class Magnitude(Pruner):
    """Masks that remove the weights of lowest magnitude, among what heads and neurons leave."""

    name = "magnitude"
    kind = "sparse"
    groups: Mapping[str, Weights]

    @property
    def carriers(self) -> dict[str, Slices | None]:
        """Names of the layers."""
        return {name: None for group in self.groups.values() for name in group.layers}

    def refresh(self, step: int, state: PruningState) -> bool:
        """Prune where the schedule of `step` says so; whether it did."""
        due = [g for g in self.groups.values() if g.schedule(step).refresh_at(step)]
        targets = {
            name: Target(group.schedule(step).sparsity(step), group.pattern)
            for group in due
            for name in group.layers
        }
        if targets:
            self.prune(targets, state)
        return bool(due)

    def prune(self, targets: Mapping[str, Target], state: PruningState) -> None:
        """Bring layers to their targets."""
        self._weights.prune(targets, state.remaining)

    def counts(self, remaining: Remaining) -> tuple[float, float]:
        """Pruned weights and all weights of the layers, among those that heads and neurons leave."""
        return self._weights.counts(remaining)

    def finish(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Zero the pruned weights in place."""
        return self._weights.finish(weights)

    def state_dict(self) -> dict[str, Any]:
        """What is pruned by layer; see `WeightMasks.state`."""
        return dict(self._weights.state())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._weights.load(state)

    @property
    def _weights(self) -> WeightMasks:
        assert self.weights is not None, "the model has no masks yet"
        return self.weights


class WeightGroup(Group):
    """Layers that lose single weights."""

    params: Share
    """How much stays."""


class SparseShared(Schedule):
    """What holds for all groups of weights."""

    schedule_offset_stride: Count | None = None
    """Optimiser steps between two refreshes of the masks."""


class MagnitudeShared(SparseShared):
    """What holds for all groups of weights."""

    method: Literal["l1"] = "l1"
    """l1: the weights of lowest magnitude go (IMP)."""
    pattern: Literal["2:4", "4:8"] | None = None
    """2:4: of each four neighbouring inputs of an output two stay, which GPUs can use; 4:8: four of
    eight. dense_ratio must be 0.5. An addition to DeepSpeed's schema."""


class MagnitudePruning(PruningTechnique):
    """Single weights of lowest magnitude go, step by step."""

    key = "sparse_pruning"
    method = "l1"
    order = 40
    fractions = "pruning"
    word = "imp"
    pruner: ClassVar[type[Magnitude]] = Magnitude

    shared_parameters: MagnitudeShared
    """What holds for all groups."""
    different_groups: Annotated[dict[str, WeightGroup], Field(min_length=1)]
    """Groups of layers, each under a name of your choice."""

    @property
    def pattern(self) -> tuple[int, int] | None:
        """How many of how many neighbouring inputs stay, if they follow a pattern."""
        given = getattr(self.shared_parameters, "pattern", None)
        return None if given is None else (int(given[0]), int(given[2]))

    @property
    def amount(self) -> str:
        """Such as `40`, or `2of4`."""
        return super().amount if self.pattern is None else "{}of{}".format(*self.pattern)

    def takes(self, robust: RobustCompression) -> set[str]:
        """The schedule of single weights."""
        return {"pruning", "pruning.updates"}

    def stride(self, begin: int, end: int, updates: int) -> int:
        """Steps between two refreshes: as given, else so that there are at least `updates` of them."""
        return self.shared_parameters.schedule_offset_stride or max(1, (end - begin) // updates)

    def resolve(self, model: PreTrainedModel, robust: RobustCompression, total: int) -> Magnitude:
        """See `PruningTechnique.resolve`."""
        pruning, groups = robust.pruning, {}
        begin, end = self.steps(total, pruning.begin, pruning.end)
        stride = self.stride(begin, end, pruning.updates)
        for name, layers in self.matched(model).items():
            target = 1 - self.different_groups[name].params.dense_ratio
            schedule = PruningSchedule(0.0, target, begin, end, stride, pruning.curve)
            groups[name] = Weights((schedule,), tuple(layers), self.pattern)
            self._check_pattern(name, model, layers)
        return self.pruner(groups)

    def _check_pattern(self, name: str, model: PreTrainedModel, layers: Iterable[str]) -> None:
        """UserError unless the ratio is the pattern's and the layers can be divided into its groups."""
        if self.pattern is None:
            return
        stay, neighbours = self.pattern
        ratio, path = self.different_groups[name].params.dense_ratio, self.path(name)
        if ratio * neighbours != stay:
            raise UserError(
                f"{path}.params.dense_ratio is {ratio}; pattern {stay}:{neighbours} keeps "
                f"{stay / neighbours:g} of the weights."
            )
        for layer in layers:
            inputs = cast("nn.Linear", model.get_submodule(layer)).in_features
            if inputs % neighbours:
                raise UserError(
                    f"{path}.modules: '{layer}' has {inputs} inputs, which do not divide into groups "
                    f"of {neighbours} for the pattern {stay}:{neighbours}."
                )
