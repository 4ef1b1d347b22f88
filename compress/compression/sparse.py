"""Masks on single weights, by magnitude or by learned scores, on DeepSpeed's compressible layers.

Gaps of the library that are filled here: its l1 masks are computed once, from the initial weights;
its learned scores start at random values and have no schedule. Here the masks follow the ramp, and
movement pruning starts from scores of 0 with nothing pruned (Sanh et al. 2020).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from deepspeed.compression.basic_layer import LinearLayer_Compress
from deepspeed.compression.utils import TopKBinarizer
from torch import Tensor

from compress.compression.library import Layers, State, Weights, dense_block, ratio_of
from compress.compression.plan import Plan
from compress.compression.pruning import magnitude_mask

Alive = Callable[[str], tuple[Tensor | None, Tensor | None]]


class SparseMasks:
    """Single weights: iterative magnitude pruning, or learned scores."""

    def __init__(self, plan: Plan) -> None:
        """Take the groups of a plan; `bind` gives the layers."""
        self.groups, self.learned = plan.sparse, plan.learned_sparse
        self.layers: Layers = {}
        self.counts_kept: dict[str, int] = {}

    def library_block(self) -> dict[str, Any]:
        """DeepSpeed's schema, dense at first."""
        names = {name: group.layers for name, group in self.groups.items()}
        return dense_block("sparse_pruning", names, method="topk" if self.learned else "l1")

    def bind(self, modules: Layers) -> None:
        """Take the prepared layers, all their weights unpruned."""
        self.layers = {n: modules[n] for group in self.groups.values() for n in group.layers}
        for name, layer in self.layers.items():
            layer.sparse_pruning_enabled = True
            if self.learned:
                layer.sparse_mask_scores.data.zero_()
                self._keep(name, layer.in_features * layer.out_features)

    def to_weights_dtype(self) -> None:
        """The engine converts parameters to bf16 or fp16, not buffers."""
        for layer in self.layers.values():
            if not self.learned:
                layer.sparse_pruning_mask = layer.sparse_pruning_mask.to(layer.weight)

    def refresh(self, step: int, whole: Callable[[LinearLayer_Compress], Any], alive: Alive) -> bool:
        """Prune where the schedule of `step` says so; whether it did.

        whole: context in which a layer's weight is complete; alive: indices of the rows and columns
        that heads and rows leave, None for all; the asked sparsity holds among those.
        """
        refreshed = False
        for group in self.groups.values():
            ramp = group.ramp(step)
            if not ramp.refresh_at(step):
                continue
            refreshed = True
            for name in group.layers:
                layer = self.layers[name]
                if self.learned:
                    size = layer.in_features * layer.out_features
                    self._keep(name, round((1 - ramp.sparsity(step)) * size))
                    continue
                with whole(layer), torch.no_grad():
                    mask = layer.sparse_pruning_mask.view(layer.weight.shape)
                    layer.sparse_pruning_mask = _refreshed(
                        layer.weight, mask, ramp.sparsity(step), *alive(name)
                    )
        return refreshed

    def _keep(self, name: str, count: int) -> None:
        layer = self.layers[name]
        self.counts_kept[name] = count
        layer.sparse_pruning_ratio = ratio_of(count, layer.in_features * layer.out_features)

    def counts(self, alive: Alive) -> tuple[float, float]:
        """Pruned weights and all weights of the layers, among those that heads and rows leave."""
        pruned = total = 0.0
        for name, layer in self.layers.items():
            if self.learned:
                size = float(layer.in_features * layer.out_features)
                pruned, total = pruned + size - self.counts_kept[name], total + size
                continue
            mask = _select(layer.sparse_pruning_mask, *alive(name))
            pruned += mask.numel() - float(mask.float().sum())
            total += mask.numel()
        return pruned, total

    def state_dict(self) -> State:
        """Masks by layer, bool on the CPU; of learned scores (parameters) how many weights stay."""
        if self.learned:
            return {n: torch.tensor(count) for n, count in self.counts_kept.items()}
        return {n: layer.sparse_pruning_mask.bool().cpu() for n, layer in self.layers.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        for name, layer in self.layers.items():
            if self.learned:
                self._keep(name, int(state[name]))
                continue
            old = layer.sparse_pruning_mask
            layer.sparse_pruning_mask = state[name].view(old.shape).to(old.device, old.dtype)

    def apply(self, weights: Weights) -> None:
        """Zero the pruned weights in place, drop masks and scores."""
        for name, layer in self.layers.items():
            weight = weights[f"{name}.weight"]
            if self.learned:
                scores = weights.pop(f"{name}.sparse_mask_scores")
                mask = TopKBinarizer.apply(scores, layer.sparse_pruning_ratio, False)
            else:
                mask = layer.sparse_pruning_mask.view(weight.shape)
            weights.pop(f"{name}.sparse_pruning_mask", None)
            weights[f"{name}.weight"] = weight * mask.to(weight)


def _select(matrix: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    matrix = matrix if rows is None else matrix[rows.to(matrix.device)]
    return matrix if columns is None else matrix[:, columns.to(matrix.device)]


def _refreshed(
    weight: Tensor, mask: Tensor, sparsity: float, rows: Tensor | None, columns: Tensor | None
) -> Tensor:
    """The mask with `sparsity` among the living rows and columns; what else there is stays."""
    new = magnitude_mask(
        _select(weight, rows, columns).contiguous(), _select(mask, rows, columns), sparsity
    )
    if rows is None and columns is None:
        return new
    out = mask.clone()
    first = torch.arange(mask.shape[0]) if rows is None else rows
    second = torch.arange(mask.shape[1]) if columns is None else columns
    out[first[:, None].to(mask.device), second[None, :].to(mask.device)] = new
    return out
