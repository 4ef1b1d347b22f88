"""The part of a parameter whose float32 master weights this rank updates, under every ZeRO stage.

A shard is a range of the flattened parameter: all of it at stage 0, what falls into the rank's flat
partition at stages 1 and 2, the rank's slice without its padding at stage 3. Shards of one parameter
follow each other in the order of the ranks. The optimiser steps tensors of its own, which hold one
shard or many: `Shard.place` says where.
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

from compress.checkpoints.pieces import Piece
from compress.runtime import ranks
from compress.untyped import Engine


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

    def owned(self, values: Tensor) -> Piece:
        """What this rank writes of values of the shard, [length], to a checkpoint.

        A shard that all ranks have whole is dealt to them in ranges.
        """
        total = self.shape.numel()
        if self.divided:
            return Piece(values, self.start, total)
        first, last = (total * n // ranks.world_size() for n in (ranks.rank(), ranks.rank() + 1))
        return Piece(values[first:last], first, total)

    @property
    def written_bytes(self) -> int:
        """Size of the master weights that this rank writes to a checkpoint."""
        return 4 * self.length // (1 if self.divided else ranks.world_size())

    @property
    def precision(self) -> torch.dtype:
        """The type that the model computes with."""
        return self.parameter.dtype

    def place(self, engine: Engine) -> tuple[Tensor, int]:
        """The float32 tensor that the optimiser steps, and where the shard begins in it."""
        return self.parameter, 0

    def set_master(self, values: Tensor) -> None:
        """Set the master weights; float32 [length]."""
        self.master.data.copy_(values)

    def copy_master(self) -> None:
        """Set this rank's part of the weights that the model computes with to the master weights.

        At stages 1 and 2 `update_lp_params` does that for all parameters.
        """

    def zero(self, kept: Tensor) -> None:
        """Set master weights to 0 where they are not kept, bool [length]."""
        _keep(self.master, kept)

    @property
    def gradient(self) -> Tensor | None:
        """The summed gradient, [length]; between the last backward pass and the step."""
        return None if self.parameter.grad is None else self.parameter.grad.view(-1)

    def zero_gradient(self, kept: Tensor) -> None:
        """Zero the gradient where it is not kept, bool [length]."""
        gradient = self.gradient
        if gradient is not None:
            _keep(gradient, kept)

    def zero_copy(self, kept: Tensor) -> None:
        """The same with the weights that the model computes with."""

    def stored_in(self, storages: set[int]) -> bool:
        """Whether the master weights lie in one of these storages."""
        return self.master.untyped_storage().data_ptr() in storages


class LowPrecision(Shard):
    """A whole parameter in bf16 or fp16 at stage 0; its master weights are the engine's."""

    def __init__(self, parameter: nn.Parameter, place: tuple[Tensor, int]) -> None:
        """place: the engine's float32 tensor, and where the parameter begins in it."""
        super().__init__(parameter, parameter.shape, 0, parameter.numel())
        self._place = place

    @property
    def master(self) -> Tensor:
        """Master weights, float32 [length]."""
        flat, position = self._place
        return flat.data.view(-1).narrow(0, position, self.length)

    def place(self, engine: Engine) -> tuple[Tensor, int]:
        """See `Shard.place`."""
        return self._place

    def copy_master(self) -> None:
        """See `Shard.copy_master`."""
        self.parameter.data.view(-1).copy_(self.master)

    def zero_copy(self, kept: Tensor) -> None:
        """Set the weights that the model computes with to 0 where they are not kept."""
        _keep(self.parameter.data.view(-1), kept)


class Fragment(Shard):
    """Stages 1 and 2: what of a parameter lies in this rank's flat partition.

    DeepSpeed's `_hp_mapping` knows both addresses; `update_lp_params` copies to the compute weights.
    """

    divided = True

    def __init__(self, parameter: nn.Parameter, device: torch.device) -> None:
        """parameter: linked by the engine; a parameter of other ranks has an empty shard.

        device: of the master weights, the CPU if they are offloaded.
        """
        address = getattr(parameter._hp_mapping, "lp_fragment_address", None)  # type: ignore[attr-defined]
        start, length = (address.start, address.numel) if address else (0, 0)
        super().__init__(parameter, parameter.shape, start, length)
        self._device = device

    @property
    def _mapping(self) -> Any:  # noqa: ANN401  DeepSpeed links it anew when it loads a checkpoint
        return self.parameter._hp_mapping  # type: ignore[attr-defined]  # DeepSpeed's

    @property
    def master(self) -> Tensor:
        """Master weights, float32 [length]."""
        if not self.length:
            return torch.empty(0, dtype=torch.float32, device=self._device)
        fragment: Tensor = self._mapping.hp_fragment
        return fragment

    def place(self, engine: Engine) -> tuple[Tensor, int]:
        """See `Shard.place`."""
        master = self.master
        storage = master.untyped_storage().data_ptr()
        for flat in engine.optimizer.single_partition_of_fp32_groups:
            if flat.untyped_storage().data_ptr() == storage:
                return flat, master.storage_offset() - flat.storage_offset()
        return master, 0

    def zero(self, kept: Tensor) -> None:
        """Set master weights to 0 where they are not kept, bool [length]."""
        _keep(self.master.data, kept)

    @property
    def gradient(self) -> Tensor | None:
        """See `Shard.gradient`."""
        if not self.length:
            return None
        index = self.parameter._index_in_param_group  # type: ignore[attr-defined]  # DeepSpeed's
        gradient: Tensor = self._mapping.get_lp_grad_fragment(index).view(-1)
        if gradient.numel() > self.length:
            gradient = gradient.narrow(0, self.start, self.length)
        return gradient


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

    def place(self, engine: Engine) -> tuple[Tensor, int]:
        """See `Shard.place`."""
        part, group = engine.optimizer._get_fp32_opt_state_partition(self.parameter, True)
        flat = engine.optimizer.fp32_partitioned_groups_flat[group]
        return flat, part.storage_offset() - flat.storage_offset()

    def copy_master(self) -> None:
        """See `Shard.copy_master`."""
        slice_: Tensor = self.parameter.ds_tensor.data  # type: ignore[attr-defined]  # DeepSpeed's
        slice_.view(-1)[: self.length].copy_(self.master)

    def _padded(self) -> Tensor:
        return safe_get_local_fp32_param(self.parameter).data.view(-1)

    def set_master(self, values: Tensor) -> None:
        """See `Shard.set_master`."""
        weights = self._padded()
        weights[: self.length].copy_(values)
        if self._copied:
            safe_set_local_fp32_param(self.parameter, weights)

    def zero(self, kept: Tensor) -> None:
        """Set master weights to 0 where they are not kept, bool [length]."""
        weights = self._padded()
        _keep(weights[: self.length], kept)
        if self._copied:
            safe_set_local_fp32_param(self.parameter, weights)

    @property
    def gradient(self) -> Tensor | None:
        """See `Shard.gradient`; DeepSpeed hands out a copy."""
        gradient: Tensor = safe_get_local_grad(self.parameter).view(-1)
        return gradient[: self.length]

    def zero_gradient(self, kept: Tensor) -> None:
        """See `Shard.zero_gradient`."""
        gradient = safe_get_local_grad(self.parameter).view(-1)
        _keep(gradient[: self.length], kept)
        safe_set_local_grad(self.parameter, gradient)

    def zero_copy(self, kept: Tensor) -> None:
        """The same with the slice that the model's weights are gathered from."""
        slice_: Tensor = self.parameter.ds_tensor.data  # type: ignore[attr-defined]  # DeepSpeed's
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


def of(engine: Engine, parameters: Mapping[str, nn.Parameter]) -> dict[str, Shard]:
    """Shards of parameters under DeepSpeed's engine, by their names."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    if stage == 3:
        offload = bool(optimizer.offload_optimizer)
        copied = offload and next(iter(parameters.values())).device.type != "cpu"
        return {name: Partition(parameter, copied) for name, parameter in parameters.items()}
    if stage in (1, 2):
        device = optimizer.single_partition_of_fp32_groups[0].device
        return {name: Fragment(parameter, device) for name, parameter in parameters.items()}
    masters = _masters(optimizer)
    if masters is None:
        return plain(parameters)
    return {n: LowPrecision(p, masters[id(p)]) for n, p in parameters.items()}


def trained(engine: Engine) -> dict[str, Shard]:
    """Shards of all parameters that the engine trains, by their names."""
    return of(engine, {n: p for n, p in engine.module.named_parameters() if p.requires_grad})


def _masters(optimizer: Engine) -> dict[int, tuple[Tensor, int]] | None:
    """Places of master weights at stage 0 by id of the parameter; None if the parameters are their own.

    The fused optimiser has one flat tensor a group, the unfused one a tensor for each parameter.
    """
    found: dict[int, tuple[Tensor, int]] = {}
    if hasattr(optimizer, "fp32_groups_flat"):
        for group, flat in zip(optimizer.fp16_groups, optimizer.fp32_groups_flat, strict=True):
            position = 0
            for parameter in group:
                found[id(parameter)] = (flat, position)
                position += parameter.numel()
        return found
    if not hasattr(optimizer, "fp32_groups"):
        return None
    for group, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
        found |= {id(p): (master, 0) for p, master in zip(group, masters, strict=True)}
    return found


def refresh_copies(engine: Engine, changed: Iterable[tuple[Shard, Tensor]]) -> None:
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


def copied(engine: Engine) -> dict[str, Tensor]:
    """The master weights that this rank has, float32 on the CPU; between steps only."""
    return {name: part.master.detach().to("cpu", copy=True) for name, part in trained(engine).items()}


def put_back(engine: Engine, weights: Mapping[str, Tensor]) -> None:
    """Set master weights to what `copied` gave, and what the model computes with; collective."""
    parts = trained(engine)
    with torch.no_grad():
        for name, part in parts.items():
            part.set_master(weights[name])
        copy_masters(engine, parts.values())


def copy_masters(engine: Engine, parts: Iterable[Shard]) -> None:
    """Set the weights that the model computes with to the master weights; collective from stage 1."""
    stage = engine.zero_optimization_stage()
    if stage in (1, 2):
        engine.optimizer.update_lp_params()
        return
    parts = list(parts)
    for shard in parts:
        shard.copy_master()
    if stage == 3:
        _gather_again([shard.parameter for shard in parts])


def _gather_again(parameters: Iterable[Any]) -> None:
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    whole = [p for p in parameters if p.ds_status == ZeroParamStatus.AVAILABLE]
    for parameter in whole:
        parameter.partition()
    if whole:
        whole[0].all_gather(whole)
