"""Feed-forward neurons (DeepSpeed calls them rows): `row_pruning`, by importance or learned scores.

By importance the lowest ffn neurons of each layer go, which is the first-order Taylor expansion of
removing them (Molchanov et al. 2017).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from compress.compression.technique import Share, something
from compress.compression.units import UnitGroup, UnitPruner, UnitPruning, Units, units_left
from compress.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from compress.compression.importance import Importance
    from compress.configuration.robust_schema import RobustCompression
    from compress.models.blocks import Block


class Neurons(UnitPruner):
    """Ffn neurons, switched off at the outputs of the first feed-forward layer."""

    name = unit = "neurons"
    kind = "row"

    def pick(
        self, group: Units, importance: Importance, done: float
    ) -> Iterator[tuple[int, Collection[int]]]:
        """The most important neurons of each block."""
        for number in group.blocks:
            keep = units_left(self.full(number), group.keep, done)
            yield number, kept_neurons(importance.neurons[number], keep, self.gone(number))


class NeuronGroup(UnitGroup):
    """First feed-forward layers that lose neurons; related_modules: the second ones."""

    params: Share
    """How much stays."""


class NeuronPruning(UnitPruning):
    """Ffn neurons of each layer go, those of the lowest importance or learned scores."""

    key = "row_pruning"
    order = 30
    word = "rows"
    pruner = Neurons
    layer_kind = "first feed-forward layer"

    different_groups: Annotated[dict[str, NeuronGroup], Field(min_length=1)]
    """Groups of layers, each under a name of your choice."""

    def takes(self, robust: RobustCompression) -> set[str]:
        """What heads take, and the rounding of the width."""
        return super().takes(robust) | {"structured.multiple_of"}

    def count(self, name: str, blocks: Sequence[Block], robust: RobustCompression) -> tuple[int, None]:
        """The width that is left of each block, rounded."""
        widths, path = {block.neurons for block in blocks}, self.path(name)
        if len(widths) > 1:
            raise UserError(f"{path}: its layers have different widths; make one group for each.")
        full, ratio = widths.pop(), self.different_groups[name].params.dense_ratio
        width = round(ratio * full)
        if width < 1:
            raise UserError(f"{path}.params.dense_ratio: leaves no ffn neuron of {full}.")
        keep = rounded_width(width, robust.structured.multiple_of, full)
        something(f"{path}.params", ratio, keep, full, "ffn neurons")
        return keep, None


def kept_neurons(importance: Tensor, keep: int, gone: Collection[int]) -> tuple[int, ...]:
    """The `keep` most important neurons [I] of one layer, ascending; `gone` stay removed."""
    scores = importance.double().clone()
    scores[list(gone)] = -float("inf")
    order = scores.sort(descending=True, stable=True).indices
    return tuple(sorted(order[: min(keep, len(scores) - len(gone))].tolist()))


def rounded_width(width: int, multiple: int, full: int) -> int:
    """The multiple nearest to `width`, at least one and at most `full`."""
    nearest = multiple * max(1, (2 * width + multiple) // (2 * multiple))
    return min(nearest, full)
