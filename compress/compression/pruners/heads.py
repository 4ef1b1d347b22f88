"""Attention heads: `head_pruning` with method "importance", or heads that are listed.

The heads of lowest importance over the layers of a group go (Michel et al. 2019; Du et al. 2023,
App. A), at least one stays in each layer. A head is switched off at the attention output layer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from pydantic import model_validator

from compress.compression.pruner import Living
from compress.compression.pruning_schedule import PruningSchedule
from compress.compression.technique import Ratio, Schedule, exactly, something
from compress.compression.units import UnitGroup, UnitPruner, Units, UnitTechnique, remaining
from compress.configuration.blocks import Block as SettingsBlock
from compress.configuration.blocks import Count, Natural
from compress.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from compress.compression.importance import Importance
    from compress.configuration.robust_schema import RobustCompression
    from compress.models.architectures import Block


class HeadParams(SettingsBlock):
    """How many heads of a group stay: one of the three."""

    dense_ratio: Ratio | None = None
    """Share of the heads that stays, over all layers of the group; of each layer with method "topk"."""
    target_heads: Count | None = None
    """Number of heads that stay over all layers of the group."""
    pruned_heads: list[Natural] | None = None
    """Numbers of the heads that go in every layer of the group, counted from 0."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [self.dense_ratio is not None, self.target_heads is not None]
        if sum(given) + (self.pruned_heads is not None and not given[0]) != 1:
            raise ValueError("give one of dense_ratio, target_heads and pruned_heads")
        return self


class HeadGroup(UnitGroup):
    """Attention output layers that lose heads; related_modules: their query, key and value layers."""

    params: HeadParams
    """How many heads stay."""

    @property
    def dense(self) -> float | None:
        """Share of the heads that stays, if it is given as a share."""
        return self.params.dense_ratio


class HeadSchedule(Schedule):
    """What holds for all groups of heads."""

    num_heads: Count | None = None
    """Heads of each layer of the model, checked; follows from the model."""


class ImportanceSchedule(HeadSchedule):
    """What holds for all groups of heads."""

    method: Literal["importance"] = "importance"
    """importance: the heads of lowest |dL/dxi| over the group go."""


class Heads(UnitPruner):
    """Attention heads, switched off at the inputs of the attention output layer."""

    name = unit = "heads"
    kind = "head"

    def full(self, block: Block) -> int:
        """Heads of a block before pruning."""
        return block.heads

    def carrier(self, block: Block) -> str:
        """Name of the attention output layer."""
        return block.attention_output

    def shape(self, layer: str) -> tuple[int, ...]:
        """[1, heads]."""
        return 1, next(block.heads for block in self.blocks if block.attention_output == layer)

    def pick(
        self, group: Units, importance: Importance, gone: float
    ) -> Iterator[tuple[int, Collection[int]]]:
        """The most important heads over all blocks of the group."""
        keep = remaining(sum(self.blocks[n].heads for n in group.blocks), group.keep, gone)
        scores = [importance.heads[n] for n in group.blocks]
        chosen = kept_heads(scores, keep, [self.gone(n) for n in group.blocks])
        yield from zip(group.blocks, chosen, strict=True)

    def left(self, block: Block, kept: Tensor) -> Living:
        """Outputs of the projections and inputs of the attention output layer."""
        columns = (
            kept[:, None] * block.head_size + kept.new_tensor(list(range(block.head_size)))
        ).flatten()
        return {
            **dict.fromkeys(block.projections, (columns, None)),
            block.attention_output: (None, columns),
        }

    def remove(self, weights: dict[str, Tensor], block: Block, mask: Tensor) -> None:
        """Zero the inputs of removed heads in place."""
        weight = weights[f"{block.attention_output}.weight"]
        columns = mask.repeat_interleave(block.head_size).to(weight)
        weights[f"{block.attention_output}.weight"] = weight * columns

    def chosen(self) -> dict[str, Any]:
        """The choice of heads in DeepSpeed's terms: a group a layer, to read, edit and run again."""
        groups = {}
        for number in self.numbers:
            block, gone = self.blocks[number], sorted(self.gone(number))
            groups[f"layer_{number}"] = {
                "params": {"dense_ratio": 1 - len(gone) / block.heads, "pruned_heads": gone},
                "modules": [exactly(block.attention_output)],
                "related_modules": [[exactly(name) for name in block.projections]],
            }
        shared: dict[str, Any] = {"enabled": True, "method": "importance"}
        if len(counts := {block.heads for block in self.blocks}) == 1:
            shared["num_heads"] = counts.pop()
        return {"head_pruning": {"shared_parameters": shared, "different_groups": groups}}


S = TypeVar("S", bound=HeadSchedule)


class HeadTechnique(UnitTechnique[S, HeadGroup]):
    """`compression_training.head_pruning`, whatever its method."""

    key = "head_pruning"
    order = 20
    layer_kind = "attention output"

    @property
    def listed(self) -> bool:
        """Whether every head that goes is listed, so that neither method chooses any."""
        return all(group.params.pruned_heads is not None for group in self.different_groups.values())

    @property
    def label(self) -> str:
        """Such as `heads40`, `heads_keep9` or `heads_listed`."""
        params = [group.params for group in self.different_groups.values()]
        if self.listed:
            return "heads_listed"
        if all(p.dense_ratio is not None for p in params):
            return f"heads{self.percent()}{'_learned' if self.learned else ''}"
        return (
            f"heads_keep{sum(p.target_heads or 0 for p in params)}{'_learned' if self.learned else ''}"
        )

    @property
    def removes(self) -> bool:
        """Whether heads are listed or counted, or a share goes."""
        groups = [group.params for group in self.different_groups.values()]
        return super().removes or any(p.pruned_heads or p.target_heads for p in groups)

    def carrier(self, block: Block) -> str:
        """Name of the attention output layer."""
        return block.attention_output

    def related(self, block: Block) -> tuple[str, ...]:
        """Names of the query, key, value (and position) layers."""
        return block.projections

    def fits(self, blocks: Sequence[Block]) -> None:
        """UserError for a wrong num_heads."""
        given, counts = self.shared_parameters.num_heads, {block.heads for block in blocks}
        if given is not None and counts != {given}:
            has = " or ".join(str(count) for count in sorted(counts))
            raise UserError(
                f"{self.path()}.shared_parameters.num_heads is {given}, "
                f"but the model has {has} heads a layer."
            )

    def planned(
        self,
        name: str,
        group: HeadGroup,
        members: tuple[int, ...],
        blocks: Sequence[Block],
        schedule: PruningSchedule,
        robust: RobustCompression,
    ) -> Units:
        """Heads that are listed, else `chosen`."""
        path, sizes = f"{self.path(name)}.params", [blocks[number].heads for number in members]
        if group.params.pruned_heads is None:
            return Units((schedule,), members, self.chosen(path, group.params, sizes))
        if self.learned:
            raise UserError(
                f"{path}.pruned_heads: has no effect beside groups of learned scores (method 'topk'); "
                "list the heads of every group, or use method 'importance'."
            )
        pruned = tuple(sorted(set(group.params.pruned_heads)))
        if pruned and pruned[-1] >= min(sizes):
            raise UserError(
                f"{path}.pruned_heads: there is no head {pruned[-1]}; a layer has {min(sizes)}."
            )
        keep, ratio = sum(sizes) - len(pruned) * len(members), group.params.dense_ratio
        if ratio is not None and abs(ratio * sum(sizes) - keep) > 0.5:
            raise UserError(f"{path}: dense_ratio and pruned_heads contradict each other.")
        enough(f"{path}.pruned_heads", min(sizes) - len(pruned), 1)
        return Units((schedule,), members, keep, pruned)

    def chosen(self, path: str, params: HeadParams, sizes: Sequence[int]) -> int:
        """How many heads stay, of layers of these numbers of heads; path: of params, for messages."""
        raise NotImplementedError


class HeadImportance(HeadTechnique[ImportanceSchedule]):
    """Attention heads of the lowest importance go, or heads that are listed."""

    method = "importance"
    default = True

    @property
    def pruner(self) -> type[UnitPruner]:
        """Heads that are switched off."""
        return Heads

    @property
    def by_importance(self) -> bool:
        """Unless all heads are listed."""
        return not self.listed

    def chosen(self, path: str, params: HeadParams, sizes: Sequence[int]) -> int:
        """How many heads stay over all layers."""
        total = sum(sizes)
        keep = params.target_heads or round((params.dense_ratio or 0) * total)
        if keep > total:
            raise UserError(f"{path}.target_heads is {keep}, but the group has {total} heads.")
        enough(path, keep, len(sizes))
        something(f"{path}.dense_ratio", params.dense_ratio or 0.0, keep, total, "heads")
        return keep


def enough(path: str, keep: int, least: int) -> None:
    """UserError if fewer heads stay than one in each layer."""
    if keep < least:
        raise UserError(f"{path}: leaves {keep} heads; each layer must keep one, that is {least}.")


def kept_heads(
    importance: Sequence[Tensor], keep: int, gone: Sequence[Collection[int]]
) -> list[tuple[int, ...]]:
    """The `keep` most important heads over all layers, by layer, ascending.

    importance: one tensor [H] a layer; gone: heads removed earlier, which stay removed. At least one
    head stays in each layer: the best of those that are left. Ties go to the earlier head, so every
    rank decides alike.
    """
    heads = [
        (float(-score), layer, head)
        for layer, scores in enumerate(importance)
        for head, score in enumerate(scores.tolist())
        if head not in gone[layer]
    ]
    heads.sort()
    floor = {next((layer, head) for _, layer, head in heads if layer == n) for n in range(len(gone))}
    rest = [(layer, head) for _, layer, head in heads if (layer, head) not in floor]
    chosen = floor | set(rest[: max(0, keep - len(floor))])
    return [tuple(sorted(h for layer, h in chosen if layer == n)) for n in range(len(gone))]
