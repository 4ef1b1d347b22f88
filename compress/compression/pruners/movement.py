"""Movement pruning (Sanh et al. 2020): `sparse_pruning` with method "topk".

Every weight has a learned score; the weights of the highest scores stay, counted layer by layer. Scores
start at 0 with nothing pruned, and the share that stays follows the schedule at every step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from compress.compression.pruner import Living, Now
from compress.compression.weights import WeightPruner, WeightSchedule, WeightTechnique

if TYPE_CHECKING:
    from compress.configuration.robust_schema import RobustCompression


class MovementSchedule(WeightSchedule):
    """What holds for all groups."""

    method: Literal["topk"]
    """topk: the weights of the highest learned scores stay (movement pruning)."""


class Movement(WeightPruner):
    """Learned scores on single weights."""

    name = "movement"
    learned = True

    def refresh(self, step: int, now: Now) -> bool:
        """Let fewer weights stay where the schedule of `step` says so."""
        due = [g for g in self.groups.values() if g.schedule(step).refresh_at(step)]
        for group in due:
            dense = 1 - group.schedule(step).sparsity(step)
            for name in group.layers:
                self.masks[name].keep(round(dense * self.masks[name].size))
        return bool(due)

    def counts(self, living: Living) -> tuple[float, float]:
        """Pruned weights and all weights of the layers."""
        total = float(sum(mask.size for mask in self.masks.values()))
        return total - sum(mask.count for mask in self.masks.values()), total


class MovementPruning(WeightTechnique[MovementSchedule]):
    """Single weights of the lowest learned scores go, step by step."""

    method = "topk"

    @property
    def pruner(self) -> type[WeightPruner]:
        """See `Movement`."""
        return Movement

    @property
    def learned(self) -> bool:
        """Always."""
        return True

    @property
    def label(self) -> str:
        """Such as `movement40`."""
        return f"movement{self.percent()}"

    def takes(self, robust: RobustCompression) -> set[str]:
        """The schedule of single weights without its refreshes, and the rate of the scores."""
        return {"pruning", "score_lr"}

    def stride(self, begin: int, end: int, updates: int) -> int:
        """Learned scores are refreshed at every step."""
        return 1
