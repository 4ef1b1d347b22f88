"""What a student loses, and when: `compression_training` resolved against a model's layers.

What: `resolve` finds the layers of every keyword, turns ratios into numbers of heads and rows, and
fractions into steps. Why: DeepSpeed takes a keyword that matches nothing, two groups that share a layer
and a wrong number of heads in silence; all of it is found here, before training, on shapes alone.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from compress.compression.pruning import Ramp, rounded_width
from compress.configuration.compression_schema import (
    HeadGroup,
    HeadPruning,
    RowGroup,
    RowPruning,
    Schedule,
)
from compress.configuration.config import Config, training_steps
from compress.errors import UserError
from compress.models import architectures
from compress.models.architectures import Block

AT_ONCE = Ramp(0.0, 1.0, 0, 0)


@dataclass(frozen=True)
class Sparse:
    """Layers whose single weights are pruned together, and their ramps in order."""

    layers: tuple[str, ...]
    ramps: tuple[Ramp, ...]

    def ramp(self, step: int) -> Ramp:
        """The ramp that a step belongs to: the first that has not ended before it."""
        return next((ramp for ramp in self.ramps if step <= ramp.end), self.ramps[-1])


@dataclass(frozen=True)
class Heads:
    """Heads ranked together: block numbers, how many stay over all of them, or which go.

    keep: of each block if the scores are learned. pruned: the same heads of every block.
    """

    blocks: tuple[int, ...]
    keep: int
    pruned: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Rows:
    """Blocks whose feed-forward layers keep `keep` rows each."""

    blocks: tuple[int, ...]
    keep: int


@dataclass(frozen=True)
class Plan:
    """Everything that `compress.compression.masks.Masks` does to a model.

    head_ramp, row_ramp: how much of the removal is done, from 0 to 1; learned_*: scores by gradient.
    """

    sparse: Mapping[str, Sparse] = field(default_factory=dict)
    heads: Mapping[str, Heads] = field(default_factory=dict)
    rows: Mapping[str, Rows] = field(default_factory=dict)
    head_ramp: Ramp = AT_ONCE
    row_ramp: Ramp = AT_ONCE
    learned_sparse: bool = False
    learned_heads: bool = False
    learned_rows: bool = False

    @property
    def structured(self) -> bool:
        """Whether heads or rows go."""
        return bool(self.heads or self.rows)


def resolve(config: Config, model: PreTrainedModel, samples: int) -> Plan:
    """The plan of the student's training on `samples` samples; shapes are all that counts.

    Raises UserError for a keyword without a layer, groups that share one, a layer of the wrong kind,
    a wrong number of heads, a ratio that leaves nothing, a schedule that does not fit.
    """
    compression = config.compression
    heads, rows = compression.heads, compression.rows
    blocks = architectures.blocks(model) if heads or rows else []
    plan = Plan(
        sparse=_sparse(config, model, samples),
        heads=_heads(heads, model, blocks) if heads else {},
        rows=_rows(rows, model, blocks, config.robust.structured.multiple_of) if rows else {},
        head_ramp=_ramp(config, heads.shared_parameters, "head_pruning", samples) if heads else AT_ONCE,
        row_ramp=_ramp(config, rows.shared_parameters, "row_pruning", samples) if rows else AT_ONCE,
        learned_sparse=compression.learned(compression.sparse),
        learned_heads=compression.learned(heads) and not compression.listed_heads,
        learned_rows=compression.learned(rows),
    )
    _combined(plan)
    return plan


def _combined(plan: Plan) -> None:
    """Sparsity is counted on what heads and rows leave, so it must be completed last."""
    if plan.learned_sparse and plan.structured:
        raise UserError(
            "compression_training.sparse_pruning: method 'topk' cannot keep its sparsity while heads "
            "or rows go; use method 'l1', or prune heads and rows in a run of their own."
        )
    last = max((ramp.end for group in plan.sparse.values() for ramp in group.ramps), default=None)
    for ramp, groups in ((plan.head_ramp, plan.heads), (plan.row_ramp, plan.rows)):
        if groups and last is not None and last < ramp.end:
            raise UserError(
                f"compression_training: sparse_pruning ends at step {last}, before heads and rows "
                f"are gone at step {ramp.end}; raise robust_compression.pruning.end or lower "
                "robust_compression.structured.end."
            )


def layers(config: Config, model: PreTrainedConfig) -> tuple[int, ...] | None:
    """The blocks that layer reduction keeps, in the student's order; None without one.

    Raises UserError for a block that the model does not have, or names that are not its own.
    """
    block, path = config.compression.layers, "compression_training.layer_reduction"
    if block is None:
        return None
    architecture = architectures.find(model)
    depth = getattr(model, architecture.depth)
    named = {"first_half": range((depth + 1) // 2), "every_second": range(1, depth, 2)}
    chosen = block.teacher_layer
    kept = tuple(named[chosen] if isinstance(chosen, str) else chosen)
    if too_high := [number for number in kept if number >= depth]:
        raise UserError(
            f"{path}.teacher_layer: there is no layer {too_high[0]}; the model has {depth}, from 0."
        )
    if len(set(kept)) < len(kept) or not kept:
        raise UserError(f"{path}.teacher_layer: must list at least one layer, and each once.")
    if kept == tuple(range(depth)):
        raise UserError(f"{path}.teacher_layer: removes nothing, all {depth} layers stay.")
    if block.keep_number_layer is not None and block.keep_number_layer != len(kept):
        raise UserError(
            f"{path}.keep_number_layer is {block.keep_number_layer}, "
            f"but teacher_layer lists {len(kept)} layers."
        )
    if block.module_name_prefix not in (None, architecture.blocks):
        raise UserError(
            f"{path}.module_name_prefix is '{block.module_name_prefix}', "
            f"but the layers of this model are in '{architecture.blocks}'."
        )
    return kept


def check_outside(model: PreTrainedModel, name: str) -> None:
    """Raise UserError unless a module to copy is there and lies outside the Transformer blocks.

    The library copies parameters by position: a module that holds the blocks would undo the choice.
    """
    path = "compression_training.layer_reduction.other_module_name"
    prefix = architectures.find(model.config).blocks
    if name not in dict(model.named_modules()):
        raise UserError(f"{path}: there is no module '{name}'.")
    if f"{prefix}.".startswith(f"{name}.") or name.startswith(f"{prefix}."):
        raise UserError(f"{path}: '{name}' holds layers; name modules outside '{prefix}'.")


def student_steps(config: Config, samples: int) -> int:
    """Optimiser steps of the student's training."""
    return training_steps(config, samples, config.robust.student.epochs or config.robust.epochs)


def _steps(
    config: Config, shared: Schedule, key: str, samples: int, fractions: tuple[float, float]
) -> tuple[int, int]:
    """First and last step of a schedule; UserError if it ends after the training."""
    total = student_steps(config, samples)
    begin, end = (round(fraction * total) for fraction in fractions)
    begin = begin if shared.schedule_offset is None else shared.schedule_offset
    end = end if shared.schedule_offset_end is None else shared.schedule_offset_end
    if not begin <= end <= total:
        raise UserError(
            f"compression_training.{key}: the schedule goes from step {begin} to {end}, "
            f"but the student trains {total} steps; the offsets must rise and end before that."
        )
    return begin, end


def _ramp(config: Config, shared: Schedule, key: str, samples: int) -> Ramp:
    """Progress of heads or rows: stepwise by importance, along a cubic curve for learned scores."""
    block = config.robust.structured
    learned = getattr(shared, "method", None) == "topk"
    once = not learned and block.rounds == 1
    if once and shared.schedule_offset is not None and shared.schedule_offset_end is None:
        shared = shared.model_copy(update={"schedule_offset_end": shared.schedule_offset})
    begin, end = _steps(config, shared, key, samples, (block.begin, block.end))
    if learned:
        return Ramp(0.0, 1.0, begin, end)
    return Ramp(0.0, 1.0, begin, end, max(1, -(-(end - begin) // block.rounds)), "linear")


def _sparse(config: Config, model: nn.Module, samples: int) -> dict[str, Sparse]:
    sparse, pruning = config.compression.sparse, config.robust.pruning
    if sparse is None:
        return {}
    shared = sparse.shared_parameters
    fractions = (pruning.begin, pruning.end)
    begin, end = _steps(config, shared, "sparse_pruning", samples, fractions)
    stride = shared.schedule_offset_stride or max(1, (end - begin) // pruning.updates)
    stride = 1 if shared.method == "topk" else stride
    names = match(model, {n: g.modules for n, g in sparse.different_groups.items()}, "sparse_pruning")
    return {
        name: Sparse(
            tuple(names[name]),
            (Ramp(0.0, 1 - group.params.dense_ratio, begin, end, stride, pruning.curve),),
        )
        for name, group in sparse.different_groups.items()
    }


def match(
    model: nn.Module, modules: Mapping[str, Sequence[str]], technique: str, key: str = "modules"
) -> dict[str, list[str]]:
    """Names of the linear layers of each group, in the model's order.

    modules: keywords (regular expressions) by group, given as `key`. Raises UserError for a keyword
    without a layer, or two groups that share one.
    """
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
            if any(layer in others for others in names.values()):
                raise UserError(f"{path}: another group has the layer '{layer}' too.")
        names[group] = found
    return names


def _blocks(
    groups: Mapping[str, HeadGroup] | Mapping[str, RowGroup],
    model: nn.Module,
    blocks: Sequence[Block],
    technique: str,
) -> dict[str, tuple[int, ...]]:
    """Block numbers of each group; UserError for a layer that is not of the technique's kind."""
    heads = technique == "head_pruning"
    owners = {b.attention_output if heads else b.intermediate: n for n, b in enumerate(blocks)}
    related = {n: b.projections if heads else (b.output,) for n, b in enumerate(blocks)}
    matched = match(model, {n: g.modules for n, g in groups.items()}, technique)
    kind = "attention output" if heads else "first feed-forward layer"
    out = {}
    for name, layers in matched.items():
        path = f"compression_training.{technique}.different_groups.{name}"
        for layer in layers:
            if layer not in owners:
                raise UserError(
                    f"{path}.modules: '{layer}' is no {kind}; "
                    f"in this model these are layers such as '{next(iter(owners))}'."
                )
        out[name] = tuple(owners[layer] for layer in layers)
        wanted = {layer for number in out[name] for layer in related[number]}
        _check_related(path, groups[name], model, wanted, {r for rs in related.values() for r in rs})
    return out


def _check_related(
    path: str, group: HeadGroup | RowGroup, model: nn.Module, wanted: set[str], known: set[str]
) -> None:
    """UserError unless the given related modules are exactly those that must shrink together."""
    if group.related_modules is None:
        return
    if len(group.related_modules) != len(group.modules):
        raise UserError(
            f"{path}.related_modules: must have one list for each of the "
            f"{len(group.modules)} keywords in modules."
        )
    keywords = [keyword for keywords in group.related_modules for keyword in keywords]
    _, technique, _, name = path.split(".", 3)
    found = set(match(model, {name: keywords}, technique, "related_modules")[name])
    if lacking := sorted(wanted - found):
        raise UserError(f"{path}.related_modules: '{lacking[0]}' must shrink too and is not matched.")
    if wrong := sorted(found - known):
        raise UserError(f"{path}.related_modules: '{wrong[0]}' does not belong to these modules.")


def _heads(block: HeadPruning, model: nn.Module, blocks: Sequence[Block]) -> dict[str, Heads]:
    shared, path = block.shared_parameters, "compression_training.head_pruning"
    counts = {b.heads for b in blocks}
    if shared.num_heads is not None and counts != {shared.num_heads}:
        has = " or ".join(str(count) for count in sorted(counts))
        raise UserError(
            f"{path}.shared_parameters.num_heads is {shared.num_heads}, "
            f"but the model has {has} heads a layer."
        )
    members = _blocks(block.different_groups, model, blocks, "head_pruning")
    return {
        name: _head_group(
            f"{path}.different_groups.{name}", group, shared.method, members[name], blocks
        )
        for name, group in block.different_groups.items()
    }


def _head_group(
    path: str, group: HeadGroup, method: str, members: tuple[int, ...], blocks: Sequence[Block]
) -> Heads:
    params, sizes = group.params, [blocks[number].heads for number in members]
    total, ratio = sum(sizes), group.params.dense_ratio
    if params.pruned_heads is not None:
        pruned = tuple(sorted(set(params.pruned_heads)))
        if pruned and pruned[-1] >= min(sizes):
            raise UserError(
                f"{path}.params.pruned_heads: there is no head {pruned[-1]}; a layer has {min(sizes)}."
            )
        keep = total - len(pruned) * len(members)
        if ratio is not None and abs(ratio * total - keep) > 0.5:
            raise UserError(f"{path}.params: dense_ratio and pruned_heads contradict each other.")
        _enough(f"{path}.params.pruned_heads", min(sizes) - len(pruned), 1)
        return Heads(members, keep, pruned)
    if method == "topk":
        if params.target_heads is not None:
            raise UserError(
                f"{path}.params.target_heads: has no effect with method 'topk'; give dense_ratio."
            )
        if len(set(sizes)) > 1:
            raise UserError(f"{path}: its layers have different numbers of heads; make one group each.")
        assert ratio is not None
        keep = round(ratio * sizes[0])
        _enough(f"{path}.params", keep, 1)
        _something(f"{path}.params.dense_ratio", ratio, keep, sizes[0], "heads of a layer")
        return Heads(members, keep)
    keep = params.target_heads or round((ratio or 0) * total)
    if keep > total:
        raise UserError(f"{path}.params.target_heads is {keep}, but the group has {total} heads.")
    _enough(f"{path}.params", keep, len(members))
    _something(f"{path}.params", ratio or 0.0, keep, total, "heads")
    return Heads(members, keep)


def _enough(path: str, keep: int, least: int) -> None:
    if keep < least:
        raise UserError(f"{path}: leaves {keep} heads; each layer must keep one, that is {least}.")


def _something(path: str, ratio: float, keep: int, full: int, what: str) -> None:
    """UserError for a ratio below 1 that rounds to everything."""
    if keep == full and ratio < 1:
        raise UserError(f"{path}: removes nothing, all {full} {what} stay.")


def _rows(
    block: RowPruning, model: nn.Module, blocks: Sequence[Block], multiple: int
) -> dict[str, Rows]:
    members = _blocks(block.different_groups, model, blocks, "row_pruning")
    out = {}
    for name, group in block.different_groups.items():
        widths = {blocks[number].rows for number in members[name]}
        path = f"compression_training.row_pruning.different_groups.{name}"
        if len(widths) > 1:
            raise UserError(f"{path}: its layers have different widths; make one group for each.")
        full = widths.pop()
        width = round(group.params.dense_ratio * full)
        if width < 1:
            raise UserError(f"{path}.params.dense_ratio: leaves no row of {full}.")
        keep = rounded_width(width, multiple, full)
        _something(f"{path}.params.dense_ratio", group.params.dense_ratio, keep, full, "rows")
        out[name] = Rows(members[name], keep)
    return out
