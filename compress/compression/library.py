"""DeepSpeed's compression library behind four calls: `prepare`, `LayerMask`, `ready`, `copy_layers`.

It left DeepSpeed with 0.19.7 (upstream PR #8490). Its gaps, filled in this module: l1 masks are
computed once, from the initial weights; learned scores start at random values and have no schedule;
head pruning has learned scores only and one number of heads for all layers; a ratio may round up by
one; l1 fails in the first step; `student_initialization` prints from every rank.
"""

import contextlib
import io
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from deepspeed.compression.basic_layer import LinearLayer_Compress
from deepspeed.compression.compress import init_compression, student_initialization
from deepspeed.compression.utils import TopKBinarizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.compression.pruner import Pruner
from compress.compression.technique import exactly

SCORES = {"sparse": "sparse_mask_scores", "row": "row_mask_scores", "head": "head_pruning_scores"}
FIXED = {"sparse": "sparse_pruning_mask", "row": "row_pruning_mask", "head": "head_pruning_scores"}
"""Kind of mask -> attribute of the layer that holds learned scores, or a mask that is set."""


class LayerMask:
    """The mask of one prepared layer: set as a whole, or learned scores of which the highest stay."""

    def __init__(self, layer: LinearLayer_Compress, pruner: Pruner, entries: int | None) -> None:
        """Replace the library's mask by a mask of ones, or scores of 0.

        entries: heads or neurons; None: one for each weight.
        """
        self.layer, self.kind, self.learned = layer, pruner.kind, pruner.learned
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
        return torch.tensor(self.count) if self.learned else self.value.bool().cpu()

    def load(self, state: Tensor) -> None:
        """Put back what `state` gave."""
        if self.learned:
            self.keep(int(state))
        elif self.kind == "sparse":
            self.set(state.to(self.value))
        else:
            self.choose(state.flatten().nonzero().flatten().tolist())

    def take(self, weights: dict[str, Tensor], layer: str) -> Tensor:
        """The final mask from gathered weights, taken out of them."""
        stored = weights.pop(f"{layer}.{self.name}")
        if not self.learned:
            return stored
        ratio = getattr(self.layer, f"{self.kind}_pruning_ratio")
        mask: Tensor = TopKBinarizer.apply(stored, ratio, False)
        return mask


def ratio_of(keep: int, size: int) -> float:
    """A ratio that the library's `ceil(ratio * size)` turns into exactly `keep`.

    A ratio that was computed does not always: 1 - 11 / 12 keeps 2 heads of 12, by a rounding error.
    """
    return (keep - 0.5) / size if keep else 0.0


def engine_block(pruners: Iterable[Pruner]) -> dict[str, Any]:
    """`compression_training` in DeepSpeed's schema, pruning nothing yet; empty without a pruner."""
    blocks: dict[str, Any] = {}
    for pruner in pruners:
        head = pruner.kind == "head"
        shared = {"num_heads": next(iter(pruner.carriers.values()))} if head else {}
        method = "topk" if pruner.learned or head else "l1"
        group = {"params": {"dense_ratio": 1.0}, "modules": [exactly(n) for n in pruner.carriers]}
        blocks[f"{pruner.kind}_pruning"] = {
            "shared_parameters": {"enabled": True, "schedule_offset": 0, "method": method, **shared},
            "different_groups": {"all": group},
        }
    return {"compression_training": blocks} if blocks else {}


def prepare(model: PreTrainedModel, pruners: Sequence[Pruner]) -> None:
    """Turn the layers that carry masks into the library's own, in place; nothing is pruned yet."""
    if pruners:
        init_compression(model, engine_block(pruners))
    modules = dict(model.named_modules())
    for pruner in pruners:
        pruner.masks = {
            name: LayerMask(modules[name], pruner, n) for name, n in pruner.carriers.items()
        }


def ready(engine: Any, pruners: Iterable[Pruner]) -> None:  # noqa: ANN401  untyped
    """Fill the missing key of the engine's scheduler; convert the masks to its dtype."""
    methods = engine.compression_scheduler.different_compression_methods
    methods["sparse_pruning"]["shared_parameters"].setdefault("schedule_offset_end", 0)
    for pruner in pruners:
        for mask in pruner.masks.values():
            mask.to_weights_dtype()


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
