"""All state of DeepSpeed's engine between two optimiser steps, in pieces that any ranks can read.

DeepSpeed's own checkpoints fit the ranks and the ZeRO stage that wrote them; its universal format,
which fits others, does not know stage 0, needs a conversion of the whole model on one host, and 0.19.6
reads it wrongly (upstream issue #8474). Here each rank writes the part of master weights and optimiser
states that it owns (`compress.training.shards`), and reads the part that it owns then.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from deepspeed import DeepSpeedEngine
from torch import Tensor

from compress.checkpoints.pieces import Piece
from compress.runtime import ranks
from compress.training import shards
from compress.training.shards import Shard

COUNTERS = ("global_steps", "global_samples", "skipped_steps")
SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""Attributes of DeepSpeed's loss scalers, and of its float16 optimisers at stage 0."""


def state_dict(engine: DeepSpeedEngine) -> dict[str, Any]:
    """Weights, optimiser, schedule, buffers and counters, for `load`; between steps only."""
    parts = shards.trained(engine)
    entries, scalars = _optimizer_entries(engine, parts)
    return {
        "weights": {name: shard.owned(shard.master) for name, shard in parts.items()},
        "optimizer": entries,
        "optimizer_scalars": scalars,
        "groups": [_settings(group) for group in engine.basic_optimizer.param_groups],
        "scheduler": engine.lr_scheduler.state_dict() if engine.lr_scheduler else {},
        "scaler": {k: v for holder in _scalers(engine) for k, v in _attributes(holder).items()},
        "autocast_scaler": _autocast_scaler(engine).state_dict() if _autocast_scaler(engine) else {},
        "buffers": dict(engine.module.named_buffers()) if ranks.is_main() else {},
        "counters": {name: getattr(engine, name) for name in COUNTERS},
    }


def load(engine: DeepSpeedEngine, state: Mapping[str, Any], buffers: Mapping[str, Tensor]) -> None:
    """Put back what `state_dict` gave on so many ranks and at any stage; collective from stage 1.

    buffers: of the main rank's state.
    """
    parts = shards.trained(engine)
    with torch.no_grad():
        for name, shard in parts.items():
            shard.set_master(state["weights"][name].read(shard.start, shard.length))
        _load_optimizer(engine, parts, state)
        for name, buffer in engine.module.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])
        shards.copy_masters(engine, parts.values())
    for group, saved in zip(engine.basic_optimizer.param_groups, state["groups"], strict=True):
        group.update({key: _as(value, group.get(key)) for key, value in saved.items()})
    if engine.lr_scheduler:
        engine.lr_scheduler.load_state_dict(state["scheduler"])
    for holder in _scalers(engine):
        for name in _attributes(holder).keys() & state["scaler"].keys():
            setattr(holder, name, state["scaler"][name])
    if (scaler := _autocast_scaler(engine)) and state["autocast_scaler"]:
        scaler.load_state_dict(state["autocast_scaler"])
    for name, value in state["counters"].items():
        setattr(engine, name, value)
    engine.micro_steps = engine.global_steps * engine.gradient_accumulation_steps()


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """What an optimiser's group holds beside its parameters, as far as it can be written."""
    kinds = (bool, int, float, str, type(None), list, tuple, Tensor)
    return {k: v for k, v in group.items() if k != "params" and isinstance(v, kinds)}


def _as(value: Any, old: Any) -> Any:  # noqa: ANN401  any setting
    """A list as the tuple that it was."""
    return tuple(value) if isinstance(old, tuple) else value


def _of_shape(flat: Tensor, state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The optimiser's states of a tensor that have one entry for each of its own."""
    for key, value in state.items():
        if isinstance(value, Tensor) and value.shape == flat.shape:
            yield key, value


def _optimizer_entries(
    engine: DeepSpeedEngine, parts: Mapping[str, Shard]
) -> tuple[dict[str, dict[str, Piece]], dict[str, Any]]:
    """States with an entry for each weight, by key and parameter; and the others, alike for all.

    Every parameter is named under each key, with an empty piece where this rank has none of it.
    """
    states, scalars = engine.basic_optimizer.state, dict[str, Any]()
    keys = {key for flat, state in states.items() for key, _ in _of_shape(flat, state)}
    entries: dict[str, dict[str, Piece]] = {key: {} for key in sorted(keys)}
    for state in states.values():
        scalars |= {key: value for key, value in state.items() if key not in keys}
    for name, shard in parts.items():
        flat, position = shard.place(engine)
        for key, named in entries.items():
            part = flat.new_empty(0)
            if shard.length:
                part = states[flat][key].view(-1).narrow(0, position, shard.length)
            named[name] = shard.owned(part)
    return entries, scalars


def _load_optimizer(
    engine: DeepSpeedEngine, parts: Mapping[str, Shard], state: Mapping[str, Any]
) -> None:
    """Fill the optimiser's states in place, and make those that it does not have yet."""
    states = engine.basic_optimizer.state
    for name, shard in parts.items():
        if not shard.length:
            continue
        flat, position = shard.place(engine)
        own = states[flat]
        for key, pieces in state["optimizer"].items():
            if key not in own:
                own[key] = torch.zeros_like(flat)
            part = own[key].view(-1).narrow(0, position, shard.length)
            part.copy_(pieces[name].read(shard.start, shard.length))
        for key, value in state["optimizer_scalars"].items():
            own[key] = _placed(key, value, flat.device, state["groups"])


def _placed(
    key: str,
    value: Any,  # noqa: ANN401  a Tensor or a number
    device: torch.device,
    groups: Sequence[Mapping[str, Any]],
) -> Any:  # noqa: ANN401  the same
    """A state without an entry for each weight, where torch's `Optimizer.load_state_dict` has it.

    That is the parameter's device, but for `step`, which only fused and capturable optimisers have
    there. groups: settings of the optimiser's groups, as they are put back.
    """
    if not isinstance(value, Tensor):
        return value
    aside = key == "step" and not any(g.get("fused") or g.get("capturable") for g in groups)
    return value.to("cpu" if aside else device, copy=True)


def _scalers(engine: DeepSpeedEngine) -> list[Any]:
    """The objects that hold the scale of the loss in float16."""
    optimizer = engine.optimizer
    parts = (getattr(optimizer, name, None) for name in ("loss_scaler", "loss_scale_config"))
    return [holder for holder in (optimizer, *parts) if holder]


def _attributes(holder: Any) -> dict[str, Any]:  # noqa: ANN401  an optimiser or a scaler
    kinds = (bool, int, float)
    found = {name: getattr(holder, name, None) for name in SCALER}
    return {name: value for name, value in found.items() if isinstance(value, kinds)}


def _autocast_scaler(engine: DeepSpeedEngine) -> Any:  # noqa: ANN401  torch.amp.GradScaler or None
    return getattr(engine, "torch_autocast_z0_gradscaler", None)
