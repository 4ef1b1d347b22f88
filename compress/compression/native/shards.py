"""The part of a parameter whose float32 master weights this rank updates, under every ZeRO stage.

A shard is a range of the flattened parameter: all of it at stage 0, what falls into the rank's flat
partition at stages 1 and 2, the rank's slice without its padding at stage 3. Shards of one parameter
follow each other in the order of the ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from deepspeed.utils import (
    safe_get_local_fp32_param,
    safe_get_local_grad,
    safe_set_local_fp32_param,
    safe_set_local_grad,
)
from torch import Tensor, nn

from compress.runtime import ranks


class Shard:
    """A whole parameter with its own master weights: without an engine, and float32 at stage 0.

    shape: of the whole parameter; start, length: the range in the flattened parameter.
    """

    divided = False

    def __init__(self, parameter: nn.Parameter, shape: torch.Size, start: int, length: int) -> None:
        """The range from `start`; an empty one has length 0."""
        self.parameter, self.shape, self.start, self.length = parameter, shape, start, length

    @property
    def master(self) -> Tensor:
        """Master weights, float32 [length]."""
        return self.parameter.data.view(-1)

    @property
    def precision(self) -> torch.dtype:
        """The type that the model computes with."""
        return self.parameter.dtype

    def zero(self, kept: Tensor) -> None:
        """Set master weights to 0 where they are not kept, bool [length]."""
        _keep(self.master, kept)

    def zero_gradient(self, kept: Tensor) -> None:
        """The same with the summed gradient; between the last backward pass and the step."""
        gradient = self.parameter.grad
        if gradient is not None:
            _keep(gradient, kept.view(gradient.shape))

    def zero_copy(self, kept: Tensor) -> None:
        """The same with the weights that the model computes with."""

    def stored_in(self, storages: set[int]) -> bool:
        """Whether the master weights lie in one of these storages."""
        return self.master.untyped_storage().data_ptr() in storages


class LowPrecision(Shard):
    """A whole parameter in bf16 or fp16 at stage 0; its master weights are the engine's."""

    def __init__(self, parameter: nn.Parameter, master: Tensor) -> None:
        """master: flat view of the engine's float32 weights."""
        super().__init__(parameter, parameter.shape, 0, parameter.numel())
        self._master = master

    @property
    def master(self) -> Tensor:
        """Master weights, float32 [length]."""
        return self._master

    def zero_copy(self, kept: Tensor) -> None:
        """Set the weights that the model computes with to 0 where they are not kept."""
        _keep(self.parameter.data.view(-1), kept)


class Fragment(Shard):
    """Stages 1 and 2: what of a parameter lies in this rank's flat partition.

    DeepSpeed's `_hp_mapping` knows both addresses; `update_lp_params` copies to the compute weights.
    """

    divided = True

    def __init__(self, parameter: nn.Parameter) -> None:
        """parameter: linked by the engine; a parameter of other ranks has an empty shard."""
        address = getattr(parameter._hp_mapping, "lp_fragment_address", None)  # type: ignore[attr-defined]
        start, length = (address.start, address.numel) if address else (0, 0)
        super().__init__(parameter, parameter.shape, start, length)

    @property
    def _mapping(self) -> Any:  # noqa: ANN401  DeepSpeed links it anew when it loads a checkpoint
        return self.parameter._hp_mapping  # type: ignore[attr-defined]

    @property
    def master(self) -> Tensor:
        """Master weights, float32 [length]."""
        if not self.length:
            return self.parameter.data.new_empty(0, dtype=torch.float32)
        fragment: Tensor = self._mapping.hp_fragment
        return fragment

    def zero(self, kept: Tensor) -> None:
        """Set master weights to 0 where they are not kept, bool [length]."""
        _keep(self.master.data, kept)

    def zero_gradient(self, kept: Tensor) -> None:
        """The same with the summed gradient; between the last backward pass and the step."""
        if not self.length:
            return
        index = self.parameter._index_in_param_group  # type: ignore[attr-defined]
        gradient = self._mapping.get_lp_grad_fragment(index).view(-1)
        if gradient.numel() > self.length:
            gradient = gradient.narrow(0, self.start, self.length)
        _keep(gradient, kept)


class Partition(Shard):
    """Stage 3: the rank's slice of the parameter, of equal size on all ranks but for padding."""

    divided = True

    def __init__(self, parameter: Any, copied: bool) -> None:  # noqa: ANN401  attributes of DeepSpeed
        """copied: the optimiser's states are on another device, so that DeepSpeed hands out copies."""
        size = parameter.ds_tensor.ds_numel
        start = min(ranks.rank() * size, parameter.ds_numel)
        super().__init__(parameter, parameter.ds_shape, start, min(size, parameter.ds_numel - start))
        self._copied = copied

    @property
    def master(self) -> Tensor:
        """Master weights, float32 [length]."""
        return self._padded()[: self.length]

    def _padded(self) -> Tensor:
        return safe_get_local_fp32_param(self.parameter).data.view(-1)

    def zero(self, kept: Tensor) -> None:
        """Set master weights to 0 where they are not kept, bool [length]."""
        weights = self._padded()
        _keep(weights[: self.length], kept)
        if self._copied:
            safe_set_local_fp32_param(self.parameter, weights)

    def zero_gradient(self, kept: Tensor) -> None:
        """The same with the summed gradient; between the last backward pass and the step."""
        gradient = safe_get_local_grad(self.parameter).view(-1)
        _keep(gradient[: self.length], kept)
        safe_set_local_grad(self.parameter, gradient)

    def zero_copy(self, kept: Tensor) -> None:
        """The same with the slice that the model's weights are gathered from."""
        slice_: Tensor = self.parameter.ds_tensor.data  # type: ignore[attr-defined]
        _keep(slice_.view(-1)[: self.length], kept.to(slice_.device))

    def stored_in(self, storages: set[int]) -> bool:
        """Whether the master weights lie in one of these storages; unknown of copies."""
        return self._copied or super().stored_in(storages)


def _keep(values: Tensor, kept: Tensor) -> None:
    """Zero in place what is not kept. A product with bytes is five times faster than `masked_fill_`."""
    values.mul_(kept.view(torch.uint8))


def plain(parameters: Mapping[str, nn.Parameter]) -> dict[str, Shard]:
    """Shards of a model without an engine."""
    return {name: Shard(p, p.shape, 0, p.numel()) for name, p in parameters.items()}


def of(engine: Any, parameters: Mapping[str, nn.Parameter]) -> dict[str, Shard]:  # noqa: ANN401
    """Shards of parameters under DeepSpeed's engine, by their names."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    if stage == 3:
        offload = bool(optimizer.offload_optimizer)
        copied = offload and next(iter(parameters.values())).device.type != "cpu"
        return {name: Partition(parameter, copied) for name, parameter in parameters.items()}
    if stage in (1, 2):
        return {name: Fragment(parameter) for name, parameter in parameters.items()}
    masters = _masters(optimizer)
    if masters is None:
        return plain(parameters)
    return {n: LowPrecision(p, masters[id(p)]) for n, p in parameters.items()}


def _masters(optimizer: Any) -> dict[int, Tensor] | None:  # noqa: ANN401
    """Flat master weights at stage 0 by id of the parameter; None if the parameters are their own.

    The fused optimiser has one flat tensor a group, the unfused one a tensor for each parameter.
    """
    found: dict[int, Tensor] = {}
    if hasattr(optimizer, "fp32_groups_flat"):
        for group, flat in zip(optimizer.fp16_groups, optimizer.fp32_groups_flat, strict=True):
            position = 0
            for parameter in group:
                found[id(parameter)] = flat.data.narrow(0, position, parameter.numel())
                position += parameter.numel()
        return found
    if not hasattr(optimizer, "fp32_groups"):
        return None
    for group, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
        found |= {id(p): master.data.view(-1) for p, master in zip(group, masters, strict=True)}
    return found


def refresh_copies(engine: Any, changed: Iterable[tuple[Shard, Tensor]]) -> None:  # noqa: ANN401
    """Zero the compute weights of changed shards, given with what is kept; collective from stage 1.

    Between steps only: at stage 3 weights that persist on all ranks are gathered again.
    """
    stage = 0 if engine is None else engine.zero_optimization_stage()
    if stage in (1, 2):
        engine.optimizer.update_lp_params()
        return
    changed = list(changed)
    for shard, kept in changed:
        shard.zero_copy(kept)
    if stage == 3:
        _gather_again([shard.parameter for shard, _ in changed])


def _gather_again(parameters: Iterable[Any]) -> None:
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    whole = [p for p in parameters if p.ds_status == ZeroParamStatus.AVAILABLE]
    for parameter in whole:
        parameter.partition()
    if whole:
        whole[0].all_gather(whole)
