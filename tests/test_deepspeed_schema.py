"""Our schema held against the installed DeepSpeed: what is valid here must be valid and known there."""

import inspect
import json
import typing

import pytest
import torch
from deepspeed.monitor.config import CSVConfig, DeepSpeedMonitorConfig, TensorBoardConfig, WandbConfig
from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
from deepspeed.runtime import config as runtime_config
from deepspeed.runtime import constants as runtime_constants
from deepspeed.runtime import lr_schedules
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.zero.config import ZERO_OPTIMIZATION, DeepSpeedZeroConfig
from deepspeed.runtime.zero.offload_config import (
    DeepSpeedZeroOffloadOptimizerConfig,
    DeepSpeedZeroOffloadParamConfig,
)
from pydantic import ValidationError

from compress.configuration import deepspeed_schema as schema
from compress.configuration.config import load
from compress.configuration.robust_schema import Root
from compress.errors import UserError

BASE = {
    "train_batch_size": 8,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},
    "zero_optimization": {"stage": 3},
    "robust_compression": {"task": {"name": "synthetic"}, "model": "some-encoder"},
}
NVME = {"device": "nvme", "nvme_path": "/fast"}
# our block -> where it stands in a configuration, the other keys it needs, DeepSpeed's own model
MIRRORS = [
    (schema.Zero, "zero_optimization", {"stage": 3}, DeepSpeedZeroConfig),
    (schema.BF16, "bf16", {"enabled": True}, DeepSpeedBF16Config),
    (schema.FP16, "fp16", {"enabled": True}, DeepSpeedFP16Config),
    (schema.FileMonitor, "tensorboard", {"enabled": True}, TensorBoardConfig),
    (schema.FileMonitor, "csv_monitor", {"enabled": True}, CSVConfig),
    (schema.Wandb, "wandb", {"enabled": True}, WandbConfig),
    (
        schema.OffloadParam,
        "zero_optimization.offload_param",
        NVME,
        DeepSpeedZeroOffloadParamConfig,
    ),
    (
        schema.OffloadOptimizer,
        "zero_optimization.offload_optimizer",
        NVME,
        DeepSpeedZeroOffloadOptimizerConfig,
    ),
]
NUMBERS = [-1, 0, 1, 2, 3, 4, 100, 0.5, 1.5, 5e8]
PROBES = [*NUMBERS, True, False, "cpu", "nvme", "auto", [], {"device": "cpu"}]
MIRRORED_KEYS = [
    pytest.param(path, needed, theirs, key, id=f"{path}.{key}")
    for block, path, needed, theirs in MIRRORS
    for key in block.model_fields
]


def merged(base, path, value):
    """`base` with `value` at `path`; objects merge."""
    key, _, rest = path.partition(".")
    inner = base.get(key, {})
    if rest:
        return {**base, key: merged(inner, rest, value)}
    return {**base, key: {**inner, **value} if isinstance(value, dict) else value}


def passes_here(values, tmp_path):
    """Whether the whole configuration loads."""
    file = tmp_path / "probe.json"
    file.write_text(json.dumps(values))
    try:
        load([file])
    except UserError:
        return False
    return True


def choices(annotation):
    """The strings of a `Literal[...] | None`."""
    found = [choice for part in typing.get_args(annotation) for choice in typing.get_args(part)]
    return [choice for choice in found if isinstance(choice, str)]


def strings(module):
    """Values of a module's string constants."""
    return {v for k, v in vars(module).items() if k.isupper() and isinstance(v, str)}


def parameters(function):
    return set(inspect.signature(function).parameters)


def test_top_level_keys():
    known = strings(runtime_constants) | {ZERO_OPTIMIZATION, "compression_training"}
    known |= set(DeepSpeedMonitorConfig.model_fields)
    assert set(schema.DeepSpeedBlock.model_fields) <= known
    assert set(Root.model_fields) - set(schema.DeepSpeedBlock.model_fields) == {"robust_compression"}


@pytest.mark.parametrize(("path", "needed", "theirs", "key"), MIRRORED_KEYS)
def test_what_passes_here_passes_in_deepspeed(path, needed, theirs, key, tmp_path):
    accepted = []
    for value in PROBES:
        block = {**needed, key: value}
        if not passes_here(merged(BASE, path, block), tmp_path):
            continue
        try:
            theirs(**block)
        except ValidationError as error:
            pytest.fail(f"{path}.{key} = {value!r} passes here: {error.errors()[0]['msg']}")
        accepted.append(value)
    assert accepted, "no probe passes here"


@pytest.mark.parametrize(("block", "theirs"), [(b, t) for b, _, _, t in MIRRORS])
def test_keys_are_deepspeeds(block, theirs):
    names = set(theirs.model_fields) | {f.alias for f in theirs.model_fields.values() if f.alias}
    assert set(block.model_fields) <= names


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_of_zero(stage, tmp_path):
    assert passes_here(merged(BASE, "zero_optimization.stage", stage), tmp_path)
    assert DeepSpeedZeroConfig(stage=stage).stage == stage


def test_there_is_no_further_stage():
    with pytest.raises(ValidationError):
        DeepSpeedZeroConfig(stage=4)


# ----------------------------------------------------------------------------- optimizer and schedule


@pytest.mark.parametrize("optimizer", [FusedAdam, DeepSpeedCPUAdam])
def test_optimizer_parameters(optimizer):
    # the engine takes this one off before it calls the optimizer
    engine = {runtime_config.TORCH_ADAM_PARAM}
    engine |= {"fused"}  # refused without torch_adam
    assert engine <= set(schema.OptimizerParams.model_fields)
    assert set(schema.OptimizerParams.model_fields) - engine <= parameters(optimizer)


@pytest.mark.parametrize("key", schema.OptimizerParams.model_fields)
def test_optimizer_parameters_with_torch_adam(key, tmp_path):
    values = {"lr": 0.1, "betas": [0.8, 0.9], "torch_adam": True, "eps": 1e-6, "weight_decay": 0.1}
    values["fused"] = True
    params = {"lr": 0.1, "torch_adam": True, key: values[key]}
    assert passes_here(merged(BASE, "optimizer.params", params), tmp_path)
    kept = {k: v for k, v in params.items() if k != runtime_config.TORCH_ADAM_PARAM}
    for optimizer in (torch.optim.AdamW, torch.optim.Adam):
        optimizer([torch.zeros(1, requires_grad=True)], **kept)


def test_optimizer_types():
    types = typing.get_args(schema.Optimizer.model_fields["type"].annotation)
    assert {name.lower() for name in types} <= set(runtime_config.DEEPSPEED_OPTIMIZERS)


SCHEDULE_VALUES = {
    "warmup_min_lr": 0.0,
    "warmup_max_lr": 0.1,
    "warmup_num_steps": 5,
    "warmup_type": "linear",
    "total_num_steps": 50,
    "warmup_min_ratio": 0.1,
    "cos_min_ratio": 0.1,
}
SCHEDULES = ["WarmupLR", "WarmupDecayLR", "WarmupCosineLR"]


def build(schedule, params):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    return getattr(lr_schedules, schedule)(optimizer, **params)


def test_schedules_are_deepspeeds():
    assert set(SCHEDULES) <= set(lr_schedules.VALID_LR_SCHEDULES)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("key", SCHEDULE_VALUES)
def test_schedule_parameters(schedule, key, tmp_path):
    params = {"warmup_num_steps": 5, key: SCHEDULE_VALUES[key]}
    if schedule != "WarmupLR":
        params["total_num_steps"] = 50
    block = {"type": schedule, "params": params}
    if passes_here(merged(BASE, "scheduler", block), tmp_path):
        build(schedule, params)
    else:
        assert key not in parameters(getattr(lr_schedules, schedule))


def test_warmup_types():
    ours = choices(schema.WarmupParams.model_fields["warmup_type"].annotation)
    assert set(ours) == {lr_schedules.WARMUP_LOG_RATE, lr_schedules.WARMUP_LINEAR_RATE}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warmup_of_no_steps_is_refused(schedule, tmp_path):
    params = {"warmup_num_steps": 0, "total_num_steps": 50}
    if schedule == "WarmupLR":
        del params["total_num_steps"]
    block = {"type": schedule, "params": params}
    assert not passes_here(merged(BASE, "scheduler", block), tmp_path)
    with pytest.raises(ValueError, match="positive"):
        build(schedule, params)


@pytest.mark.parametrize("schedule", ["WarmupDecayLR", "WarmupCosineLR"])
def test_decay_needs_its_length(schedule, tmp_path):
    block = {"type": schedule, "params": {"warmup_num_steps": 5}}
    assert not passes_here(merged(BASE, "scheduler", block), tmp_path)


# ------------------------------------------------------------------------------------- other choices


@pytest.mark.parametrize(
    "name", choices(schema.DeepSpeedBlock.model_fields["communication_data_type"].annotation)
)
def test_communication_data_type(name):
    assert runtime_config.get_communication_data_type({"communication_data_type": name})


@pytest.mark.parametrize("name", choices(schema.Autocast.model_fields["dtype"].annotation))
def test_autocast_dtype(name):
    block = {runtime_constants.TORCH_AUTOCAST: {runtime_constants.TORCH_AUTOCAST_DTYPE: name}}
    assert runtime_config.get_torch_autocast_dtype(block) is getattr(torch, name)
    assert set(schema.Autocast.model_fields) == {
        runtime_constants.TORCH_AUTOCAST_ENABLED,
        runtime_constants.TORCH_AUTOCAST_DTYPE,
    }


# ------------------------------------------------------------------------------------ the whole thing


def test_engine_keys_leave_deepspeeds_blocks_in():
    values = {**BASE, "bf16": {"enabled": True}, "tensorboard": {"enabled": True}}
    engine = schema.engine_keys(values)
    assert set(engine) == {"train_batch_size", "optimizer", "zero_optimization", "bf16"}
    assert "robust_compression" in values


def test_deepspeed_reads_the_engine_keys(tmp_path):
    values = {**BASE, "gradient_clipping": 0.5, "bf16": {"enabled": True}}
    values["zero_optimization"] = {"stage": 3}
    assert passes_here(values, tmp_path)
    read = runtime_config.DeepSpeedConfig(
        {**schema.engine_keys(values), "train_micro_batch_size_per_gpu": 4}
    )
    assert (read.train_batch_size, read.gradient_accumulation_steps) == (8, 2)
    assert (read.gradient_clipping, read.zero_optimization_stage) == (0.5, 3)
    assert read.bfloat16_config.enabled and not read.float16_config.enabled
    assert (read.optimizer_name, read.optimizer_params) == ("adamw", {"lr": 1e-4})
