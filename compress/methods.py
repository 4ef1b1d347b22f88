"""The interface of what a student's training is made of.

A mitigation, a pruner and a layer-wise term are each a `Method`: one file with its settings, needs,
checks, arithmetic and state. `training/trainer.py` drives a list of them in a written order. Torch is
not imported, because settings blocks derive from `Method` and mistakes in them are reported without it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compress.errors import UserError
from compress.untyped import Engine

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from compress.configuration.config import Config
    from compress.data.splits import TaskData
    from compress.microbatch import Batch


NEEDS = ("teacher", "difficulty", "mistakes", "bias", "batch_mean")
"""What a method may need: see `Method`."""


@dataclass(frozen=True)
class Shapes:
    """What is known of the student before anything is trained.

    start: directory of the model it starts from; shape: its configuration, and model: the model without
    weights (meta device), both after layer reduction.
    """

    config: Config
    start: Path
    shape: PreTrainedConfig
    model: PreTrainedModel
    data: TaskData


@dataclass(frozen=True)
class Run:
    """What a method gets before the engine is built.

    teacher: directory of the teacher's model; states: of its hidden states of train, if they are kept.
    """

    config: Config
    teacher: Path
    labels: tuple[str, ...]
    device: torch.device
    states: Path | None = None


class Method:
    """A part of a training; every hook has a default that does nothing.

    name: unique among the methods of a training; needs: of "teacher" (probabilities), "difficulty",
    "mistakes" (of a first model) and "bias" (probabilities of a bias model), which the student stage
    provides, and "batch_mean" (`batch_weight`).
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Arguments of the student's forward call, beside its inputs."""
        return {}

    @property
    def user_code(self) -> str | None:
        """Name of the user's code that takes part, for messages."""
        return None

    def uses(self, what: str) -> bool:
        """Whether it uses one of `needs`; a user's function may use less."""
        return what in self.needs

    def inputs(self) -> dict[str, Any]:
        """What its result depends on; enters the student's key."""
        return {}

    def check(self, shapes: Shapes) -> None:
        """Raise UserError before anything is trained for what the training would reject."""

    def attach(self, model: PreTrainedModel, run: Run) -> None:
        """Prepare the model in place, before the engine is built."""

    def attached(self, model: PreTrainedModel, run: Run) -> None:
        """`attach`; UserError if it reads weights that are not there yet."""
        try:
            self.attach(model, run)
        except (NotImplementedError, RuntimeError) as error:
            later = any(parameter.is_meta for parameter in model.parameters())
            if not later or "meta" not in str(error):
                raise
            why = (
                "needs weights, which at zero_optimization.stage 3 are read later; use 'bind' for that"
            )
            raise self.wrong("attach", why) from error

    def engine_block(self) -> dict[str, Any]:
        """Entries of the engine's configuration."""
        return {}

    def bind(self, engine: Engine) -> None:
        """Called once, after the engine is built."""

    def scores(self) -> Sequence[nn.Parameter]:
        """Parameters that it adds to the model and that are trained at `score_lr`."""
        return ()

    def token_values(self) -> Mapping[str, NDArray[np.float32]]:
        """Values of every token of train, [T, ...] by name, in the order of its columns.

        `loss` finds those of a micro-batch in `batch.tokens`, [B, L, ...], 0 on padding. Asked for
        after `attach`; a thread reads them ahead of the steps, so that they may be a mapped file.
        """
        return {}

    def before_step(self) -> None:
        """Called on all ranks between the last backward pass of an optimiser step and the step."""

    def batch_weight(self, batch: Batch) -> Tensor:
        """Weight of each sample, [B], whose mean over the whole batch of all ranks `loss` needs.

        Called if "batch_mean" is among `needs`; `loss` then finds the mean in `batch.batch_mean`.
        """
        raise NotImplementedError

    def loss(self, batch: Batch) -> Tensor | None:
        """Loss of each sample of this micro-batch, float32 [B], or None for a method without one."""
        return None

    def after_step(self, step: int) -> None:
        """Called on all ranks when `step` optimiser steps are done, and before the first one."""

    def scalars(self) -> dict[str, float]:
        """Values that are logged beside the loss."""
        return {}

    def close(self) -> None:
        """Release what it holds; called once, when the training is over."""

    def finish(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Change the gathered plain weights to those of the trained student."""
        return weights

    def wrong(self, hook: str, why: str) -> UserError:
        """The error of a hook that does not do what this class says; it names the method's file."""
        return UserError(f"{inspect.getfile(type(self))}: '{hook}' of {type(self).__name__} {why}.")

    def state_dict(self) -> dict[str, Any]:
        """All state, for `load_state_dict`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict()` was taken."""
