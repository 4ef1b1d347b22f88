"""Feed-forward neurons (DeepSpeed calls them rows): `row_pruning` with method "importance".

The ffn neurons of lowest importance go in each layer, by the first-order Taylor expansion of removing
them (Molchanov et al. 2017). A neuron is switched off at the first feed-forward layer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

from compress.compression.pruner import Living
from compress.compression.pruning_schedule import PruningSchedule
from compress.compression.technique import Schedule, Share, something
from compress.compression.units import UnitGroup, UnitPruner, Units, UnitTechnique, remaining
from compress.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from compress.compression.importance import Importance
    from compress.configuration.robust_schema import RobustCompression
    from compress.models.architectures import Block


class NeuronGroup(UnitGroup):
    """First feed-forward layers that lose neurons; related_modules: the second ones."""

    params: Share
    """How much stays."""

    @property
    def dense(self) -> float:
        """Share of the neurons that stays."""
        return self.params.dense_ratio


class NeuronImportanceSchedule(Schedule):
    """What holds for all groups of ffn neurons."""

    method: Literal["importance"] = "importance"
    """importance: the neurons of lowest |activation x gradient| go."""


class Neurons(UnitPruner):
    """Ffn neurons, switched off at the outputs of the first feed-forward layer."""

    name = unit = "neurons"
    kind = "row"

    def full(self, block: Block) -> int:
        """Neurons of a block before pruning."""
        return block.neurons

    def carrier(self, block: Block) -> str:
        """Name of the first feed-forward layer."""
        return block.intermediate

    def shape(self, layer: str) -> tuple[int, ...]:
        """[neurons, 1]."""
        return next(block.neurons for block in self.blocks if block.intermediate == layer), 1

    def pick(
        self, group: Units, importance: Importance, gone: float
    ) -> Iterator[tuple[int, Collection[int]]]:
        """The most important neurons of each block."""
        for number in group.blocks:
            keep = remaining(self.blocks[number].neurons, group.keep, gone)
            yield number, kept_neurons(importance.neurons[number], keep, self.gone(number))

    def left(self, block: Block, kept: Tensor) -> Living:
        """Outputs of the first and inputs of the second feed-forward layer."""
        return {block.intermediate: (kept, None), block.output: (None, kept)}

    def remove(self, weights: dict[str, Tensor], block: Block, mask: Tensor) -> None:
        """Zero removed neurons, their biases, and what the second layer makes of them, in place."""
        first, bias = f"{block.intermediate}.weight", f"{block.intermediate}.bias"
        mask = mask.to(weights[first])
        weights[first] = weights[first] * mask[:, None]
        weights[bias] = weights[bias] * mask
        weights[f"{block.output}.weight"] = weights[f"{block.output}.weight"] * mask


S = TypeVar("S", bound=Schedule)


class NeuronTechnique(UnitTechnique[S, NeuronGroup]):
    """`compression_training.row_pruning`, whatever its method."""

    key = "row_pruning"
    order = 30
    layer_kind = "first feed-forward layer"

    @property
    def label(self) -> str:
        """Such as `rows50` or `rows50_learned`."""
        return f"rows{self.percent()}{'_learned' if self.learned else ''}"

    def takes(self, robust: RobustCompression) -> set[str]:
        """What heads take, and the rounding of the width."""
        return super().takes(robust) | {"structured.multiple_of"}

    def carrier(self, block: Block) -> str:
        """Name of the first feed-forward layer."""
        return block.intermediate

    def related(self, block: Block) -> tuple[str, ...]:
        """Name of the second feed-forward layer."""
        return (block.output,)

    def planned(
        self,
        name: str,
        group: NeuronGroup,
        members: tuple[int, ...],
        blocks: Sequence[Block],
        schedule: PruningSchedule,
        robust: RobustCompression,
    ) -> Units:
        """The width that is left, rounded."""
        widths = {blocks[number].neurons for number in members}
        if len(widths) > 1:
            raise UserError(
                f"{self.path(name)}: its layers have different widths; make one group for each."
            )
        full, path = widths.pop(), f"{self.path(name)}.params.dense_ratio"
        width = round(group.dense * full)
        if width < 1:
            raise UserError(f"{path}: leaves no ffn neuron of {full}.")
        keep = rounded_width(width, robust.structured.multiple_of, full)
        something(path, group.dense, keep, full, "ffn neurons")
        return Units((schedule,), members, keep)


class NeuronImportance(NeuronTechnique[NeuronImportanceSchedule]):
    """Ffn neurons of the lowest importance go."""

    method = "importance"
    default = True

    @property
    def pruner(self) -> type[UnitPruner]:
        """See `Neurons`."""
        return Neurons

    @property
    def by_importance(self) -> bool:
        """Always."""
        return True


def kept_neurons(importance: Tensor, keep: int, gone: Collection[int]) -> tuple[int, ...]:
    """The `keep` most important neurons [I] of one layer, ascending; `gone` stay removed."""
    import torch

    scores = importance.double().clone()
    scores[list(gone)] = -torch.inf
    order = torch.sort(scores, descending=True, stable=True).indices
    return tuple(sorted(order[: min(keep, len(scores) - len(gone))].tolist()))


def rounded_width(width: int, multiple: int, full: int) -> int:
    """The multiple nearest to `width`, at least one and at most `full`."""
    nearest = multiple * max(1, (2 * width + multiple) // (2 * multiple))
    return min(nearest, full)
