"""What the blocks of `compression_training` share: keys, schedules, labels, the matching of layers.

`resolve` turns a block into a pruner for a model's layers. DeepSpeed silently accepts a keyword that
matches nothing, two groups that share a layer and a wrong number of heads; they are errors in
`resolve`, before training, on shapes alone. Torch is imported inside functions, so that a mistake in a
configuration is reported without loading it.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from compress.configuration.blocks import Block, Natural
from compress.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from compress.compression.pruner import Pruner
    from compress.configuration.robust_schema import RobustCompression


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression ({error})") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]
Patterns = Annotated[list[Pattern], Field(min_length=1)]
Ratio = Annotated[float, Field(gt=0, le=1)]


class Technique(Block):
    """A block of `compression_training`.

    key: its name there; order: its place within a training, lowest first; method: the value of
    shared_parameters.method that chooses it, if its key has several blocks.
    """

    key: ClassVar[str]
    order: ClassVar[int]
    method: ClassVar[str] = ""

    @property
    @abstractmethod
    def active(self) -> bool:
        """Whether it is enabled."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Its part of the compression's name, such as `imp40`."""

    @property
    def removes(self) -> bool:
        """Whether it asks for less than the whole model."""
        return True

    @property
    def chooses(self) -> str:
        """How it chooses what goes: "importance" and "learned" (scores by gradient) cost steps."""
        return ""

    @property
    def learned(self) -> bool:
        """Whether it learns scores by gradient."""
        return self.chooses == "learned"

    def takes(self, robust: RobustCompression) -> set[str]:
        """The keys of `robust_compression` that have an effect on it, dotted."""
        return set()


class Schedule(Block):
    """When a technique works; without steps the fractions in `robust_compression` hold."""

    enabled: bool
    """Whether the technique is used at all."""
    schedule_offset: Natural | None = None
    """Optimiser step of the student's training at which removing begins. Default: the fraction
    robust_compression.pruning.begin (weights) or structured.begin (heads, ffn neurons)."""
    schedule_offset_end: Natural | None = None
    """Optimiser step at which everything is removed; an addition to DeepSpeed's schema. Equal to
    schedule_offset: all at once, as DeepSpeed's library does. Default: the fraction
    robust_compression.pruning.end (weights) or structured.end (heads, ffn neurons) of the training;
    with method importance in one round schedule_offset, if that is given."""


class Share(Block):
    """How much of a group stays."""

    dense_ratio: Ratio
    """Share of the weights or ffn neurons that stays."""


class Group(Block):
    """Layers that are pruned together."""

    params: Any
    """How much stays."""
    modules: Patterns | None = None
    """Regular expressions for the names of the linear layers of the group. Default: all layers of the
    Transformer blocks that the technique prunes; in DeepSpeed's own schema it must be given."""


class PruningTechnique(Technique):
    """A block that prunes groups of layers.

    fractions: the block of `robust_compression` that has the schedule where no steps are given; word:
    what stands before the amount in `label`.
    """

    fractions: ClassVar[str]
    word: ClassVar[str]

    shared_parameters: Schedule
    """What holds for all groups."""
    different_groups: Mapping[str, Group]
    """Groups of layers, each under a name of your choice."""

    @property
    def active(self) -> bool:
        """Whether it is enabled."""
        return self.shared_parameters.enabled

    @property
    def dense(self) -> list[float]:
        """The shares that stay, of the groups that give one."""
        given = (group.params.dense_ratio for group in self.different_groups.values())
        return [ratio for ratio in given if ratio is not None]

    @property
    def removes(self) -> bool:
        """Whether any group keeps less than the whole."""
        return any(ratio < 1 for ratio in self.dense)

    @property
    def percent(self) -> str:
        """Percent that goes, each once: `40`, or `20-60` for groups that differ."""
        return "-".join(f"{level:g}" for level in sorted({round(100 * (1 - r), 2) for r in self.dense}))

    @property
    def amount(self) -> str:
        """What goes, in `label`."""
        return self.percent

    @property
    def label(self) -> str:
        """Such as `imp40`, `movement40`, `rows50` or `heads20_learned`."""
        return self.word + self.amount

    def path(self, group: str) -> str:
        """The dotted key of a group."""
        return f"compression_training.{self.key}.different_groups.{group}"

    def steps(self, total: int, begin: float, end: float, at_once: bool = False) -> tuple[int, int]:
        """First and last step of the schedule in a training of `total` steps.

        begin, end: fractions that hold where no step is given; at_once: the offset, if it alone is
        given, is both. Raises UserError if the schedule ends after the training.
        """
        first, last = self.shared_parameters.schedule_offset, self.shared_parameters.schedule_offset_end
        last = first if at_once and last is None else last
        first = round(begin * total) if first is None else first
        last = round(end * total) if last is None else last
        if not first <= last <= total:
            raise UserError(
                f"compression_training.{self.key}: the schedule goes from step {first} to {last}, "
                f"but the student trains {total} steps; {self._advice(first, last, total, at_once)}."
            )
        return first, last

    def _advice(self, first: int, last: int, total: int, at_once: bool) -> str:
        begin, end = self.begin_key, self.end_key(at_once)
        if last > total or first > total:
            return f"lower {end if last > total else begin}"
        if not end.endswith("schedule_offset_end"):
            end = f"{end}, or give schedule_offset_end beside schedule_offset"
        return f"lower {begin}, or raise {end}"

    @property
    def begin_key(self) -> str:
        """The key that says when the schedule begins."""
        return self._step_key("schedule_offset") or f"robust_compression.{self.fractions}.begin"

    def end_key(self, at_once: bool = False) -> str:
        """The key that says when the schedule ends; see `steps`."""
        given = self._step_key("schedule_offset_end")
        given = given or (self._step_key("schedule_offset") if at_once else None)
        return given or f"robust_compression.{self.fractions}.end"

    def _step_key(self, key: str) -> str | None:
        """A key of the schedule in steps, if it is given."""
        given = getattr(self.shared_parameters, key) is not None
        return f"compression_training.{self.key}.shared_parameters.{key}" if given else None

    def at_once(self, robust: RobustCompression) -> bool:
        """Whether everything goes at the end of the schedule."""
        return False

    def matched(self, model: PreTrainedModel) -> dict[str, list[str]]:
        """Names of the layers of each group; see `match`."""
        groups = self.different_groups.items()
        usual = []
        if any(group.modules is None for _, group in groups):
            usual = [exactly(name) for name in self.usual(model)]
        return match(model, {name: group.modules or usual for name, group in groups}, self.key)

    def usual(self, model: PreTrainedModel) -> list[str]:
        """The layers that the technique prunes where no `modules` are given; UserError for none."""
        from compress.models.blocks import linear_layers

        return linear_layers(model)

    @abstractmethod
    def resolve(self, model: PreTrainedModel, robust: RobustCompression, total: int) -> Pruner:
        """The pruner for this model in a training of `total` optimiser steps; only shapes count.

        Raises UserError for a keyword without a layer, groups that share one, a layer of the wrong
        kind, a number that leaves nothing or removes nothing, a schedule that does not fit.
        """


def match(
    model: nn.Module, modules: Mapping[str, Sequence[str]], technique: str, key: str = "modules"
) -> dict[str, list[str]]:
    """Names of the linear layers of each group, in the model's order.

    modules: keywords (regular expressions) by group, given as `key`. Raises UserError for a keyword
    without a layer, or two groups that share one.
    """
    from torch import nn

    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    names: dict[str, list[str]] = {}
    for group, keywords in modules.items():
        path = f"compression_training.{technique}.different_groups.{group}"
        for keyword in keywords:
            if not any(re.search(keyword, name) for name in linear):
                raise UserError(
                    f"{path}.{key}: '{keyword}' matches no linear layer of the model; "
                    f"its layers have names such as '{linear[0]}'."
                )
        found = [name for name in linear if any(re.search(keyword, name) for keyword in keywords)]
        for layer in found:
            if other := next((name for name, others in names.items() if layer in others), None):
                raise UserError(f"{path}: another group has the layer '{layer}' too, '{other}'.")
        names[group] = found
    return names


def exactly(name: str) -> str:
    """Regular expression for one module."""
    return f"^{re.escape(name)}$"


def something(path: str, ratio: float | None, keep: int, full: int, what: str) -> None:
    """UserError for a ratio below 1 that rounds to everything."""
    if keep == full and (ratio or 0) < 1:
        key = "target_heads" if ratio is None else "dense_ratio"
        raise UserError(f"{path}.{key}: removes nothing, all {full} {what} stay.")
