"""How masks act on a model in training: the interface behind which two implementations stand.

`native/` is ours and the default; `library.py` is DeepSpeed's compression library, on the releases that
have it. `choose` gives the one that `robust_compression.masks` names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from compress.untyped import Engine

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from compress.compression.pruner import Pruner

Kind = Literal["native", "deepspeed"]
Remaining = Mapping[str, "tuple[Tensor | None, Tensor | None]"]
"""Layer -> indices of its outputs and inputs that the chosen heads and neurons leave (None: all)."""


@dataclass(frozen=True)
class Target:
    """What a layer is brought to: a share of pruned weights.

    pattern: (n, m): at most m - n of m neighbouring inputs of an output go, so that n or more stay.
    """

    sparsity: float
    pattern: tuple[int, int] | None = None


class LayerMask(ABC):
    """The mask of one layer: units that are chosen, or learned scores of which the highest stay.

    size: entries; count: how many of them stay.
    """

    size: int
    count: int

    @abstractmethod
    def choose(self, units: Iterable[int]) -> None:
        """Let exactly these entries stay; not with learned scores."""

    @abstractmethod
    def keep(self, count: int) -> None:
        """Let the highest `count` entries stay."""

    @abstractmethod
    def state(self) -> Tensor:
        """The mask as bool [size] on the CPU; of learned scores how many stay."""

    @abstractmethod
    def load(self, state: Tensor) -> None:
        """Put back what `state` gave."""

    @abstractmethod
    def take(self, weights: dict[str, Tensor]) -> Tensor:
        """The final mask, from gathered weights; scores are taken out of them."""


def applied(masks: Mapping[str, LayerMask], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gathered weights of some layers, 0 where their masks of single weights are; changes them."""
    for name, mask in masks.items():
        if f"{name}.weight" not in weights:
            continue
        weight = weights[f"{name}.weight"]
        weights[f"{name}.weight"] = weight * mask.take(weights).to(weight)
    return weights


class WeightMasks(ABC):
    """The masks of single weights of several layers, set from magnitudes."""

    @abstractmethod
    def prune(self, targets: Mapping[str, Target], remaining: Remaining) -> None:
        """Bring layers to their targets; what is pruned stays pruned. Called on all ranks alike."""

    @abstractmethod
    def counts(self, remaining: Remaining) -> tuple[float, float]:
        """Pruned and all weights among those that are remaining. Called on all ranks alike."""

    @abstractmethod
    def finish(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gathered weights, 0 where they are pruned; changes the dictionary."""

    @abstractmethod
    def state(self) -> Mapping[str, Any]:
        """What is pruned by layer, bool: tensors, or pieces of what this rank owns."""

    @abstractmethod
    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave, of any ranks."""


class Masking(ABC):
    """The masks of a model. Every call but the first two is alike on all ranks."""

    def engine_block(self, pruners: Iterable[Pruner]) -> dict[str, Any]:
        """Entries of the engine's configuration."""
        return {}

    @abstractmethod
    def prepare(self, model: PreTrainedModel, pruners: Sequence[Pruner]) -> None:
        """Give the layers masks, in place, and the pruners theirs; nothing is pruned yet."""

    @abstractmethod
    def bind(self, engine: Engine) -> None:
        """Called once, after the engine is built."""

    @abstractmethod
    def before_step(self) -> None:
        """Called between the last backward pass of an optimiser step and the step."""

    @abstractmethod
    def after_step(self) -> None:
        """Called when an optimiser step is done."""

    @abstractmethod
    def refresh(self) -> None:
        """Called when masks have changed."""

    @abstractmethod
    def scores(self) -> list[nn.Parameter]:
        """Learned scores, which are trained at a rate of their own."""


def choose(kind: Kind) -> Masking:
    """The masks that `robust_compression.masks` names."""
    if kind == "deepspeed":
        from compress.compression.library import LibraryMasking

        return LibraryMasking()
    from compress.compression.native.masking_native import NativeMasking

    return NativeMasking()
