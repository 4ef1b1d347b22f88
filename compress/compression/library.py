"""DeepSpeed's compression library behind `Masking`, for the releases that have it; and `copy_layers`.

It left DeepSpeed with 0.19.7 (upstream PR #8490). Its gaps, filled in this module: l1 masks are
computed once, from the initial weights; learned scores start at random values and have no schedule;
head pruning has learned scores only and one number of heads for all layers; a ratio may round up by
one; l1 fails in the first step; `student_initialization` prints from every rank.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from deepspeed.compression.compress import init_compression, student_initialization
from deepspeed.compression.utils import TopKBinarizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.compression.masking import LayerMask, Masking, Remaining, Target, WeightMasks, applied
from compress.compression.pruner import Pruner
from compress.compression.pruning_schedule import n_pruned
from compress.compression.technique import exactly
from compress.models.blocks import Slices
from compress.training.engine import gathered
from compress.untyped import Engine

SCORES = {"sparse": "sparse_mask_scores", "row": "row_mask_scores", "head": "head_pruning_scores"}
FIXED = {"sparse": "sparse_pruning_mask", "row": "row_pruning_mask", "head": "head_pruning_scores"}
"""Kind of mask -> attribute of the layer that holds learned scores, or a mask that is set."""


class LibraryMask(LayerMask):
    """The mask of one prepared layer: set as a whole, or learned scores of which the highest stay."""

    def __init__(
        self,
        path: str,
        layer: Any,  # noqa: ANN401  of DeepSpeed's library, untyped
        pruner: Pruner,
        entries: int | None,
    ) -> None:
        """Replace the library's mask by a mask of ones, or scores of 0.

        path: the layer's name; layer: a LinearLayer_Compress; entries: heads or neurons; None: one for
        each weight.
        """
        self.path, self.layer, self.kind, self.learned = path, layer, pruner.kind, pruner.learned
        shapes = {"head": (1, entries), "row": (entries, 1)}
        shape = shapes.get(self.kind, layer.weight.shape)
        self.name = (SCORES if self.learned else FIXED)[self.kind]
        for name in {SCORES[self.kind], FIXED[self.kind]} & {*layer._parameters, *layer._buffers}:
            delattr(layer, name)
        if self.learned:
            setattr(layer, self.name, nn.Parameter(torch.zeros(*shape)))
        else:
            layer.register_buffer(self.name, torch.ones(*shape))
        self.size = self.count = int(torch.Size(shape).numel())
        setattr(layer, f"{self.kind}_pruning_enabled", True)
        if self.kind == "head":
            layer.num_heads = self.size
        self.keep(self.size)

    @property
    def value(self) -> Tensor:
        """The mask that is set, or the scores."""
        stored: Tensor = getattr(self.layer, self.name)
        return stored

    def set(self, mask: Tensor) -> None:
        """Take another mask of the same shape."""
        setattr(self.layer, self.name, mask)

    def choose(self, units: Iterable[int]) -> None:
        """Let exactly these entries stay."""
        kept, mask = list(units), self.value
        mask.zero_()
        mask.view(-1)[kept] = 1
        self.keep(len(kept))

    def keep(self, count: int) -> None:
        """Let the highest `count` entries stay."""
        self.count = count
        setattr(self.layer, f"{self.kind}_pruning_ratio", ratio_of(count, self.size))

    def to_weights_dtype(self) -> None:
        """The engine converts parameters to bf16 or fp16, not buffers."""
        if not self.learned:
            self.set(self.value.to(self.layer.weight))

    def state(self) -> Tensor:
        """The mask as bool on the CPU; of learned scores how many stay."""
        return torch.tensor(self.count) if self.learned else self.value.bool().cpu().flatten()

    def load(self, state: Tensor) -> None:
        """Put back what `state` gave."""
        if self.learned:
            self.keep(int(state))
        else:
            self.choose(state.nonzero().flatten().tolist())

    def take(self, weights: dict[str, Tensor]) -> Tensor:
        """The final mask from gathered weights, taken out of them."""
        stored = weights.pop(f"{self.path}.{self.name}")
        if not self.learned:
            return stored
        ratio = getattr(self.layer, f"{self.kind}_pruning_ratio")
        mask: Tensor = TopKBinarizer.apply(stored, ratio, False)
        return mask


class LibraryWeights(WeightMasks):
    """Masks of the size of the weights, in the layers; found on the gathered weights."""

    def __init__(self, masks: Mapping[str, LibraryMask], masking: LibraryMasking) -> None:
        """masks: by layer."""
        self._masks, self._masking = masks, masking

    def prune(self, targets: Mapping[str, Target], remaining: Remaining) -> None:
        """Bring layers to their sparsities; what is pruned stays pruned. Called on all ranks alike."""
        for name, target in targets.items():
            mask, left = self._masks[name], remaining.get(name, (None, None))
            with self._masking.whole(mask.layer.weight):
                mask.set(_refreshed(mask.layer.weight.detach(), mask.value, target.sparsity, *left))

    def counts(self, remaining: Remaining) -> tuple[float, float]:
        """Pruned and all weights among those that are remaining."""
        pruned = total = 0.0
        for name, mask in self._masks.items():
            left = _select(mask.value, *remaining.get(name, (None, None)))
            pruned += left.numel() - float(left.float().sum())
            total += left.numel()
        return pruned, total

    def finish(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gathered weights, 0 where they are pruned; changes the dictionary."""
        return applied(self._masks, weights)

    def state(self) -> dict[str, Tensor]:
        """What is pruned by layer, bool on the CPU."""
        return {name: ~mask.value.bool().cpu().flatten() for name, mask in self._masks.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave."""
        for name, mask in self._masks.items():
            mask.set((~state[name]).view(mask.value.shape).to(mask.value))


def ratio_of(keep: int, size: int) -> float:
    """A ratio that the library's `ceil(ratio * size)` turns into exactly `keep`.

    A ratio that was computed does not always: 1 - 11 / 12 keeps 2 heads of 12, by a rounding error.
    """
    return (keep - 0.5) / size if keep else 0.0


def _units(own: Slices | None) -> int | None:
    return None if own is None else own.units


def blocks(pruners: Iterable[Pruner]) -> dict[str, Any]:
    """`compression_training` in DeepSpeed's schema, pruning nothing yet; empty without a pruner."""
    found: dict[str, Any] = {}
    for pruner in pruners:
        head = pruner.kind == "head"
        shared = {"num_heads": _units(next(iter(pruner.carriers.values())))} if head else {}
        method = "topk" if pruner.learned or head else "l1"
        group = {"params": {"dense_ratio": 1.0}, "modules": [exactly(n) for n in pruner.carriers]}
        found[f"{pruner.kind}_pruning"] = {
            "shared_parameters": {"enabled": True, "schedule_offset": 0, "method": method, **shared},
            "different_groups": {"all": group},
        }
    return {"compression_training": found} if found else {}


class LibraryMasking(Masking):
    """The library's layers, which multiply their weights by masks in every forward pass."""

    def __init__(self) -> None:
        """Nothing is masked."""
        self._masks: list[LibraryMask] = []
        self._engine: Any = None

    def engine_block(self, pruners: Iterable[Pruner]) -> dict[str, Any]:
        """`compression_training` in DeepSpeed's schema."""
        return blocks(pruners)

    def prepare(self, model: PreTrainedModel, pruners: Sequence[Pruner]) -> None:
        """Turn the layers that carry masks into the library's own, in place; nothing is pruned yet."""
        if pruners:
            init_compression(model, blocks(pruners))
        modules = dict(model.named_modules())
        for pruner in pruners:
            masks = {
                name: LibraryMask(name, modules[name], pruner, _units(own))
                for name, own in pruner.carriers.items()
            }
            pruner.masks = masks
            pruner.weights = LibraryWeights(masks, self)
            self._masks += masks.values()

    def bind(self, engine: Engine) -> None:
        """Fill the missing key of the engine's scheduler; convert the masks to its dtype."""
        self._engine = engine
        methods = engine.compression_scheduler.different_compression_methods
        methods["sparse_pruning"]["shared_parameters"].setdefault("schedule_offset_end", 0)
        for mask in self._masks:
            mask.to_weights_dtype()

    def before_step(self) -> None:
        """The masks are in the forward pass."""

    def after_step(self) -> None:
        """The masks are found anew in every forward pass."""

    def refresh(self) -> None:
        """The layers have the masks."""

    def whole(self, weight: Tensor) -> AbstractContextManager[None]:
        """Context in which a weight is complete on every rank (ZeRO 3)."""
        return nullcontext() if self._engine is None else gathered(self._engine, weight)

    def scores(self) -> list[nn.Parameter]:
        """Learned scores, which are trained at a rate of their own."""
        return [mask.layer.get_parameter(mask.name) for mask in self._masks if mask.learned]


def magnitude_mask(weight: Tensor, mask: Tensor | None, sparsity: float) -> Tensor:
    """Mask that removes the lowest-magnitude weights and keeps removed what `mask` removed.

    weight, mask: same shape, mask 0/1; exactly `n_pruned` entries of the result are 0 (or more, if
    the old mask has more). Ties go to the lower index, so every rank decides alike.
    """
    flat = weight.detach().float().abs().flatten()
    if mask is not None:
        flat = flat.masked_fill(mask.flatten() == 0, -1.0)
    count = n_pruned(flat.numel(), sparsity)
    new = flat.new_ones(flat.shape)
    if count:
        threshold = flat.kthvalue(count).values
        below = flat < threshold
        ties = (flat == threshold).nonzero().flatten()
        new[below] = 0
        new[ties[: count - int(below.sum())]] = 0
    if mask is not None:
        new *= mask.flatten()
    return new.view(weight.shape).to(weight.dtype)


def _select(matrix: Tensor, outputs: Tensor | None, inputs: Tensor | None) -> Tensor:
    matrix = matrix if outputs is None else matrix[outputs.to(matrix.device)]
    return matrix if inputs is None else matrix[:, inputs.to(matrix.device)]


def _refreshed(
    weight: Tensor, mask: Tensor, sparsity: float, outputs: Tensor | None, inputs: Tensor | None
) -> Tensor:
    """The mask with `sparsity` among the remaining outputs and inputs; the rest of it stays."""
    weight = _select(weight, outputs, inputs).contiguous()
    new = magnitude_mask(weight, _select(mask, outputs, inputs), sparsity)
    if outputs is None and inputs is None:
        return new
    whole = mask.clone()
    rows = torch.arange(mask.shape[0]) if outputs is None else outputs
    columns = torch.arange(mask.shape[1]) if inputs is None else inputs
    whole[rows[:, None].to(mask.device), columns[None, :].to(mask.device)] = new
    return whole


def copy_layers(
    student: PreTrainedModel,
    source: PreTrainedModel,
    prefix: str,
    layers: Sequence[int],
    others: Sequence[str],
) -> None:
    """Copy blocks of `source` by number into the student's, in place, and modules by name.

    prefix: name of the list of blocks in both models.
    """
    block = {
        "enabled": True,
        "keep_number_layer": len(layers),
        "module_name_prefix": prefix,
        "teacher_layer": list(layers),
        "other_module_name": list(others),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        student_initialization(student, source, {"compression_training": {"layer_reduction": block}})
