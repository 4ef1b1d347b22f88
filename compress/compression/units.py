"""What heads and ffn neurons share: units of Transformer blocks that go, chosen or by learned scores.

A unit is switched off by a mask on one linear layer of its block; what belongs to it in other layers is
cut when the model is exported (`compress.models.compressed`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from compress.compression.pruner import Living, Now, Planned, Pruner
from compress.compression.pruning_schedule import PruningSchedule
from compress.compression.technique import Group, Patterns, PruningTechnique, Schedule, match
from compress.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from compress.compression.importance import Importance
    from compress.compression.library import LayerMask
    from compress.configuration.robust_schema import RobustCompression
    from compress.models.architectures import Block


@dataclass(frozen=True)
class Units(Planned):
    """Blocks whose units are pruned together: numbers of the blocks, and how many units stay.

    keep: over all blocks for heads chosen by importance, else in each block; pruned: the units that go
    in every block, if they are listed.
    """

    blocks: tuple[int, ...]
    keep: int
    pruned: tuple[int, ...] | None = None


class UnitPruner(Pruner[Units]):
    """Units that are chosen by importance or listed.

    unit: the field of `compressed.Kept` that says which stay; kept: units of each block that stay.
    """

    cuts = True
    unit: ClassVar[str]
    kept: dict[int, tuple[int, ...]]

    def full(self, block: Block) -> int:
        """Units of a block before pruning."""
        raise NotImplementedError

    def carrier(self, block: Block) -> str:
        """Name of the layer that carries the mask of a block."""
        raise NotImplementedError

    def pick(
        self, group: Units, importance: Importance, gone: float
    ) -> Iterator[tuple[int, Collection[int]]]:
        """Block numbers and the units that stay there; gone: done part of the removal, 0 to 1."""
        raise NotImplementedError

    def remove(self, weights: dict[str, Tensor], block: Block, mask: Tensor) -> None:
        """Zero the weights of the units that are 0 in mask [units], in place."""
        raise NotImplementedError

    def left(self, block: Block, kept: Tensor) -> Living:
        """What the kept units leave of the layers of a block."""
        raise NotImplementedError

    @property
    def numbers(self) -> list[int]:
        """Numbers of all blocks that lose units."""
        return sorted(number for group in self.groups.values() for number in group.blocks)

    @property
    def carriers(self) -> list[str]:
        """Names of the layers that carry the masks, in the order of the blocks."""
        return [self.carrier(self.blocks[number]) for number in self.numbers]

    def start(self, masks: Mapping[str, LayerMask]) -> None:
        """Take the masks of the layers; all units stay."""
        super().start(masks)
        self.kept = {n: tuple(range(self.full(self.blocks[n]))) for n in self.numbers}

    def mask(self, number: int) -> LayerMask:
        """The mask of a block."""
        return self.masks[self.carrier(self.blocks[number])]

    def gone(self, number: int) -> set[int]:
        """Units of a block that are removed."""
        return set(range(self.full(self.blocks[number]))) - set(self.kept[number])

    def due(self, step: int) -> list[Units]:
        """Groups of which something goes at this step: not where the schedule begins with nothing."""
        groups = [(group, group.schedule(step)) for group in self.groups.values()]
        return [group for group, s in groups if s.refresh_at(step) and s.sparsity(step) > 0]

    def needs_importance(self, step: int) -> bool:
        """Whether units are chosen by importance at this step."""
        return any(group.pruned is None for group in self.due(step))

    def refresh(self, step: int, now: Now) -> bool:
        """Remove units where the schedule of `step` says so; whether it did."""
        due = self.due(step)
        for group in due:
            for number, units in self._chosen(group, now, group.schedule(step).sparsity(step)):
                self._choose(number, units)
        return bool(due)

    def _chosen(self, group: Units, now: Now, gone: float) -> Iterator[tuple[int, Collection[int]]]:
        if group.pruned is None:
            assert now.importance is not None
            yield from self.pick(group, now.importance, gone)
        else:
            for number in group.blocks:
                yield number, set(range(self.full(self.blocks[number]))) - set(group.pruned)

    def _choose(self, number: int, units: Collection[int]) -> None:
        self.kept[number] = tuple(sorted(units))
        self.mask(number).choose(self.kept[number])

    def living(self) -> Living:
        """What the kept units leave of the layers, for pruners that come after this one."""
        import torch

        out: dict[str, tuple[Tensor | None, Tensor | None]] = {}
        for number in self.numbers:
            out |= self.left(self.blocks[number], torch.tensor(self.kept[number]))
        return out

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        super().load_state_dict(state)
        for number in self.numbers:
            mask = self.mask(number).value.flatten()
            self.kept[number] = tuple(mask.nonzero().flatten().tolist())

    def finish(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Zero what belongs to removed units, in place; `kept` says what is left."""
        for number in self.numbers:
            block = self.blocks[number]
            mask = self.mask(number).take(weights, self.carrier(block)).view(-1)
            self.kept[number] = tuple(mask.nonzero().flatten().tolist())
            self.remove(weights, block, mask)
        return weights


class LearnedUnits(UnitPruner):
    """Units with learned scores that start at 0; the highest `keep` of each block stay in the end."""

    learned = True

    def needs_importance(self, step: int) -> bool:
        """Scores need none."""
        return False

    def refresh(self, step: int, now: Now) -> bool:
        """Let fewer units stay where the schedule of `step` says so; whether it did."""
        due = self.due(step)
        for group in due:
            for number in group.blocks:
                full = self.full(self.blocks[number])
                self.mask(number).keep(remaining(full, group.keep, group.schedule(step).sparsity(step)))
        return bool(due)

    def living(self) -> Living:
        """Which units stay changes at every step."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        Pruner.load_state_dict(self, state)


def remaining(full: int, keep: int, gone: float) -> int:
    """What is left of `full` on the way to `keep`, when `gone` (0 to 1) of the removal is done."""
    return full - round((full - keep) * gone)


class UnitGroup(Group):
    """Layers that lose units, and the layers that must shrink with them."""

    related_modules: list[Patterns] | None = None
    """Regular expressions for the layers that shrink too, one list for each of `modules`; default:
    those of the architecture."""


S = TypeVar("S", bound=Schedule)
G = TypeVar("G", bound=UnitGroup)


class UnitTechnique(PruningTechnique[S, G], Generic[S, G]):
    """A block that removes units; layer_kind: what `modules` must match, for messages."""

    fractions = "structured"
    layer_kind: ClassVar[str]

    @property
    def pruner(self) -> type[UnitPruner]:
        """What does it to a model in training."""
        raise NotImplementedError

    def carrier(self, block: Block) -> str:
        """Name of the layer of a block that `modules` must match."""
        raise NotImplementedError

    def related(self, block: Block) -> tuple[str, ...]:
        """Names of the layers of a block that shrink with it."""
        raise NotImplementedError

    def planned(
        self,
        name: str,
        group: G,
        members: tuple[int, ...],
        blocks: Sequence[Block],
        schedule: PruningSchedule,
        robust: RobustCompression,
    ) -> Units:
        """The numbers of a group; UserError for what leaves nothing or removes nothing."""
        raise NotImplementedError

    def takes(self, robust: RobustCompression) -> set[str]:
        """The schedule of heads and neurons; rounds and samples where something is chosen."""
        keys = {"structured"}
        if self.learned:
            return keys | {"structured.begin", "score_lr"}
        if self.by_importance:
            keys |= {"structured.rounds", "structured.samples"}
        at_once = self.by_importance and robust.structured.rounds == 1
        return keys if at_once else keys | {"structured.begin"}

    def resolve(self, model: PreTrainedModel, robust: RobustCompression, total: int) -> UnitPruner:
        """See `PruningTechnique.resolve`."""
        from compress.models import architectures

        blocks = architectures.blocks(model)
        self.fits(blocks)
        members, schedule = self._members(model, blocks), self._schedule(robust, total)
        return self.pruner(
            {
                name: self.planned(name, group, members[name], blocks, schedule, robust)
                for name, group in self.different_groups.items()
            }
        )

    def fits(self, blocks: Sequence[Block]) -> None:
        """UserError for a number in shared_parameters that is not the model's."""

    def _schedule(self, robust: RobustCompression, total: int) -> PruningSchedule:
        """In rounds, the last at the end, or at every step along a cubic curve."""
        block, every_step = robust.structured, self.method == "topk"
        at_once = not every_step and block.rounds == 1
        begin, end = self.steps(total, block.begin, block.end, moment=at_once)
        if every_step:
            return PruningSchedule(0.0, 1.0, begin, end)
        stride = max(1, -(-(end - begin) // block.rounds))
        return PruningSchedule(0.0, 1.0, begin, end, stride, "linear")

    def _members(self, model: PreTrainedModel, blocks: Sequence[Block]) -> dict[str, tuple[int, ...]]:
        """Block numbers of each group; UserError for a layer that is not of the technique's kind."""
        owners = {self.carrier(block): number for number, block in enumerate(blocks)}
        out = {}
        for name, layers in self.matched(model).items():
            for layer in layers:
                if layer not in owners:
                    raise UserError(
                        f"{self.path(name)}.modules: '{layer}' is no {self.layer_kind}; "
                        f"in this model these are layers such as '{next(iter(owners))}'."
                    )
            out[name] = tuple(owners[layer] for layer in layers)
            self._check_related(name, model, [blocks[number] for number in out[name]], blocks)
        return out

    def _check_related(
        self, name: str, model: PreTrainedModel, own: Sequence[Block], blocks: Sequence[Block]
    ) -> None:
        """UserError unless the given related modules are exactly those that must shrink together."""
        group, path = self.different_groups[name], f"{self.path(name)}.related_modules"
        if group.related_modules is None:
            return
        if len(group.related_modules) != len(group.modules):
            raise UserError(
                f"{path}: must have one list for each of the {len(group.modules)} keywords in modules."
            )
        keywords = [keyword for keywords in group.related_modules for keyword in keywords]
        found = set(match(model, {name: keywords}, self.key, "related_modules")[name])
        if lacking := sorted({layer for block in own for layer in self.related(block)} - found):
            raise UserError(f"{path}: '{lacking[0]}' must shrink too and is not matched.")
        if wrong := sorted(found - {layer for block in blocks for layer in self.related(block)}):
            raise UserError(f"{path}: '{wrong[0]}' does not belong to these modules.")
