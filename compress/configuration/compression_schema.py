"""DeepSpeed's `compression_training` block, as far as it takes effect here, and our additions to it.

Ours: method "importance" for heads and rows, `target_heads` and `pruned_heads` of a head group,
"first_half" and "every_second" for `teacher_layer`, an end for every schedule. Everything else is
DeepSpeed's schema, so that its examples and tutorials stay valid.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator

from compress.configuration.blocks import Block, Count, Natural


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression ({error})") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]
Patterns = Annotated[list[Pattern], Field(min_length=1)]
Ratio = Annotated[float, Field(gt=0, le=1)]


class Schedule(Block):
    """When a technique works. Steps are optimiser steps of the student's training.

    Without steps the fractions in `robust_compression` hold.
    """

    enabled: bool
    schedule_offset: Natural | None = None
    schedule_offset_end: Natural | None = None


class GroupParams(Block):
    """Parameters of a pruning group: `dense_ratio` is the share of weights or rows that stays."""

    dense_ratio: Ratio


class SparseGroup(Block):
    """One group of layers, matched by keyword."""

    params: GroupParams
    modules: Patterns


class SparseShared(Schedule):
    """l1: iterative magnitude pruning; topk: movement pruning (learned scores, Sanh et al. 2020)."""

    method: Literal["l1", "topk"] = "l1"
    schedule_offset_stride: Count | None = None


class SparsePruning(Block):
    """`compression_training.sparse_pruning`."""

    shared_parameters: SparseShared
    different_groups: Annotated[dict[str, SparseGroup], Field(min_length=1)]


class RowGroup(Block):
    """Feed-forward layers that lose rows; related_modules: the layers that lose the columns.

    Without related_modules they follow from the architecture.
    """

    params: GroupParams
    modules: Patterns
    related_modules: list[Patterns] | None = None


class RowShared(Schedule):
    """topk: learned scores; importance: first-order Taylor, |activation x gradient|."""

    method: Literal["topk", "importance"] = "importance"


class RowPruning(Block):
    """`compression_training.row_pruning`."""

    shared_parameters: RowShared
    different_groups: Annotated[dict[str, RowGroup], Field(min_length=1)]


class HeadParams(Block):
    """What stays of a group's heads: a share, a number over all its layers, or all but a list."""

    dense_ratio: Ratio | None = None
    target_heads: Count | None = None
    pruned_heads: list[Natural] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [self.dense_ratio is not None, self.target_heads is not None]
        if sum(given) + (self.pruned_heads is not None and not given[0]) != 1:
            raise ValueError("give one of dense_ratio, target_heads and pruned_heads")
        return self


class HeadGroup(Block):
    """Attention output layers that lose heads; related_modules: their query, key and value layers.

    Without related_modules they follow from the architecture.
    """

    params: HeadParams
    modules: Patterns
    related_modules: list[Patterns] | None = None


class HeadShared(Schedule):
    """topk: learned scores; importance: |dL/dxi|, ranked over the group (Du et al. 2023, App. A)."""

    method: Literal["topk", "importance"] = "importance"
    num_heads: Count | None = None


class HeadPruning(Block):
    """`compression_training.head_pruning`."""

    shared_parameters: HeadShared
    different_groups: Annotated[dict[str, HeadGroup], Field(min_length=1)]


class LayerReduction(Block):
    """`compression_training.layer_reduction`: the student's layers are copies of these.

    teacher_layer: layers of the model that the student starts from (`student.init_from`, or
    `student.model`), in the student's order; or "first_half" (Truncated-l6), or "every_second".
    keep_number_layer, module_name_prefix, other_module_name: follow from the architecture if absent.
    """

    enabled: bool
    teacher_layer: Annotated[list[Natural], Field(min_length=1)] | Literal["first_half", "every_second"]
    keep_number_layer: Count | None = None
    module_name_prefix: str | None = None
    other_module_name: list[str] | None = None


def _percent(dense: Iterable[float]) -> str:
    """Percent that goes, each once: `40`, or `20-60` for groups that differ."""
    return "-".join(f"{level:g}" for level in sorted({round(100 * (1 - ratio), 2) for ratio in dense}))


Pruning = TypeVar("Pruning", HeadPruning, RowPruning, SparsePruning)


def _enabled(block: Pruning | None) -> Pruning | None:
    return block if block and block.shared_parameters.enabled else None


class CompressionTraining(Block):
    """`compression_training`. Order within a run: layer reduction, heads and rows, sparsity."""

    layer_reduction: LayerReduction | None = None
    head_pruning: HeadPruning | None = None
    row_pruning: RowPruning | None = None
    sparse_pruning: SparsePruning | None = None

    @staticmethod
    def learned(block: "SparsePruning | HeadPruning | RowPruning | None") -> bool:
        """Whether a block learns its scores."""
        return block is not None and block.shared_parameters.method == "topk"

    @property
    def name(self) -> str:
        """Short name of the compression: percent that goes, such as `imp40` or `heads20+rows50`.

        `movement` is learned sparsity, `layers_0_1_2` the layers that stay; `none` without any.
        """
        parts = []
        if self.layers:
            kept = self.layers.teacher_layer
            parts.append("layers_" + (kept if isinstance(kept, str) else "_".join(map(str, kept))))
        if self.heads:
            groups = [group.params for group in self.heads.different_groups.values()]
            dense = [p.dense_ratio for p in groups if p.dense_ratio is not None]
            targets = [p.target_heads for p in groups if p.target_heads is not None]
            amount = _percent(dense) if len(dense) == len(groups) else f"_keep{sum(targets)}"
            amount = "_listed" if self.listed_heads else amount
            learned = self.learned(self.heads) and not self.listed_heads
            parts.append(f"heads{amount}{'_learned' if learned else ''}")
        for label, block in (("rows", self.rows), ("imp", self.sparse)):
            if block:
                label = "movement" if label == "imp" and self.learned(block) else label
                ratios = [group.params.dense_ratio for group in block.different_groups.values()]
                learned = label == "rows" and self.learned(block)
                parts.append(f"{label}{_percent(ratios)}{'_learned' if learned else ''}")
        return "+".join(parts) or "none"

    @property
    def removes(self) -> bool:
        """Whether any enabled technique asks for less than the whole (layers are counted later)."""
        heads = self.heads.different_groups.values() if self.heads else ()
        others = [block.different_groups.values() for block in (self.rows, self.sparse) if block]
        ratios = [group.params.dense_ratio for groups in others for group in groups]
        listed = any(g.params.pruned_heads or g.params.target_heads for g in heads)
        ratios += [g.params.dense_ratio for g in heads if g.params.dense_ratio is not None]
        return self.layers is not None or listed or any(ratio < 1 for ratio in ratios)

    @property
    def listed_heads(self) -> bool:
        """Whether every head that goes is listed, so that neither method chooses any."""
        groups = self.heads.different_groups.values() if self.heads else []
        return bool(groups) and all(group.params.pruned_heads is not None for group in groups)

    @property
    def any_learned(self) -> bool:
        """Whether any enabled block learns its scores."""
        heads = None if self.listed_heads else self.heads
        return any(self.learned(block) for block in (heads, self.rows, self.sparse))

    @property
    def layers(self) -> LayerReduction | None:
        """The layer reduction, if it is enabled."""
        return self.layer_reduction if self.layer_reduction and self.layer_reduction.enabled else None

    @property
    def heads(self) -> HeadPruning | None:
        """The head pruning, if it is enabled."""
        return _enabled(self.head_pruning)

    @property
    def rows(self) -> RowPruning | None:
        """The row pruning, if it is enabled."""
        return _enabled(self.row_pruning)

    @property
    def sparse(self) -> SparsePruning | None:
        """The sparse pruning, if it is enabled."""
        return _enabled(self.sparse_pruning)
