"""Movement pruning (Sanh et al. 2020): `sparse_pruning` with method "topk".

Every weight has a learned score; the weights of the highest scores stay, counted layer by layer. Scores
start at 0 with nothing pruned, and the share that stays follows the schedule at every step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from compress.compression.pruner import PruningState, Remaining
from compress.compression.pruners.magnitude import Magnitude, MagnitudePruning, MagnitudeShared

if TYPE_CHECKING:
    from compress.configuration.robust_schema import RobustCompression


class Movement(Magnitude):
    """Learned scores on single weights."""

    name = "movement"
    learned = True

    def prune(self, name: str, sparsity: float, state: PruningState) -> None:
        """Let fewer weights of a layer stay."""
        self.masks[name].keep(round((1 - sparsity) * self.masks[name].size))

    def counts(self, remaining: Remaining) -> tuple[float, float]:
        """Pruned weights and all weights of the layers."""
        total = float(sum(mask.size for mask in self.masks.values()))
        return total - sum(mask.count for mask in self.masks.values()), total


class MovementShared(MagnitudeShared):
    """What holds for all groups of weights."""

    method: Literal["topk"]  # type: ignore[assignment]  # where l1 has its own
    """topk: the weights of lowest learned scores go (movement pruning)."""


class MovementPruning(MagnitudePruning):
    """Single weights of the lowest learned scores go, step by step."""

    method = "topk"
    word = "movement"
    pruner = Movement

    shared_parameters: MovementShared

    @property
    def chooses(self) -> str:
        """By learned scores."""
        return "learned"

    def takes(self, robust: RobustCompression) -> set[str]:
        """The schedule of single weights without its refreshes, and the rate of the scores."""
        return {"pruning", "score_lr"}

    def stride(self, begin: int, end: int, updates: int) -> int:
        """Learned scores are refreshed at every step."""
        return 1
