"""All state of a training between two optimiser steps, and its way back into a trainer.

What is divided among the ranks is written in pieces (`engine_state`, the masks), so that another number
of ranks or another ZeRO stage can go on. Random states and sums since the last report are each rank's
own: other ranks draw other dropout, and add up what all the earlier ones had.
"""

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from deepspeed.accelerator import get_accelerator

from compress.checkpoints.pieces import Saved
from compress.errors import UserError
from compress.runtime import ranks
from compress.training import engine_state

if TYPE_CHECKING:
    from compress.training.trainer import Trainer


def state_dict(trainer: "Trainer", pending: bool) -> dict[str, Any]:
    """The state of this rank; pending: the measurement after this step's epoch is still to be made."""
    return {
        "step": trainer.step,
        "total_steps": trainer.total_steps,
        "pending": pending,
        "engine": engine_state.state_dict(trainer.engine),
        "methods": {method.name: method.state_dict() for method in trainer.training.methods},
        "rng": _random_states(),
        "best": dict(trainer.best),
        "after_epoch": trainer.after_epoch.state_dict() if trainer.after_epoch else {},
        "window": trainer.window.state_dict(),
        "events": trainer.training.monitor.position(trainer.name) if ranks.is_main() else {},
    }


def load(trainer: "Trainer", saved: Saved) -> bool:
    """Go on where a state was taken; whether its measurement is still to be made."""
    state = saved.state()
    same = saved.world == ranks.world_size()
    same = same and state["rng"]["kind"] == get_accelerator().device_name()
    if state["total_steps"] != trainer.total_steps:
        raise UserError(
            f"{saved.folder}: is of a training of {state['total_steps']} steps, not of "
            f"{trainer.total_steps}; delete it."
        )
    main = next(saved.of_all("engine"))
    engine_state.load(trainer.engine, state["engine"], main["buffers"])
    for method in trainer.training.methods:
        method.load_state_dict(state["methods"][method.name])
    trainer.step, trainer.best = state["step"], dict(state["best"])
    if trainer.after_epoch:
        trainer.after_epoch.load_state_dict(state["after_epoch"])
    if same:
        trainer.window.load_state_dict([state["window"]], trainer.device)
        _set_random_states(state["rng"])
    else:
        windows = saved.of_all("window") if ranks.is_main() else [_emptied(state["window"])]
        trainer.window.load_state_dict(windows, trainer.device)
        torch.manual_seed(trainer.seed + 1 + ranks.rank() + (trainer.step << 16))
    if ranks.is_main():
        trainer.training.monitor.resume(trainer.name, state["events"])
    return bool(state["pending"])


def _emptied(window: Mapping[str, Any]) -> dict[str, Any]:
    """A window of the same names without anything in it."""
    sums = {name: torch.zeros_like(value) for name, value in window["sums"].items()}
    return {**window, "sums": sums}


def _random_states() -> dict[str, Any]:
    kind, keys, position, has_gauss, cached = cast(tuple[Any, ...], np.random.get_state(legacy=True))
    return {
        "python": random.getstate(),
        "numpy": [kind, keys.astype(np.int64), position, has_gauss, cached],
        "cpu": torch.get_rng_state(),
        "kind": get_accelerator().device_name(),
        "device": get_accelerator().get_rng_state(),
    }


def _set_random_states(states: Mapping[str, Any]) -> None:
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["cpu"])
    get_accelerator().set_rng_state(states["device"])
