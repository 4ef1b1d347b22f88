"""DeepSpeed's keys: the table is complete, and each of its cases is refused or passes as it says."""

import json
import os
from typing import get_args

import pytest
from pydantic import BaseModel

from compress.configuration import engine_table, machine
from compress.configuration.config import load
from compress.configuration.deepspeed_schema import DeepSpeedBlock
from compress.errors import UserError

BASE = {
    "train_batch_size": 8,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "torch_adam": True}},
    "zero_optimization": {"stage": 2},
    "robust_compression": {"task": {"name": "synthetic"}, "model": "some-encoder"},
}
OFFLOAD = "zero_optimization.offload_optimizer"
FULL_EXAMPLE = {  # the ZeRO 2 block of DeepSpeed's own examples
    "stage": 2,
    "allgather_partitions": True,
    "allgather_bucket_size": 5e8,
    "overlap_comm": True,
    "reduce_scatter": True,
    "reduce_bucket_size": 5e8,
    "contiguous_gradients": True,
}


@pytest.fixture
def given(tmp_path):
    """The base configuration with overrides, read."""
    file = tmp_path / "base.json"
    file.write_text(json.dumps(BASE))
    return lambda *overrides: load([file], overrides)


def types(annotation):
    found = [annotation] if isinstance(annotation, type) else []
    return found + [t for argument in get_args(annotation) for t in types(argument)]


def keys(block, prefix=""):
    """All keys of a block and the blocks in it."""
    found = set()
    for name, info in block.model_fields.items():
        key = prefix + name
        found.add(key)
        inner = [t for t in types(info.annotation) if issubclass(t, BaseModel)]
        if name != "compression_training":
            found |= {k for t in inner for k in keys(t, f"{key}.")}
    return found


def test_all_keys_without_effect_are_named_at_once(given):
    """Those of DeepSpeed and those of this program."""
    words = ["zero_optimization.stage=0", "zero_optimization.overlap_comm=true"]
    words += ["zero_optimization.stage3_prefetch_bucket_size=9", "robust_compression.score_lr=0.1"]
    with pytest.raises(UserError) as error:
        given(*words)
    first, others = str(error.value).split(" To be changed too: ")
    named = [first.split("'")[1], *others.removesuffix(".").replace("'", "").split(", ")]
    assert sorted(named) == sorted(word.split("=")[0] for word in words[1:])


def test_every_key_has_a_row_and_every_row_a_key():
    assert set(engine_table.rows()) == keys(DeepSpeedBlock)


def test_the_conditions_of_the_table_name_its_keys():
    for key, row in engine_table.rows().items():
        for case in row.refused:
            assert case.absent in ("never", "too", "only"), key
            assert case.lacking is None or case.lacking in machine.LACKING
            assert set(case.when) | set(case.when_not) <= set(engine_table.rows())


def test_sources_are_files_of_deepspeed():
    from importlib.util import find_spec
    from pathlib import Path

    root = Path(find_spec("deepspeed").submodule_search_locations[0])
    for row in engine_table.rows().values():
        for name in row.source.split(", "):
            assert name == "compress" or (root / name).is_file(), name


REFUSED = [
    (2, ["prescale_gradients=true"], "reduce_scatter under ZeRO stage 2"),
    (3, ["prescale_gradients=true"], "reduce_scatter under ZeRO stage 3"),
    (
        2,
        [f'{OFFLOAD}={{"device":"nvme","nvme_path":"/tmp"}}'],
        "stage 2 of this release runs as cpu",
    ),
    (
        1,
        [f'{OFFLOAD}={{"device":"nvme","nvme_path":"/tmp"}}'],
        "stage 1 of this release runs as cpu",
    ),
    (3, [f'{OFFLOAD}={{"device":"nvme"}}'], "nvme_path' is missing"),
    (3, [f'{OFFLOAD}={{"device":"cpu","nvme_path":"/tmp"}}'], "with device nvme only"),
    (2, [f'{OFFLOAD}={{"device":"none","pin_memory":true}}'], "no effect with device none"),
    (3, [f'{OFFLOAD}={{"device":"cpu","ratio":0.5}}'], "must be 1"),
    (2, ["zero_optimization.allgather_bucket_size=1"], "gathered at once"),
    (2, ["zero_optimization.allgather_partitions=false"], "always gathers"),
    (0, ["zero_optimization.overlap_comm=true"], "no effect under ZeRO stage 0"),
    (0, ["zero_optimization.reduce_bucket_size=1000"], "no effect under ZeRO stage 0"),
    (3, ["zero_optimization.round_robin_gradients=true"], "no effect under ZeRO stage 3"),
    (3, ["zero_optimization.use_multi_rank_bucket_allreduce=false"], "no effect under ZeRO stage 3"),
    (
        2,
        [f'{OFFLOAD}={{"device":"cpu"}}', "zero_optimization.contiguous_gradients=false"],
        "no effect with offload_optimizer",
    ),
    (
        3,
        ["zero_optimization.contiguous_gradients=false", "zero_optimization.reduce_scatter=false"],
        "reduce_scatter' has no effect while",
    ),
    (2, ['bf16={"enabled":true,"immediate_grad_update":true}'], "does not build here"),
    (3, ['bf16={"enabled":true,"check_grad_overflow":true}'], "never checks"),
    (0, ['bf16={"enabled":true,"check_grad_overflow":false}'], "always checks"),
    (2, ['fp16={"enabled":true,"loss_scale":128,"loss_scale_window":5}'], "is fixed"),
    (0, ['fp16={"enabled":true}'], "set zero_optimization.stage to 1"),
    (2, ['fp16={"enabled":false,"hysteresis":3}'], "while fp16.enabled is false"),
    (
        2,
        ['torch_autocast={"enabled":true,"dtype":"bfloat16"}', "communication_data_type=fp16"],
        "no effect with torch_autocast",
    ),
    (
        2,
        ['torch_autocast={"enabled":true,"dtype":"float16"}', 'bf16={"enabled":true}'],
        "contradicts bf16",
    ),
    (2, ['torch_autocast={"enabled":true}', 'fp16={"enabled":true}'], "contradicts fp16"),
    *(
        (n, ['torch_autocast={"enabled":true,"dtype":"float16"}'], "zero_optimization.stage to 0")
        for n in (1, 2, 3)
    ),
    (2, ['tensorboard={"enabled":false,"job_name":"x"}'], "while tensorboard.enabled is false"),
    (2, ['wandb={"enabled":false,"project":"x"}'], "while wandb.enabled is false"),
    (2, ["zero_optimization.reduce_bucket_size=1"], "greater than or equal to 2"),
]


@pytest.mark.parametrize(("stage", "overrides", "why"), REFUSED)
def test_refused_wherever_it_is_read(given, stage, overrides, why):
    with pytest.raises(UserError) as error:
        given(f"zero_optimization.stage={stage}", *overrides)
    assert why in str(error.value) and str(error.value).startswith("--set ")


TAKEN = [
    (1, ["prescale_gradients=true"]),
    (2, ["prescale_gradients=true", "zero_optimization.reduce_scatter=false"]),
    (2, [f"zero_optimization={json.dumps(FULL_EXAMPLE)}"]),
    (2, [f'{OFFLOAD}={{"device":"cpu","pin_memory":true}}']),
    (1, ["zero_optimization.use_multi_rank_bucket_allreduce=false"]),
    (2, ["zero_optimization.round_robin_gradients=true"]),
    (2, ['bf16={"enabled":true,"check_grad_overflow":false}']),
    (0, ['fp16={"enabled":false}']),
    (1, ['fp16={"enabled":true}']),
    (2, ['fp16={"enabled":true,"loss_scale":0,"hysteresis":3}']),
    (0, ["communication_data_type=bf16", 'torch_autocast={"enabled":true}']),
    (0, ['torch_autocast={"enabled":true,"dtype":"float16"}']),
    (2, ['torch_autocast={"enabled":true,"dtype":"bfloat16"}']),
    (
        3,
        ["zero_optimization.stage3_max_live_parameters=1e9", "zero_optimization.sub_group_size=1e9"],
    ),
]


@pytest.mark.parametrize(("stage", "overrides"), TAKEN)
def test_taken_on_the_cpu(given, stage, overrides, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setitem(machine.LACKING, "float16", lambda: None)
    monkeypatch.setattr(os, "sysconf", lambda name: 1 << 20)
    machine.check(given(f"zero_optimization.stage={stage}", *overrides))


ON_THE_CPU = [
    ("zero_optimization.contiguous_gradients=false", "upstream issue #8382"),
    ('zero_optimization={"stage":3,"stage3_param_persistence_threshold":9}', "upstream PR #8539"),
    ('fp16={"enabled":true}', "lacks a GPU"),
    ("optimizer.params.torch_adam=false", "lacks a C++ compiler"),
    ("optimizer.params.torch_adam=null", "lacks a C++ compiler"),
    ('wandb={"enabled":true}', "lacks the package wandb"),
    (
        f'zero_optimization={{"stage":3,"{OFFLOAD[18:]}":{{"device":"nvme","nvme_path":"/tmp"}}}}',
        "libaio",
    ),
    ("zero_optimization.reduce_bucket_size=100000000000", "make it smaller"),
]


@pytest.mark.parametrize(("override", "why"), ON_THE_CPU)
def test_refused_where_it_runs(given, override, why, monkeypatch):
    lacking = {
        "float16": "a GPU",
        "compiler": "a C++ compiler (c++)",
        "aio": "libaio",
        "wandb": "the package wandb",
    }
    for name, words in lacking.items():
        monkeypatch.setitem(machine.LACKING, name, lambda words=words: words)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setattr(os, "sysconf", lambda name: 1 << 16)
    read = given(override)
    with pytest.raises(UserError) as error:
        machine.check(read)
    assert why in str(error.value) and "'" in str(error.value)


def test_a_gpu_is_asked_for_less(given, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    for override in ("zero_optimization.contiguous_gradients=false", 'fp16={"enabled":true}'):
        machine.check(given(override))


def test_an_accelerator_that_deepspeed_does_not_know(given, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "gpu")
    with pytest.raises(UserError, match=r"DS_ACCELERATOR is 'gpu'.* cuda, cpu"):
        machine.check(given())


@pytest.mark.parametrize("monitor", ["tensorboard", "csv_monitor"])
def test_events_under_a_file(given, monitor, tmp_path, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    (tmp_path / "taken").write_text("")
    block = json.dumps({"enabled": True, "output_path": str(tmp_path / "taken" / "events")})
    with pytest.raises(UserError, match=rf"'{monitor}.output_path' .*taken' is a file"):
        machine.check(given(f"{monitor}={block}"))


@pytest.mark.parametrize("path", ["", "/nowhere/at/all"])
def test_a_device_path_that_is_not_there(given, path, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setitem(machine.LACKING, "aio", lambda: None)
    block = json.dumps({"stage": 3, "offload_param": {"device": "nvme", "nvme_path": path}})
    with pytest.raises(UserError, match=r"offload_param.nvme_path' is .*is no folder"):
        machine.check(given(f"zero_optimization={block}"))
