"""What heads and ffn neurons share: units of Transformer blocks that go, chosen or by learned scores.

A unit is switched off by a mask on one linear layer of its block; what belongs to it in other layers is
cut when the model is exported (`compress.models.compressed`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from compress.compression.masking import Remaining
from compress.compression.pruner import Planned, Pruner, PruningState
from compress.compression.pruning_schedule import PruningSchedule
from compress.compression.technique import Group, Patterns, PruningTechnique, Schedule, match
from compress.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from compress.compression.importance import Importance
    from compress.compression.masking import LayerMask
    from compress.configuration.robust_schema import RobustCompression
    from compress.models.blocks import Block, Slices


@dataclass(frozen=True)
class Units(Planned):
    """Blocks whose units are pruned together: numbers of the blocks, and how many units stay.

    keep: over all blocks for heads chosen by importance, unless `even`, else in each block; pruned: the
    units that go in every block, if they are listed.
    """

    blocks: tuple[int, ...]
    keep: int
    pruned: tuple[int, ...] | None = None
    even: bool = False


class UnitPruner(Pruner):
    """Units that go by importance, from a list, or by learned scores of each block (`learned`).

    unit: their name in `Block`, `Importance` and `Kept`; kept: units of each block that stay.
    """

    cuts = True
    unit: ClassVar[str]
    groups: Mapping[str, Units]

    def __init__(self, groups: Mapping[str, Units]) -> None:
        """All units stay."""
        super().__init__(groups)
        self.kept: dict[int, tuple[int, ...]] = {}

    @abstractmethod
    def pick(
        self, group: Units, importance: Importance, done: float
    ) -> Iterator[tuple[int, Collection[int]]]:
        """Block numbers, and units that stay there when `done` (0 to 1) of the removal is done."""

    @classmethod
    def slices(cls, block: Block) -> tuple[Slices, ...]:
        """The layers of a block that shrink together, first the one that carries the mask."""
        return block.slices(cls.unit)

    @property
    def numbers(self) -> list[int]:
        """Numbers of all blocks that lose units."""
        return sorted(number for group in self.groups.values() for number in group.blocks)

    @property
    def carriers(self) -> dict[str, Slices | None]:
        """Names of the layers that carry masks, in the order of the blocks, and their units."""
        return {(own := self.slices(self.blocks[n])[0]).layer: own for n in self.numbers}

    def full(self, number: int) -> int:
        """Units of a block before pruning."""
        return self.slices(self.blocks[number])[0].units

    def mask(self, number: int) -> LayerMask:
        """The mask of a block."""
        return self.masks[self.slices(self.blocks[number])[0].layer]

    def gone(self, number: int) -> set[int]:
        """Units of a block that are removed."""
        everything = range(self.full(number))
        return set(everything) - set(self.kept.get(number, everything))

    def due(self, step: int) -> list[Units]:
        """Groups of which something goes at this step: not where the schedule begins with nothing."""
        groups = [(group, group.schedule(step)) for group in self.groups.values()]
        return [group for group, s in groups if s.refresh_at(step) and s.sparsity(step) > 0]

    def needs_importance(self, step: int) -> bool:
        """Whether units are chosen by importance at this step."""
        return not self.learned and any(group.pruned is None for group in self.due(step))

    def refresh(self, step: int, state: PruningState) -> bool:
        """Remove units where the schedule of `step` says so; whether it did."""
        due = self.due(step)
        for group in due:
            done = group.schedule(step).sparsity(step)
            if self.learned:
                for number in group.blocks:
                    self.mask(number).keep(units_left(self.full(number), group.keep, done))
                continue
            for number, units in self._chosen(group, state.importance, done):
                self.kept[number] = tuple(sorted(units))
                self.mask(number).choose(self.kept[number])
        return bool(due)

    def _chosen(
        self, group: Units, importance: Importance | None, done: float
    ) -> Iterator[tuple[int, Collection[int]]]:
        """Block numbers, and the units that stay there: those that are not listed, or by importance."""
        if group.pruned is not None:
            return ((n, set(range(self.full(n))) - set(group.pruned)) for n in group.blocks)
        assert importance is not None
        return self.pick(group, importance, done)

    def remaining(self) -> Remaining:
        """What the kept units leave of the layers; nothing is known of learned scores."""
        import torch

        found: dict[str, tuple[Tensor | None, Tensor | None]] = {}
        for number, units in () if self.learned else sorted(self.kept.items()):
            for one in self.slices(self.blocks[number]):
                places = one.places(torch.tensor(units))
                found[one.layer] = (places, None) if one.axis == 0 else (None, places)
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        super().load_state_dict(state)
        for number in () if self.learned else self.numbers:
            self.kept[number] = tuple(self.mask(number).state().nonzero().flatten().tolist())

    def finish(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Zero what belongs to removed units in these blocks; `kept` says what is left."""
        for number in self.numbers:
            if f"{self.slices(self.blocks[number])[0].layer}.weight" not in weights:
                continue
            mask = self.mask(number).take(weights).view(-1)
            self.kept[number] = tuple(mask.nonzero().flatten().tolist())
            for one in self.slices(self.blocks[number]):
                _zero(weights, one, mask)
        return weights


def _zero(weights: dict[str, Tensor], one: Slices, mask: Tensor) -> None:
    """Zero the weights and biases of the units of a layer that are 0 in mask [units], in place."""
    weight, bias = f"{one.layer}.weight", f"{one.layer}.bias"
    entries = one.spread(mask.to(weights[weight]))
    weights[weight] = weights[weight] * (entries if one.axis else entries[:, None])
    if one.axis == 0 and bias in weights:
        weights[bias] = weights[bias] * entries


def units_left(full: int, keep: int, done: float) -> int:
    """What is left of `full` on the way to `keep`, when `done` (0 to 1) of the removal is done."""
    return full - round((full - keep) * done)


class UnitGroup(Group):
    """Layers that lose units, and the layers that must shrink with them."""

    related_modules: list[Patterns] | None = None
    """Regular expressions for the layers that shrink too, one list for each of `modules`; default:
    those of the architecture."""


class UnitShared(Schedule):
    """What holds for all groups of units."""

    method: Literal["topk", "importance"] = "importance"
    """importance: the units go on which the loss depends least, to first order; topk: those of each
    layer with the lowest learned scores."""


class UnitPruning(PruningTechnique):
    """A block that removes units.

    pruner: what removes them; layer_kind: what `modules` must match.
    """

    fractions = "structured"
    pruner: ClassVar[type[UnitPruner]]
    layer_kind: ClassVar[str]

    shared_parameters: UnitShared
    """What holds for all groups."""
    different_groups: Mapping[str, UnitGroup]
    """Groups of layers, each under a name of your choice."""

    @property
    def chooses(self) -> str:
        """By importance or learned scores."""
        return "learned" if self.shared_parameters.method == "topk" else "importance"

    @property
    def amount(self) -> str:
        """Such as `50` or `50_learned`."""
        return self.percent + ("_learned" if self.learned else "")

    def check(self, blocks: Sequence[Block]) -> None:
        """UserError for a number in shared_parameters that is not the model's."""

    @abstractmethod
    def count(
        self, name: str, blocks: Sequence[Block], robust: RobustCompression
    ) -> tuple[int, tuple[int, ...] | None]:
        """How many units of a group's blocks stay, and which go if they are listed; see `Units`.

        Raises UserError for what leaves nothing or removes nothing.
        """

    def takes(self, robust: RobustCompression) -> set[str]:
        """The schedule of heads and neurons; rounds and samples where something is chosen."""
        keys = {"structured"} | ({"score_lr"} if self.learned else set())
        if self.chooses == "importance":
            keys |= {"structured.rounds", "structured.samples"}
        return keys if self.at_once(robust) else keys | {"structured.begin"}

    def resolve(self, model: PreTrainedModel, robust: RobustCompression, total: int) -> UnitPruner:
        """See `PruningTechnique.resolve`."""
        from compress.models.blocks import find_blocks

        blocks = find_blocks(model)
        self.check(blocks)
        groups, schedules = {}, (self._schedule(robust, total),)
        for name, numbers in self._members(model, blocks).items():
            own = [blocks[number] for number in numbers]
            self._check_related(name, model, own, blocks)
            groups[name] = Units(schedules, numbers, *self.count(name, own, robust))
        pruner = self.pruner(groups)
        pruner.learned = self.learned
        return pruner

    def at_once(self, robust: RobustCompression) -> bool:
        """In one round."""
        return self.shared_parameters.method != "topk" and robust.structured.rounds == 1

    def _schedule(self, robust: RobustCompression, total: int) -> PruningSchedule:
        """In rounds, the last at the end, or at every step along a cubic curve."""
        block = robust.structured
        begin, end = self.steps(total, block.begin, block.end, self.at_once(robust))
        if self.shared_parameters.method == "topk":
            return PruningSchedule(0.0, 1.0, begin, end)
        stride = max(1, -(-(end - begin) // block.rounds))
        return PruningSchedule(0.0, 1.0, begin, end, stride, "linear")

    def _members(self, model: PreTrainedModel, blocks: Sequence[Block]) -> dict[str, tuple[int, ...]]:
        """Block numbers of each group; UserError for a layer that is not of the technique's kind."""
        owners = {self.pruner.slices(block)[0].layer: n for n, block in enumerate(blocks)}
        matched = self.matched(model)
        for name, layers in matched.items():
            if wrong := next((layer for layer in layers if layer not in owners), None):
                raise UserError(
                    f"{self.path(name)}.modules: '{wrong}' is no {self.layer_kind}; "
                    f"in this model these are layers such as '{next(iter(owners))}'."
                )
        return {name: tuple(owners[layer] for layer in layers) for name, layers in matched.items()}

    def usual(self, model: PreTrainedModel) -> list[str]:
        """The layers that carry the masks."""
        from compress.models.blocks import find_blocks

        return [self.pruner.slices(block)[0].layer for block in find_blocks(model)]

    def _check_related(
        self, name: str, model: PreTrainedModel, own: Sequence[Block], blocks: Sequence[Block]
    ) -> None:
        """UserError unless the given related modules are exactly those that must shrink together."""
        group, path = self.different_groups[name], f"{self.path(name)}.related_modules"
        if group.related_modules is None:
            return
        if group.modules is None:
            raise UserError(f"{path}: belongs to modules; give both or none.")
        if len(group.related_modules) != len(group.modules):
            raise UserError(
                f"{path}: must have one list for each of the {len(group.modules)} keywords in modules."
            )
        keywords = [keyword for keywords in group.related_modules for keyword in keywords]
        found = set(match(model, {name: keywords}, self.key, "related_modules")[name])
        wanted, known = (
            {one.layer for block in some for one in self.pruner.slices(block)[1:]}
            for some in (own, blocks)
        )
        if lacking := sorted(wanted - found):
            raise UserError(f"{path}: '{lacking[0]}' must shrink too and is not matched.")
        if wrong := sorted(found - known):
            raise UserError(f"{path}: '{wrong[0]}' does not belong to these modules.")
