"""Attention heads: `head_pruning`, by importance, from a list, or by learned scores.

By importance the lowest heads over the layers of a group are removed (Michel et al. 2019; Du et al.
2023, App. A), but at least one stays in each layer; learned scores choose within each layer, and so
does importance with `structured.even`. Where queries share keys and values, a head is a key/value group
with its queries.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from compress.compression.technique import Ratio, exactly, something
from compress.compression.units import (
    UnitGroup,
    UnitPruner,
    UnitPruning,
    Units,
    UnitShared,
    units_left,
)
from compress.configuration import blocks as settings
from compress.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from compress.compression.importance import Importance
    from compress.configuration.robust_schema import RobustCompression
    from compress.models.blocks import Block


class Heads(UnitPruner):
    """Attention heads, switched off at the inputs of the attention output layer."""

    name = unit = "heads"
    kind = "head"

    def pick(
        self, group: Units, importance: Importance, done: float
    ) -> Iterator[tuple[int, Collection[int]]]:
        """The most important heads over all blocks of the group, or of each block.

        Blocks that share a table with a column for each head (`Block.shared`) lose the heads of the
        lowest sum.
        """
        if self.blocks[group.blocks[0]].shared is not None:
            yield from self._alike(group, importance, done)
            return
        if group.even:
            for n in group.blocks:
                keep = units_left(self.full(n), group.keep, done)
                yield n, kept_heads([importance.heads[n]], keep, [self.gone(n)])[0]
            return
        keep = units_left(sum(self.full(n) for n in group.blocks), group.keep, done)
        scores = [importance.heads[n] for n in group.blocks]
        chosen = kept_heads(scores, keep, [self.gone(n) for n in group.blocks])
        yield from zip(group.blocks, chosen, strict=True)

    def _alike(
        self, group: Units, importance: Importance, done: float
    ) -> Iterator[tuple[int, Collection[int]]]:
        import torch

        first = group.blocks[0]
        keep = units_left(self.full(first), group.keep, done)
        total = torch.stack([importance.heads[n] for n in group.blocks]).sum(dim=0)
        [chosen] = kept_heads([total], keep, [self.gone(first)])
        return ((number, chosen) for number in group.blocks)

    def chosen(self) -> dict[str, Any]:
        """The choice of heads in DeepSpeed's terms: a group a layer, to read, edit and run again."""
        groups = {}
        for number in self.numbers:
            block, gone = self.blocks[number], sorted(self.gone(number))
            groups[f"layer_{number}"] = {
                "params": {"dense_ratio": 1 - len(gone) / block.heads, "pruned_heads": gone},
                "modules": [exactly(block.attention_output)],
                "related_modules": [[exactly(one.layer) for one in self.slices(block)[1:]]],
            }
        shared: dict[str, Any] = {"enabled": True, "method": "importance"}
        if len(counts := {block.heads for block in self.blocks}) == 1:
            shared["num_heads"] = counts.pop()
        return {"head_pruning": {"shared_parameters": shared, "different_groups": groups}}


class HeadParams(settings.Block):
    """How many heads of a group stay: one of the three, or a list and the share that it leaves."""

    dense_ratio: Ratio | None = None
    """Share of the heads that stays, over all layers of the group; of each layer with method topk or
    structured.even, there of the layers' mean if they have different numbers."""
    target_heads: settings.Count | None = None
    """Number of heads that stay over all layers of the group, with structured.even a multiple of the
    number of layers; key/value groups where queries share keys and values."""
    pruned_heads: list[settings.Natural] | None = None
    """Numbers of the heads that go in every layer of the group, counted from 0."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [self.dense_ratio is not None, self.target_heads is not None]
        if sum(given) + (self.pruned_heads is not None and not given[0]) != 1:
            raise ValueError(
                "give one of dense_ratio, target_heads and pruned_heads; the latter may stand beside "
                "dense_ratio"
            )
        return self


class HeadGroup(UnitGroup):
    """Attention output layers that lose heads; related_modules: their query, key and value layers."""

    params: HeadParams
    """How many heads stay."""


class HeadShared(UnitShared):
    """What holds for all groups of heads."""

    num_heads: settings.Count | None = None
    """Heads of each layer of the model (key/value groups where queries share them), checked; follows
    from the model."""


class HeadPruning(UnitPruning):
    """Attention heads of the lowest importance or learned scores go, or heads that are listed."""

    key = "head_pruning"
    order = 20
    word = "heads"
    pruner = Heads
    layer_kind = "attention output"

    shared_parameters: HeadShared
    """What holds for all groups."""
    different_groups: Annotated[dict[str, HeadGroup], Field(min_length=1)]
    """Groups of layers, each under a name of your choice."""

    @property
    def listed(self) -> bool:
        """Whether every head that goes is listed, so that neither method chooses any."""
        return all(group.params.pruned_heads is not None for group in self.different_groups.values())

    @property
    def chooses(self) -> str:
        """By importance or learned scores, unless all heads are listed."""
        return "listed" if self.listed else super().chooses

    @property
    def amount(self) -> str:
        """Such as `40`, `20_learned`, `_keep9` or `_listed`; `_mixed` for groups of several kinds."""
        params = [group.params for group in self.different_groups.values()]
        if self.listed:
            return "_listed"
        if len(self.dense) == len(params):
            return super().amount
        targets = [p.target_heads for p in params if p.target_heads is not None]
        return f"_keep{sum(targets)}" if len(targets) == len(params) else "_mixed"

    @property
    def removes(self) -> bool:
        """Whether heads are listed or counted, or a share goes."""
        params = [group.params for group in self.different_groups.values()]
        return super().removes or any(p.pruned_heads or p.target_heads for p in params)

    def check(self, blocks: Sequence[Block]) -> None:
        """UserError for a wrong num_heads."""
        given, counts = self.shared_parameters.num_heads, {block.heads for block in blocks}
        if given is not None and counts != {given}:
            has = " or ".join(str(count) for count in sorted(counts))
            raise UserError(
                f"compression_training.{self.key}.shared_parameters.num_heads is {given}, "
                f"but the model has {has} heads a layer (key/value groups where queries share them)."
            )

    def takes(self, robust: RobustCompression) -> set[str]:
        """Whether each layer keeps the same number too, where importance chooses."""
        own = {"structured.even"} if self.chooses == "importance" else set()
        return super().takes(robust) | own

    def resolve(self, model: PreTrainedModel, robust: RobustCompression, total: int) -> UnitPruner:
        """See `PruningTechnique.resolve`; blocks that share a table must lose the same heads."""
        from compress.models.blocks import find_blocks

        pruner = super().resolve(model, robust, total)
        blocks = find_blocks(model)
        even = self.chooses == "importance" and (robust.structured.even or _alike(blocks))
        pruner.groups = {name: replace(units, even=even) for name, units in pruner.groups.items()}
        if _alike(blocks):
            self._check_alike(list(pruner.groups.values()), blocks)
        return pruner

    def _check_alike(self, groups: Sequence[Units], blocks: Sequence[Block]) -> None:
        """UserError unless blocks that share a table lose the same heads."""
        path = f"compression_training.{self.key}"
        what = f"the layers of this model share '{blocks[0].shared}', so they must lose the same heads"
        if self.learned:
            raise UserError(
                f"{path}: {what}, and method 'topk' chooses in each layer; use method 'importance'."
            )
        same = len(groups) == 1 or len({group.pruned or group.blocks for group in groups}) == 1
        if not same or sum(len(group.blocks) for group in groups) < len(blocks):
            raise UserError(
                f"{path}: {what}; make one group of all layers, or list the same pruned_heads for each."
            )

    def count(
        self, name: str, blocks: Sequence[Block], robust: RobustCompression
    ) -> tuple[int, tuple[int, ...] | None]:
        """Heads that stay over all blocks, or in each block (learned, or even); heads that go."""
        path, sizes = f"{self.path(name)}.params", [block.heads for block in blocks]
        params = self.different_groups[name].params
        if params.pruned_heads is not None:
            return self._listed(path, params, sizes)
        if self.learned or robust.structured.even or _alike(blocks):
            return self._of_each(path, params, sizes), None
        total = sum(sizes)
        keep = params.target_heads or round((params.dense_ratio or 0) * total)
        if keep > total:
            raise UserError(f"{path}.target_heads is {keep}, but the group has {total} heads.")
        _enough(path, keep, len(sizes))
        something(path, params.dense_ratio, keep, total, "heads")
        return keep, None

    def _listed(
        self, path: str, params: HeadParams, sizes: Sequence[int]
    ) -> tuple[int, tuple[int, ...]]:
        pruned = tuple(sorted(set(params.pruned_heads or ())))
        if self.learned:
            raise UserError(
                f"{path}.pruned_heads: has no effect beside groups of learned scores (method 'topk'); "
                "list the heads of every group, or use method 'importance'."
            )
        if pruned and pruned[-1] >= min(sizes):
            raise UserError(
                f"{path}.pruned_heads: there is no head {pruned[-1]}; a layer has {min(sizes)}."
            )
        keep, ratio = sum(sizes) - len(pruned) * len(sizes), params.dense_ratio
        if ratio is not None and abs(ratio * sum(sizes) - keep) > 0.5:
            raise UserError(
                f"{path}: dense_ratio and pruned_heads contradict each other; leave dense_ratio out, "
                f"or set it to {keep / sum(sizes):g}."
            )
        _enough(f"{path}.pruned_heads", min(sizes) - len(pruned), 1)
        return keep, pruned

    def _of_each(self, path: str, params: HeadParams, sizes: Sequence[int]) -> int:
        """How many heads of each layer stay: of layers of different sizes the share of their mean."""
        if params.target_heads is not None and self.learned:
            raise UserError(f"{path}.target_heads: has no effect with method 'topk'; give dense_ratio.")
        if len(set(sizes)) > 1 and self.learned:
            group = path.removesuffix(".params")
            raise UserError(
                f"{group}: its layers have different numbers of heads; make one group each."
            )
        keep, rest = divmod(params.target_heads or 0, len(sizes))
        if rest:
            raise UserError(
                f"{path}.target_heads is {params.target_heads}; the {len(sizes)} layers of the group "
                "keep equal numbers (structured.even, or a shared table), so give a multiple of "
                f"{len(sizes)}."
            )
        if keep * len(sizes) > sum(sizes):
            raise UserError(
                f"{path}.target_heads is {params.target_heads}, but the group has {sum(sizes)} heads."
            )
        keep = keep or round((params.dense_ratio or 0) * (sum(sizes) / len(sizes)))
        _enough(path, keep, 1)
        if keep > min(sizes):
            raise UserError(
                f"{path}: leaves {keep} heads in each layer, but one has {min(sizes)}; give a "
                f"target_heads of at most {min(sizes) * len(sizes)}."
            )
        if len(set(sizes)) == 1:
            something(path, params.dense_ratio, keep, sizes[0], "heads of a layer")
        return keep


def _alike(blocks: Sequence[Block]) -> bool:
    """Whether blocks must keep the same heads."""
    return blocks[0].shared is not None


def _enough(path: str, keep: int, least: int) -> None:
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
