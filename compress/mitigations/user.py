"""A loss of the user's own, `module:function`.

The function is called by position with `(logits [B, C], labels [B], teacher [B, C], difficulty [B] or
None, weights)`, the scalars being attributes of `weights`, or, if it takes one parameter, with the
`Batch` (`compress/microbatch.py`), whose `settings` are this block. It returns one loss per sample [B].
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from importlib.machinery import PathFinder
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from compress.errors import UserError
from compress.mitigations import _function, _sources
from compress.mitigations._shared import (
    UNWEIGHTED,
    Array,
    Floor,
    FromBias,
    FromDifficulty,
    Gamma,
    Lambda,
    Smoothing,
    Weighting,
)

if TYPE_CHECKING:
    from torch import Tensor

    from compress.microbatch import Batch

PARAMETERS = ("logits", "labels", "teacher", "difficulty", "weights")
"""How a function with more than one parameter is called."""


class UserLoss(FromDifficulty, FromBias, Lambda, Smoothing, Gamma, Floor, Weighting):
    """A function of your own, `package.module:function`; see docs/mitigations.md."""

    needs = frozenset({"teacher", "difficulty"})

    @property
    def user_code(self) -> str:
        """The path of the function."""
        return self.hook

    @property
    def label(self) -> str:
        """With the bias model, if one is given."""
        return super().label + (f"+{self.bias}" if "bias" in self.model_fields_set else "")

    @cached_property
    def function(self) -> Callable[..., object]:
        """The imported function; UserError if it cannot be used."""
        return _function.load(self.hook, PARAMETERS)

    @cached_property
    def takes_batch(self) -> bool:
        """Whether the function is called with the `Batch`."""
        return not _function.can_take(self.function, PARAMETERS)

    def uses(self, what: str) -> bool:
        """Whether the function gets it: no difficulty if it calls that parameter `_...`.

        A function of the `Batch` has no such parameter; it may have an attribute `needs` instead, a
        set of "teacher", "difficulty" and "bias" (which no other function gets).
        """
        if what == "bias":
            return self.takes_batch and what in getattr(self.function, "needs", ())
        if what == "difficulty":
            names = [*inspect.signature(self.function).parameters, *PARAMETERS]
            ignored = not self.takes_batch and names[PARAMETERS.index(what)].startswith("_")
            return not ignored and what in getattr(self.function, "needs", self.needs)
        return super().uses(what)

    def files(self) -> list[Path]:
        """The files of the function and its module, and of what they import of the user's own."""
        left_out = (str(_function.PACKAGE.resolve()), *_function.LIBRARIES)
        return _sources.of(self.hook, self.function, left_out)

    def locate(self) -> None:
        """Raise UserError if its module is neither in the current folder nor installed."""
        top = self.hook.partition(":")[0].partition(".")[0]
        if top not in sys.modules and PathFinder.find_spec(top, [str(Path.cwd()), *sys.path]) is None:
            raise UserError(
                f"robust_compression.loss.hook: '{self.hook}' cannot be imported (there is no module "
                f"'{top}' in the current folder or among the installed packages)."
            )

    def load(self) -> None:
        """Import the function."""
        needs = getattr(self.function, "needs", self.needs)
        known = self.needs | {"bias"}
        if not isinstance(needs, set | frozenset) or not needs <= known:
            allowed = " and ".join(f"'{name}'" for name in sorted(known))
            raise _function.refusal(self.hook, f"has needs {needs!r}; it is a set of {allowed}")
        for key, what in {"bias": "bias", "calibrate": "bias", "difficulty": "difficulty"}.items():
            if key in self.model_fields_set and not self.uses(what):
                why = f"has no '{what}' among its needs"
                if what == "difficulty" and not self.takes_batch:
                    why = "does without the difficulty"
                raise UserError(
                    f"robust_compression.loss.{key}: has no effect: the function '{self.hook}' {why}."
                )

    def scale(self, difficulty: Array) -> tuple[float, float]:
        """As of other losses that weight; difficulties of 0 alone are no error: it may not use them."""
        return super().scale(difficulty) if difficulty.any() else UNWEIGHTED

    def refusal(self, why: str) -> UserError:
        """The error of the function; it names the line at which that begins."""
        where = f"({_function.place(self.function)}, tried on a random batch)"
        return _function.refusal(self.hook, f"{why} {where}")

    def loss(self, batch: Batch) -> Tensor:
        """What the function returns, [B].

        Raises UserError if it fails (except for memory), or returns no loss of each sample.
        """
        arguments: tuple[Any, ...] = (replace(batch, settings=self),)
        if not self.takes_batch:
            given = (batch.logits, batch.labels, batch.teacher, batch.difficulty)
            arguments = (*given, self._weights(batch))
        returned = _function.call(self.hook, self.function, *arguments)
        return _function.checked(self.hook, self.function, returned, batch.labels)

    def _weights(self, batch: Batch) -> SimpleNamespace:
        """The scalars of a function with five parameters, as attributes."""
        return SimpleNamespace(
            distillation=self.lambda_,
            mean_difficulty=batch.mean_difficulty,
            ceiling=batch.ceiling,
            alpha=batch.alpha,
            smoothing=self.smoothing,
            gamma=self.gamma,
            floor=self.floor,
            warmup=self.warmup,
            progress=batch.progress,
            onset=batch.onset(self.warmup),
            batch_mean=None,
        )
