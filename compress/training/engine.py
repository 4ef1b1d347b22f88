"""DeepSpeed's engine: its configuration, its groups of parameters, its end."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.zero import parameter_offload
from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator
from deepspeed.utils import link_hp_params
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.configuration import schedule
from compress.configuration.config import Config
from compress.configuration.deepspeed_schema import BUCKET, engine_keys
from compress.errors import UserError
from compress.models import unpadding
from compress.runtime import ranks
from compress.training import finite

NEVER = 1 << 40
RACING = "0.19.6"


def parameter_groups(
    model: PreTrainedModel, config: Config, scores: Sequence[nn.Parameter]
) -> list[dict[str, Any]]:
    """Parameters in groups: weight decay on matrices, none on biases and normalisation.

    scores: learned pruning scores, a third group with a learning rate of their own.
    Groups without parameters are left out, as the engine does.
    """
    decay = config.deepspeed.optimizer.params.weight_decay
    learned = {id(score) for score in scores}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in learned]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
        {"params": list(scores), "weight_decay": 0.0, "lr": config.robust.score_lr},
    ]
    return [group for group in groups if group["params"]]


def check_options(model: PreTrainedModel, config: Config) -> None:
    """Raise UserError for an architecture that cannot do what the configuration asks of it."""
    if config.robust.activation_checkpointing:
        check_checkpointing(model)
    if config.robust.padding_free:
        unpadding.check(model)


def check_checkpointing(model: PreTrainedModel) -> None:
    """Raise UserError for an architecture that cannot compute its activations again."""
    if not model.supports_gradient_checkpointing:
        raise UserError(
            f"robust_compression.activation_checkpointing: {type(model).__name__} cannot do it; set it "
            "to false."
        )


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Have the blocks compute their activations again in the backward pass, with the same dropout.

    Raises UserError for an architecture that cannot.
    """
    check_checkpointing(model)
    name = "activation_checkpointing_enable"  # its name from transformers 5.23 on
    enable = getattr(model, name, None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def engine_settings(
    config: Config, total_steps: int, micro: int, accumulation: int, groups: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """DeepSpeed's configuration with every value filled in and its own printing off.

    groups: of `parameter_groups`; one with a rate of its own gets its own peak in the schedule.
    Under bf16 the engine does not look for gradients that are not finite where `FiniteCheck` has: its
    search was half of the kernels of a step of BERT-base.
    """
    settings = engine_keys(schedule.settled(config.merged))
    settings.update(
        train_micro_batch_size_per_gpu=micro,
        gradient_accumulation_steps=accumulation,
        steps_per_print=NEVER,
    )
    zero, stage = settings.get("zero_optimization", {}), config.deepspeed.zero_optimization.stage
    if stage:
        settings["zero_optimization"] = zero = bucketed(zero, groups)
    if stage == 3:
        settings["zero_optimization"] = divided(zero)
    half = config.deepspeed.bf16
    if half and half.enabled and config.deepspeed.zero_optimization.stage in (1, 2):
        searched = finite.left_out(config)
        settings["bf16"] = {"check_grad_overflow": searched, **settings["bf16"]}
    scheduler = schedule.resolve(config, total_steps)
    if scheduler is not None:
        for note in schedule.notes(scheduler, total_steps):
            ranks.say(f"note: {note}")
        params = dict(scheduler["params"])
        if "warmup_max_lr" in params and any("lr" in group for group in groups):
            peak = params["warmup_max_lr"]
            params["warmup_max_lr"] = [group.get("lr", peak) for group in groups]
        settings["scheduler"] = {**scheduler, "params": params}
    return settings


def link_dealt(engine: deepspeed.DeepSpeedEngine) -> None:
    """Let parameters that `round_robin_gradients` has dealt know their own part of the master weights.

    DeepSpeed (0.19.6, and 0.19.8 where nothing is padded) finds it in the order of the model, though
    its buffers have the other order.
    """
    optimizer = engine.optimizer
    if not getattr(optimizer, "round_robin_gradients", False):
        return
    groups = optimizer.round_robin_bit16_groups
    paddings = getattr(optimizer, "round_robin_bit16_padding", [()] * len(groups))
    for number, (group, padding) in enumerate(zip(groups, paddings, strict=True)):
        if any(padding):
            continue
        size = int(optimizer.partition_size[number])
        link_hp_params(
            lp_param_list=group,
            flat_hp_partition=optimizer.single_partition_of_fp32_groups[number],
            gradient_dict=optimizer.averaged_gradients,
            offload_gradient_dict=optimizer.offload_gradient_dict,
            use_offload=optimizer.cpu_offload,
            param_group_index=number,
            partition_start=ranks.rank() * size,
            partition_size=size,
            dp_group=optimizer.real_dp_process_group[number],
        )


def release(engine: deepspeed.DeepSpeedEngine) -> None:
    """Destroy an engine, so that its model can be freed by `gc.collect`: its hooks refer to it.

    DeepSpeed keeps every module of ZeRO 3 in a list that it never empties, and in the caches of methods
    of its parameter coordinator, which are made again where they are needed.
    """
    engine.destroy()
    for method in vars(PartitionedParameterCoordinator).values():
        for cached in _cached(method):
            cached.cache_clear()
    stack = parameter_offload.FWD_MODULE_STACK
    stack[:] = [module for module in stack if module is not engine.module]


def _cached(function: Any) -> Iterator[Any]:  # noqa: ANN401  any member of a class
    """Functions with a cache that a function wraps, in DeepSpeed's decorators without saying so."""
    if hasattr(function, "cache_clear"):
        yield function
    for cell in getattr(function, "__closure__", None) or ():
        yield from _cached(cell.cell_contents)


def bucketed(zero: Mapping[str, Any], groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The block of ZeRO with a bucket of gradients no larger than the model, where none is given.

    DeepSpeed's default is a buffer of 500 million numbers for a model of any size.
    """
    parameters = [p for group in groups for p in group["params"]]
    count = sum(getattr(p, "ds_numel", p.numel()) for p in parameters)
    return {"reduce_bucket_size": min(BUCKET, max(count, 2)), **zero}


def divided(zero: Mapping[str, Any]) -> dict[str, Any]:
    """The block of ZeRO 3 as an engine can use it: on the CPU no parameter persists with 0.19.6.

    Its release waits only for the last of several gloo operations, so that weights were NaN at times
    (upstream PR #8539).
    """
    return {**zero, "stage3_param_persistence_threshold": 0} if _races() else dict(zero)


def _races() -> bool:
    racing = deepspeed.__version__.split("+")[0] == RACING
    return racing and torch.distributed.get_backend() == "gloo"


def release_weights(engine: deepspeed.DeepSpeedEngine, everything: bool = True) -> None:
    """Release the weights that ZeRO 3 holds whole for modules whose backward pass has not ended.

    everything: also those that it has fetched ahead, and those that stay on all ranks; it gathers them
    again when they are needed. Nothing is done in other stages.
    """
    if engine.zero_optimization_stage() < 3:
        return
    optimizer = engine.optimizer  # of an engine that does not train, this is the offload itself
    fetched = getattr(optimizer, "parameter_offload", optimizer)
    fetched.release_backward_leftovers()
    if everything:
        fetched.partition_all_parameters()


def gathered(engine: deepspeed.DeepSpeedEngine, parameter: Tensor) -> AbstractContextManager[None]:
    """Context in which a parameter is whole on every rank; collective under ZeRO 3."""
    partitioned = engine.zero_optimization_stage() == 3
    whole: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(
        [parameter], enabled=partitioned
    )
    return whole
