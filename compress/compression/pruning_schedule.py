"""How much is removed after which optimiser step; the cubic curve is Zhu and Gupta 2017, Eq. 1."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PruningSchedule:
    """Sparsity as a function of the optimiser step: `start` until `begin`, `target` from `end` on.

    begin, end: optimiser steps; stride: steps between two refreshes; curve: "cubic" or "linear".
    """

    start: float
    target: float
    begin: int
    end: int
    stride: int = 1
    curve: str = "cubic"

    @property
    def changes(self) -> int:
        """How often the masks change: at `begin` nothing is removed yet."""
        return max(1, -(-(self.end - self.begin) // self.stride))

    def __str__(self) -> str:
        """Such as "8 times between steps 10 and 90", for people."""
        if self.changes == 1:
            return f"at step {self.end}"
        often = "at every step" if self.stride == 1 else f"{self.changes} times"
        return f"{often} between steps {self.begin} and {self.end}"

    def sparsity(self, step: int) -> float:
        """Sparsity in force once `step` optimiser steps are done."""
        if step >= self.end:
            return self.target
        if step < self.begin:
            return self.start
        progress = (step - self.begin) / (self.end - self.begin)
        power = 3 if self.curve == "cubic" else 1
        return self.target + (self.start - self.target) * (1 - progress) ** power

    def refresh_at(self, step: int) -> bool:
        """Whether the masks change at this step: every `stride` steps from begin, and at the end."""
        if step == self.end:
            return True
        return self.begin <= step < self.end and (step - self.begin) % self.stride == 0


def n_pruned(size: int, sparsity: float) -> int:
    """Number of weights removed from a tensor of `size` at this sparsity."""
    return min(round(size * sparsity), size)
