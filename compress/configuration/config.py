"""Configuration: JSON files merged left to right, then `--set`; checked and frozen.

`load(files, overrides)` returns a `Config`; every other module gets its blocks and never sees raw JSON.
Nothing that a user sets is ignored in silence: any mistake is a `UserError` that names the file (or
`--set`), the key and the nearest valid key. Precedence: docs/configuration.md.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from compress import mitigations
from compress.compression.pruners.layers import LayerReduction
from compress.compression.settings import CompressionTraining
from compress.configuration import batch_sizes, effects, field_types, whole_numbers
from compress.configuration.deepspeed_schema import DeepSpeedBlock, engine_keys
from compress.configuration.merge import Merge, at, further, override, read
from compress.configuration.robust_schema import RobustCompression, Root
from compress.errors import UserError, nearest
from compress.untyped import Json

EXAMPLES = {
    "train_batch_size": "give it, or train_micro_batch_size_per_gpu from which it then follows",
    "robust_compression": "give a task file such as ds_configs/tasks/mnli.json",
    "robust_compression.task": "give a task file such as ds_configs/tasks/mnli.json",
    "robust_compression.model": "name a directory or a hub id such as bert-base-uncased",
    "zero_optimization": "give a file such as ds_configs/zero2.json",
    "optimizer": "give a file such as ds_configs/zero2.json",
}
"""Keys that must be given -> where a user finds them."""
NOT_TAKEN = ("weight_quantization", "activation_quantization", "channel_pruning")
"""Blocks of `compression_training` that DeepSpeed's library has and this program has not."""
METHODS = {
    "row_pruning": "DeepSpeed's rows by l1 are not offered; importance needs no learned scores either",
    "sparse_pruning": "DeepSpeed's snip_momentum is not offered",
}
"""Block of `compression_training` -> what is said of a wrong method beside the right ones."""


@dataclass(frozen=True)
class Config:
    """A checked configuration: the blocks, the merged JSON, and the sources of each key."""

    root: Root
    merged: Mapping[str, Any]
    sources: Mapping[tuple[str, ...], list[str]]

    @property
    def robust(self) -> RobustCompression:
        """The block `robust_compression`."""
        return self.root.robust_compression

    @property
    def deepspeed(self) -> DeepSpeedBlock:
        """DeepSpeed's keys."""
        return self.root

    @property
    def compression(self) -> CompressionTraining:
        """The `compression_training` block, empty without one."""
        return self.deepspeed.compression_training or CompressionTraining()

    @property
    def compresses(self) -> bool:
        """Whether the student becomes smaller or sparser than the run's model."""
        return self.robust.student.model is not None or self.compression.removes

    @property
    def compression_label(self) -> str:
        """Name of the compressed model in tables, such as `imp40` or `distilbert+imp40`."""
        name, model = self.compression.name, self.robust.student.model
        if model is None:
            return name
        return Path(model).name + ("" if name == "none" else f"+{name}")

    @property
    def mitigation_label(self) -> str:
        """Name of the loss in tables: hook, difficulty or bias, layer-wise terms, teacher's loss."""
        robust = self.robust
        own, terms = robust.loss.label, "layerwise" if robust.layerwise.any else ""
        others = f"teacher with {loss}" if (loss := robust.teacher_loss) else ""
        return ", ".join(filter(None, ("+".join(filter(None, (own, terms))), others))) or "none"

    def with_alpha(self, alpha: float) -> "Config":
        """The same with a value in place of alpha "auto"."""
        block = self.robust.uncertainty.model_copy(update={"alpha": alpha})
        robust = self.robust.model_copy(update={"uncertainty": block})
        return replace(self, root=self.root.model_copy(update={"robust_compression": robust}))

    def with_plain_loss(self) -> "Config":
        """The same with the cross-entropy alone as the student's loss, and as the teacher's."""
        values = deepcopy(dict(self.merged))
        ours = values["robust_compression"]
        ours |= {"loss": {"hook": "vanilla"}}
        ours.pop("layerwise", None)
        (ours.get("teacher") or {}).pop("loss", None)
        return build(values, self.sources)

    def dump(self) -> dict[str, Any]:
        """Every value by its key, defaults too."""
        return self.root.model_dump(mode="json", by_alias=True)

    @property
    def engine(self) -> dict[str, Any]:
        """The dictionary for `deepspeed.initialize`."""
        return engine_keys(dict(self.merged))


def load(
    files: Iterable[str | Path], overrides: Iterable[str] = (), world_size: int | None = None
) -> Config:
    """Merge the JSON `files` and the `overrides` ("a.b.c=value"), check, freeze.

    world_size: ranks of the run, from which train_batch_size follows if it is not given; None if they
    are not known. Raises UserError for an unreadable file, an unknown key, a wrong type, a value out of
    range, or a setting that cannot take effect.
    """
    merge = Merge()
    for file in files:
        merge.add(read(Path(file)), str(file))
    for text in overrides:
        merge.add(override(text), f"--set {text}")
    _check_removed(merge)
    _leave_out_disabled(merge.values)
    merge.values = whole_numbers.settle(merge.values, Root)
    batch_sizes.complete(merge.values, merge.sources, world_size)
    try:
        root = Root.model_validate(merge.values)
    except ValidationError as error:
        raise UserError(_sentence(error, merge)) from None
    effects.check(root, merge)
    return Config(root, merge.values, merge.sources)


def _leave_out_disabled(values: dict[str, Any]) -> None:
    """Take out the disabled blocks of `compression_training`: they ask for nothing.

    DeepSpeed's example files hold a disabled block of every kind, such as this program does not take.
    """
    blocks = values.get("compression_training")
    if not isinstance(blocks, dict):
        return
    for name in [*NOT_TAKEN, *CompressionTraining.model_fields]:
        switch = ["enabled"] if name == LayerReduction.key else ["shared_parameters", "enabled"]
        if at(blocks, [name, *switch]) is False:
            del blocks[name]
    if not blocks:
        del values["compression_training"]


def build(values: Mapping[str, Any], sources: Mapping[tuple[str, ...], list[str]]) -> Config:
    """The configuration of merged values that were checked before; sources: of its keys."""
    return Config(Root.model_validate(values), values, sources)


def _keys_at(path: Sequence[str], values: Json) -> list[str]:
    """The keys of the block at a key path; of blocks that differ by `type`, the one of the values."""
    blocks: list[type[BaseModel]] = [Root]
    for key in path:
        values = values.get(key) if isinstance(values, dict) else {}
        fields = [block.model_fields[key] for block in blocks if key in block.model_fields]
        if fields:
            found = [t for info in fields for t in _types(info.annotation)]
            blocks = [t for t in found if issubclass(t, BaseModel)]
        kind = values.get("type") if isinstance(values, dict) else None
        typed = [block for block in blocks if "type" in block.model_fields]
        named = [b for b in typed if kind in get_args(b.model_fields["type"].annotation)]
        blocks = named or blocks
    return [info.alias or name for block in blocks for name, info in block.model_fields.items()]


def _types(annotation: object) -> list[type]:
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation]
    return [t for argument in get_args(annotation) for t in _types(argument)]


def _sentence(error: ValidationError, merge: Merge) -> str:
    """The first violation as one sentence: source, key, what is wrong, what would be right."""
    problems = error.errors()
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    below = problem.get("ctx", {}).get("below", "")  # the key that chooses one of several blocks
    path = _user_path([str(part) for part in problem["loc"]], merge, problem["type"])
    path += below.split(".") if below else []
    key, source = ".".join(path), merge.source(path)
    unknown = [p for p in problems if p["type"] == problem["type"] == "extra_forbidden"]
    others = [_user_path([str(part) for part in p["loc"]], merge, p["type"]) for p in unknown]
    names = [".".join(other) for other in others if other != path]
    if "loss" in path[1:3]:
        block = path[: path.index("loss") + 1]
        wrong, why = _of_loss(at(merge.values, block), path, block)
        if why is not None:
            if wrong != key:  # its hook, which says what the keys beside it mean
                names = [name for name in names if not name.startswith(wrong.removesuffix("hook"))]
            return f"{merge.error(wrong, why)}{further('Without effect too', names)}"
    if problem["type"] == "extra_forbidden":
        return _unknown(path, source, merge) + further("Without effect too", names)
    if problem["type"] == "missing":
        return "; ".join(filter(None, (merge.lacking(path), EXAMPLES.get(key)))) + "."
    value = json.dumps(at(merge.values, path) if below else problem["input"], default=str)
    reason = problem["msg"][0].lower() + problem["msg"][1:]
    hint = METHODS.get(path[1]) if path[0] == "compression_training" and path[-1] == "method" else ""
    return f"{source}: '{key}' is {value}, but: {reason}{hint and f' ({hint})'}."


def _of_loss(values: Json, path: Sequence[str], block: Sequence[str]) -> tuple[str, str | None]:
    """(dotted key at fault, what is wrong with it) of a block `loss` that was refused at a path.

    None where the sentence of any other key does.
    """
    if not isinstance(values, Mapping):
        given, right = json.dumps(values), json.dumps({"hook": "poe"})
        return ".".join(block), f"is {given}, but it must be an object such as {right}"
    wrong, why = mitigations.mistake(values, path[-1], "teacher" in block)
    return ".".join([*block, wrong]), why


def _unknown(path: Sequence[str], source: str, merge: Merge) -> str:
    """The sentence for a key that is no field here, with the nearest that is one."""
    key, known = ".".join(path), set(_keys_at(path[:-1], merge.values))
    if key in [f"compression_training.{name}" for name in NOT_TAKEN]:
        why = "this program does neither quantisation nor channel pruning of DeepSpeed's library"
        why += "; remove the block or disable it"
        return f"{source}: '{key}' is not a key that takes effect: {why}."
    if path[-1] in known:  # of another block under the same key
        method = at(merge.values, [*path[:-1], "method"])
        return f"{source}: '{key}' has no effect with method {json.dumps(method)}; remove it."
    names = nearest(path[-1], known)
    if len(path) == 1 and path[0] in RobustCompression.model_fields:
        names = f"; did you mean 'robust_compression.{path[0]}'?"
    return f"{source}: '{key}' is not a key that takes effect{names}"


def _check_removed(merge: Merge) -> None:
    """Raise UserError for a key that is no field, was given no value and was set to null."""
    for path, source in merge.removed.items():
        found: list[Any] = [Root]
        for end, key in enumerate(path, 1):
            found = field_types.below(found, key)
            if not found:
                raise UserError(_unknown(path[:end], source, merge))


def _user_path(path: Sequence[str], merge: Merge, kind: str) -> list[str]:
    """The path as the user wrote it, without the parts that pydantic adds for unions."""
    node: Any = merge.values
    kept: list[str] = []
    for position, part in enumerate(path):
        missing = position == len(path) - 1 and kind == "missing"
        if isinstance(node, dict) and (part in node or missing):
            kept.append(part)
            node = node.get(part)
        elif isinstance(node, list) and part.isdigit():
            kept.append(part)
            node = None
    return kept


def training_steps(config: Config, samples: int, epochs: int) -> int:
    """Optimiser steps of a training: the last batch of an epoch may be short."""
    return epochs * -(-samples // config.deepspeed.train_batch_size)


def batch_split(config: Config, world_size: int) -> tuple[int, int]:
    """(micro batch per rank, accumulation steps) for this number of ranks.

    Raises UserError unless train_batch_size = micro * accumulation * world_size has a solution.
    """
    return batch_sizes.split(config.deepspeed, world_size)
