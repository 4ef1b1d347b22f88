"""Masks on attention heads and feed-forward rows, on DeepSpeed's compressible layers.

A head is switched off at the attention output layer, a row at the first feed-forward layer. Chosen ones
(by importance, or listed) are buffers that the schedule sets; learned scores are parameters.

Gaps of the library that are filled here: head pruning knows only learned scores from random initial
values, one ratio a group, no schedule. Here scores start at 0 and the ratio follows the ramp.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from deepspeed.compression.basic_layer import LinearLayer_Compress
from deepspeed.compression.utils import TopKBinarizer
from torch import Tensor, nn

from compress.compression.importance import Importance
from compress.compression.library import Layers, State, Weights, dense_block, ratio_of
from compress.compression.plan import Heads, Plan, Rows
from compress.compression.pruning import Ramp, kept_heads, kept_rows
from compress.models.architectures import Block

G = TypeVar("G", Heads, Rows)


class _Structured(ABC, Generic[G]):
    """What heads and rows share: which units of which block are kept, along the ramp."""

    scores: str
    mask: str
    ratio: str
    enabled: str

    def __init__(
        self, groups: Mapping[str, G], learned: bool, ramp: Ramp, blocks: Sequence[Block]
    ) -> None:
        self.groups: Mapping[str, G] = groups
        self.learned, self.ramp, self.blocks = learned, ramp, blocks
        self.numbers = sorted(n for group in groups.values() for n in group.blocks)
        self.kept = {n: tuple(range(self.full(n))) for n in self.numbers}
        self.layers: dict[int, LinearLayer_Compress] = {}

    @abstractmethod
    def full(self, number: int) -> int:
        """Units of a block before pruning."""

    @abstractmethod
    def module(self, number: int) -> str:
        """Name of the layer that carries the mask."""

    @abstractmethod
    def _shape(self, number: int) -> tuple[int, int]: ...

    @abstractmethod
    def _pick(
        self, group: G, importance: Importance | None, step: int
    ) -> Mapping[int, Collection[int]]: ...

    def bind(self, modules: Layers) -> None:
        """Take the prepared layers with all their units: learned scores of 0, or a mask of ones."""
        for number in self.numbers:
            layer: LinearLayer_Compress = modules[self.module(number)]
            self.layers[number] = layer
            setattr(layer, self.enabled, True)
            for name in {self.scores, self.mask} & {*layer._parameters, *layer._buffers}:
                delattr(layer, name)
            if self.learned:
                setattr(layer, self.scores, nn.Parameter(torch.zeros(self._shape(number))))
            else:
                layer.register_buffer(self.mask, torch.ones(self._shape(number)))
            self._keep(number, self.full(number))

    def to_weights_dtype(self) -> None:
        """The engine converts parameters to bf16 or fp16, not buffers."""
        for layer in () if self.learned else self.layers.values():
            setattr(layer, self.mask, getattr(layer, self.mask).to(layer.weight))

    def _keep(self, number: int, count: int) -> None:
        setattr(self.layers[number], self.ratio, ratio_of(count, self.full(number)))

    def _choose(self, number: int, units: Collection[int]) -> None:
        self.kept[number] = tuple(sorted(units))
        mask = getattr(self.layers[number], self.mask)
        mask.zero_()
        mask.view(-1)[list(self.kept[number])] = 1
        self._keep(number, len(self.kept[number]))

    def due(self, step: int) -> bool:
        """Whether something goes at this step: not at the ramp's begin, where nothing is to go yet."""
        return bool(self.groups) and self.ramp.refresh_at(step) and self.ramp.sparsity(step) > 0

    def needs_importance(self, step: int) -> bool:
        """Whether units are chosen by importance at this step."""
        listed = all(getattr(group, "pruned", None) is not None for group in self.groups.values())
        return self.due(step) and not self.learned and not listed

    def left(self, full: int, keep: int, step: int) -> int:
        """What is left of `full` on the way to `keep`."""
        return full - round((full - keep) * self.ramp.sparsity(step))

    def gone(self, number: int) -> set[int]:
        """Units of a block that are removed."""
        return set(range(self.full(number))) - set(self.kept[number])

    def refresh(self, step: int, importance: Importance | None) -> bool:
        """Remove units where the schedule of `step` says so; whether it did."""
        if not self.due(step):
            return False
        for group in self.groups.values():
            if self.learned:
                for number in group.blocks:
                    self._keep(number, self.left(self.full(number), group.keep, step))
            else:
                for number, units in self._pick(group, importance, step).items():
                    self._choose(number, units)
        return True

    def state_dict(self) -> State:
        """Kept units by layer as bool [units]; of learned scores the number that stays."""
        out = {}
        for number, layer in self.layers.items():
            if self.learned:
                count = getattr(layer, self.ratio) * self.full(number) + 0.5
                out[self.module(number)] = torch.tensor(round(count))
            else:
                out[self.module(number)] = getattr(layer, self.mask).view(-1).bool().cpu()
        return out

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        for number in self.layers:
            value = state[self.module(number)]
            if self.learned:
                self._keep(number, int(value))
            else:
                self._choose(number, value.nonzero().flatten().tolist())

    def final_mask(self, number: int, weights: Weights) -> Tensor:
        """Mask [units] of a block from gathered weights, taken out of them; sets `kept`."""
        layer = self.layers[number]
        stored = self.scores if self.learned else self.mask
        mask = weights.pop(f"{self.module(number)}.{stored}")
        if self.learned:
            mask = TopKBinarizer.apply(mask, getattr(layer, self.ratio), False)
        mask = mask.view(-1)
        self.kept[number] = tuple(mask.nonzero().flatten().tolist())
        return mask


class HeadMasks(_Structured[Heads]):
    """Attention heads, switched off at the columns of the attention output layer."""

    scores = mask = "head_pruning_scores"
    ratio, enabled = "head_pruning_ratio", "head_pruning_enabled"

    def __init__(self, plan: Plan, blocks: Sequence[Block]) -> None:
        """Take the groups of a plan for these blocks; all heads are there."""
        super().__init__(plan.heads, plan.learned_heads, plan.head_ramp, blocks)

    def full(self, number: int) -> int:
        """Heads of a block before pruning."""
        return self.blocks[number].heads

    def module(self, number: int) -> str:
        """Name of the attention output layer."""
        return self.blocks[number].attention_output

    def _shape(self, number: int) -> tuple[int, int]:
        return 1, self.full(number)

    def library_block(self) -> dict[str, Any]:
        """DeepSpeed's schema; `bind` corrects its one number of heads for all layers."""
        names = {f"layer_{number}": [self.module(number)] for number in self.numbers}
        return dense_block("head_pruning", names, method="topk", num_heads=self.full(self.numbers[0]))

    def bind(self, modules: Layers) -> None:
        """Take the prepared layers, each with its own number of heads."""
        for number in self.numbers:
            modules[self.module(number)].num_heads = self.full(number)
        super().bind(modules)

    def _pick(
        self, group: Heads, importance: Importance | None, step: int
    ) -> Mapping[int, Collection[int]]:
        if group.pruned is not None:
            return {n: set(range(self.full(n))) - set(group.pruned) for n in group.blocks}
        assert importance is not None
        keep = self.left(sum(self.full(n) for n in group.blocks), group.keep, step)
        scores = [importance.heads[n] for n in group.blocks]
        chosen = kept_heads(scores, keep, [self.gone(n) for n in group.blocks])
        return dict(zip(group.blocks, chosen, strict=True))

    def apply(self, weights: Weights) -> None:
        """Zero the columns of removed heads in place, drop scores; `kept` tells what is left."""
        for number in self.numbers:
            mask, block = self.final_mask(number, weights), self.blocks[number]
            weight = weights[f"{block.attention_output}.weight"]
            columns = mask.repeat_interleave(block.head_size).to(weight)
            weights[f"{block.attention_output}.weight"] = weight * columns


class RowMasks(_Structured[Rows]):
    """Rows of the first feed-forward layer, and with them the columns of the second."""

    scores, mask = "row_mask_scores", "row_pruning_mask"
    ratio, enabled = "row_pruning_ratio", "row_pruning_enabled"

    def __init__(self, plan: Plan, blocks: Sequence[Block]) -> None:
        """Take the groups of a plan for these blocks; all rows are there."""
        super().__init__(plan.rows, plan.learned_rows, plan.row_ramp, blocks)

    def full(self, number: int) -> int:
        """Rows of a block before pruning."""
        return self.blocks[number].rows

    def module(self, number: int) -> str:
        """Name of the first feed-forward layer."""
        return self.blocks[number].intermediate

    def _shape(self, number: int) -> tuple[int, int]:
        return self.full(number), 1

    def library_block(self) -> dict[str, Any]:
        """DeepSpeed's schema: its l1 gives the mask buffer, its topk the learned scores."""
        names = {name: [self.module(n) for n in rows.blocks] for name, rows in self.groups.items()}
        return dense_block("row_pruning", names, method="topk" if self.learned else "l1")

    def _pick(
        self, group: Rows, importance: Importance | None, step: int
    ) -> Mapping[int, Collection[int]]:
        assert importance is not None
        return {
            n: kept_rows(importance.rows[n], self.left(self.full(n), group.keep, step), self.gone(n))
            for n in group.blocks
        }

    def apply(self, weights: Weights) -> None:
        """Zero removed rows, their biases and columns in place; `kept` tells what is left."""
        for number in self.numbers:
            block = self.blocks[number]
            mask = self.final_mask(number, weights).to(weights[f"{block.intermediate}.weight"])
            weights[f"{block.intermediate}.weight"] = (
                weights[f"{block.intermediate}.weight"] * mask[:, None]
            )
            weights[f"{block.intermediate}.bias"] = weights[f"{block.intermediate}.bias"] * mask
            weights[f"{block.output}.weight"] = weights[f"{block.output}.weight"] * mask
