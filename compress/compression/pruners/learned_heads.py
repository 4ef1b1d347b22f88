"""Attention heads by learned scores of each layer: `head_pruning` with method "topk"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from compress.compression.pruners.heads import (
    HeadParams,
    Heads,
    HeadSchedule,
    HeadTechnique,
    enough,
)
from compress.compression.technique import something
from compress.compression.units import LearnedUnits, UnitPruner
from compress.errors import UserError


class LearnedHeadSchedule(HeadSchedule):
    """What holds for all groups of heads."""

    method: Literal["topk"]
    """topk: the heads of each layer with the highest learned scores stay."""


class LearnedHeads(LearnedUnits, Heads):
    """Learned scores on attention heads."""

    name = "learned_heads"


class HeadScores(HeadTechnique[LearnedHeadSchedule]):
    """Attention heads of the lowest learned scores go, or heads that are listed."""

    method = "topk"

    @property
    def learned(self) -> bool:
        """Unless all heads are listed."""
        return not self.listed

    @property
    def pruner(self) -> type[UnitPruner]:
        """Learned scores, unless nothing is left to learn."""
        return LearnedHeads if self.learned else Heads

    def chosen(self, path: str, params: HeadParams, sizes: Sequence[int]) -> int:
        """How many heads of each layer stay."""
        if params.target_heads is not None:
            raise UserError(f"{path}.target_heads: has no effect with method 'topk'; give dense_ratio.")
        if len(set(sizes)) > 1:
            group = path.removesuffix(".params")
            raise UserError(
                f"{group}: its layers have different numbers of heads; make one group each."
            )
        ratio = params.dense_ratio or 0.0
        keep = round(ratio * sizes[0])
        enough(path, keep, 1)
        something(f"{path}.dense_ratio", ratio, keep, sizes[0], "heads of a layer")
        return keep
