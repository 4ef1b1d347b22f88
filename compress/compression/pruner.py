"""A pruner at work: what all masks on a model in training share.

`compress.compression.masks` drives the pruners of a run in a written order: each names the layers that
carry its masks, moves them along its schedules, and applies them to the gathered weights in the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from compress.compression.masking import Remaining
from compress.compression.pruning_schedule import PruningSchedule
from compress.methods import Method

if TYPE_CHECKING:
    from compress.compression.importance import Importance
    from compress.compression.masking import LayerMask, WeightMasks
    from compress.models.blocks import Block, Slices


@dataclass(frozen=True)
class Planned:
    """Layers that are pruned together, and their schedules in order."""

    schedules: tuple[PruningSchedule, ...]

    def schedule(self, step: int) -> PruningSchedule:
        """The schedule that a step belongs to: the first that has not ended before it."""
        return next((s for s in self.schedules if step <= s.end), self.schedules[-1])


@dataclass(frozen=True)
class PruningState:
    """What a refresh may look at, equal on all ranks.

    remaining: what remains of each layer; importance: of heads and neurons, if any pruner asked for it.
    """

    remaining: Remaining = field(default_factory=dict)
    importance: Importance | None = None


class Pruner(Method, ABC):
    """Masks of one technique on one model; what `resolve` gives has none yet, see `fresh`.

    kind: what the masked layer calls them; learned: scores by gradient; cuts: makes layers narrower;
    groups: what is pruned together, by name; blocks: of the model; masks: by layer; weights: the masks
    of single weights, for a pruner that sets them from magnitudes.
    """

    kind: ClassVar[str]
    learned: bool = False
    cuts: ClassVar[bool] = False
    groups: Mapping[str, Planned]

    def __init__(self, groups: Mapping[str, Any]) -> None:
        """Nothing is pruned yet."""
        self.groups = groups
        self.blocks: Sequence[Block] = ()
        self.masks: Mapping[str, LayerMask] = {}
        self.weights: WeightMasks | None = None

    def fresh(self) -> Self:
        """The same pruner for another model."""
        new = type(self)(self.groups)
        new.learned = self.learned
        return new

    @property
    def last(self) -> int:
        """The step at which everything is removed."""
        return max(group.schedules[-1].end for group in self.groups.values())

    @property
    @abstractmethod
    def carriers(self) -> dict[str, Slices | None]:
        """Names of the layers that carry masks, and the units there; None: one entry a weight."""

    def needs_importance(self, step: int) -> bool:
        """Whether heads or neurons are chosen by importance at this step."""
        return False

    @abstractmethod
    def refresh(self, step: int, state: PruningState) -> bool:
        """Prune where the schedule of `step` says so; whether it did."""

    def counts(self, remaining: Remaining) -> tuple[float, float]:
        """Pruned single weights and all weights of its layers, among those that are remaining."""
        return 0.0, 0.0

    def remaining(self) -> Remaining:
        """What it leaves of the layers, for pruners that come after it."""
        return {}

    def chosen(self) -> dict[str, Any]:
        """What it chose as a block of `compression_training`, to run again."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Masks by layer, bool on the CPU; of learned scores (parameters) how many stay."""
        return {name: mask.state() for name, mask in self.masks.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        for name, mask in self.masks.items():
            mask.load(state[name])
