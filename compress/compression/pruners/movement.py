"""Movement pruning (Sanh et al. 2020): `sparse_pruning` with method "topk".

Every weight has a learned score; the weights of the highest scores stay, counted layer by layer. Scores
start at 0 with nothing pruned, and the share that stays follows the schedule at every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from compress.compression.masking import Remaining, Target, applied
from compress.compression.pruner import PruningState
from compress.compression.pruners.magnitude import Magnitude, MagnitudePruning, SparseShared

if TYPE_CHECKING:
    from torch import Tensor

    from compress.configuration.robust_schema import RobustCompression


class Movement(Magnitude):
    """Learned scores on single weights."""

    name = "movement"
    learned = True

    def prune(self, targets: Mapping[str, Target], state: PruningState) -> None:
        """Let fewer weights of each layer stay."""
        for name, target in targets.items():
            self.masks[name].keep(round((1 - target.sparsity) * self.masks[name].size))

    def counts(self, remaining: Remaining) -> tuple[float, float]:
        """Pruned weights and all weights of the layers."""
        total = float(sum(mask.size for mask in self.masks.values()))
        return total - sum(mask.count for mask in self.masks.values()), total

    def finish(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Zero the pruned weights in place."""
        return applied(self.masks, weights)

    def state_dict(self) -> dict[str, Any]:
        """How many weights of each layer stay."""
        return {name: mask.state() for name, mask in self.masks.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        for name, mask in self.masks.items():
            mask.load(state[name])


class MovementShared(SparseShared):
    """What holds for all groups of weights."""

    method: Literal["topk"]
    """topk: the weights of lowest learned scores go (movement pruning)."""


class MovementPruning(MagnitudePruning):
    """Single weights of the lowest learned scores go, step by step."""

    method = "topk"
    word = "movement"
    pruner = Movement

    shared_parameters: MovementShared  # type: ignore[assignment]  # where l1 has its own

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
