"""Masks of our own, for every release of DeepSpeed: only the planned layers are touched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn
from transformers import PreTrainedModel

from compress.compression.masking import LayerMask, Masking
from compress.compression.native.learned import LearnedMask, MaskedLinear
from compress.compression.native.unit_masks import ZeroedUnits
from compress.compression.native.weights import ZeroedWeights
from compress.compression.native.zeroing import Zeroing
from compress.compression.pruner import Pruner
from compress.models.blocks import Slices
from compress.untyped import Engine


class NativeMasking(Masking):
    """Fixed masks hold weights at 0 outside the forward pass; learned scores have a masked layer."""

    def __init__(self) -> None:
        """Nothing is masked."""
        self._zeroing = Zeroing()
        self._layers: list[MaskedLinear] = []

    def prepare(self, model: PreTrainedModel, pruners: Sequence[Pruner]) -> None:
        """Give the layers masks, in place, and the pruners theirs; nothing is pruned yet."""
        for pruner in pruners:
            carriers = pruner.carriers
            if pruner.learned:
                pruner.masks = {name: self._learned(model, name, u) for name, u in carriers.items()}
            elif pruner.cuts:
                units = [own for own in carriers.values() if own is not None]
                self._add(model, carriers, bias=any(own.axis == 0 for own in units))
                pruner.masks = {own.layer: ZeroedUnits(self._zeroing, own) for own in units}
            else:
                self._add(model, carriers)
                pruner.weights = ZeroedWeights(self._zeroing, list(carriers))

    def _learned(self, model: PreTrainedModel, name: str, own: Slices | None) -> LayerMask:
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        layer = MaskedLinear(linear, own)
        model.set_submodule(name, layer)
        self._layers.append(layer)
        return LearnedMask(name, layer)

    def _add(self, model: PreTrainedModel, layers: Iterable[str], bias: bool = False) -> None:
        found: dict[str, nn.Parameter] = {}
        for name in layers:
            linear = model.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            found[f"{name}.weight"] = linear.get_parameter("weight")
            if bias and linear.bias is not None:
                found[f"{name}.bias"] = linear.get_parameter("bias")
        self._zeroing.add(found)

    def bind(self, engine: Engine) -> None:
        """Called once, after the engine is built."""
        self._zeroing.bind(engine)

    def before_step(self) -> None:
        """Zero the gradients of pruned weights."""
        self._zeroing.before_step()

    def after_step(self) -> None:
        """Scores have changed."""
        for layer in self._layers:
            layer.selection.forget()

    def refresh(self) -> None:
        """Zero what the model computes with where masks have changed."""
        self._zeroing.refresh()

    def scores(self) -> list[nn.Parameter]:
        """Learned scores, which are trained at a rate of their own."""
        return [layer.mask_scores for layer in self._layers]
