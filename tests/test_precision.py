"""The precision that is chosen, what it stands for, and that nothing else changes with it."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from configs import SPARSE, Files
from launcher import job, python, two_ranks
from transformers import AlbertConfig, AlbertForSequenceClassification

from compress.configuration import machine, precision, used_keys
from compress.errors import UserError
from compress.files import ownership
from compress.stages import parity, student_export
from compress.training import engine, finite

KEY = "robust_compression.precision"


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


@pytest.fixture
def chosen(files, monkeypatch):
    """Function (value of the key, flags of the processor) -> configuration, line."""

    def choose(value, flags="fpu avx2"):
        monkeypatch.setattr(machine, "device", lambda: "cpu")
        info = files.folder / "cpuinfo"
        info.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t: none\n")
        monkeypatch.setattr(precision, "CPU_INFO", info)
        settings = files.load(SPARSE, overrides=[] if value is None else [f"{KEY}={value}"])
        return precision.settle(settings)

    return choose


@pytest.mark.parametrize("flags", ["fpu avx512_bf16 x", "amx_bf16", "asimd bf16 sve"])
def test_auto_is_bf16_where_the_processor_has_it(chosen, flags):
    config, line = chosen("auto", flags)
    assert config.deepspeed.bf16.enabled and config.robust.precision is None
    assert line.startswith("precision: bf16, because this processor computes fast in bfloat16")


def test_auto_is_fp32_elsewhere(chosen):
    config, line = chosen("auto", "fpu avx512f avx512_vnni")
    assert not config.deepspeed.low_precision
    assert line.startswith("precision: fp32, because this processor does not compute fast")


def test_a_given_one_needs_no_line(chosen):
    assert chosen("bf16")[1] is None and chosen("bf16")[0].deepspeed.bf16.enabled
    assert chosen("fp32")[1] is None and not chosen("fp32")[0].deepspeed.low_precision
    config, _ = chosen("tf32")
    assert config.robust.precision == "tf32" and not config.deepspeed.low_precision


def test_results_do_not_depend_on_who_chose(chosen, files):
    written = files.load(SPARSE, {"bf16": {"enabled": True}})
    for config in (chosen("bf16")[0], chosen("auto", "avx512_bf16")[0]):
        assert used_keys.whole(config) == used_keys.whole(written)
        assert ownership.figures_key(config) == ownership.figures_key(written)
    assert used_keys.whole(chosen("fp32")[0]) == used_keys.whole(chosen(None)[0])
    assert used_keys.whole(chosen("tf32")[0]) != used_keys.whole(chosen(None)[0])


def test_figures_are_found_whatever_the_machine_chose(chosen, files):
    asked = files.load(SPARSE, overrides=[f"{KEY}=auto"])
    keys = ownership.figures_keys(asked)
    for flags in ("avx512_bf16", "avx2"):
        assert ownership.figures_key(chosen("auto", flags)[0]) in keys
    assert len(keys) == 2


@pytest.mark.parametrize("asked", ["auto", "bf16", "fp32", "tf32"])
def test_an_output_directory_belongs_to_the_command_that_made_it(chosen, files, asked):
    """Whether it is asked for on this machine or on another one; another precision does not own it."""
    command = files.load(SPARSE, overrides=[f"{KEY}={asked}"])
    for flags in ("avx512_bf16", "avx2"):
        assert ownership.difference(chosen(asked, flags)[0].merged, command) is None
    other = files.load(SPARSE, overrides=[f"{KEY}={'fp32' if asked == 'bf16' else 'bf16'}"])
    assert asked == "auto" or ownership.difference(chosen(asked)[0].merged, other) is not None


@pytest.mark.parametrize(
    ("stage", "more", "searched"),
    [
        (1, {}, False),
        (2, {}, False),
        (2, {"check_grad_overflow": True}, True),
        (0, {}, None),
        (3, {}, None),
    ],
)
def test_gradients_in_bf16_are_searched_once(files, monkeypatch, stage, more, searched):
    """By `FiniteCheck`, unless DeepSpeed is asked to; its search is 13 kernels for each parameter."""
    monkeypatch.setattr(engine, "_races", lambda: False)  # asks the process group
    block = {**SPARSE, "bf16": {"enabled": True, **more}, "zero_optimization": {"stage": stage}}
    settings = files.load(block)
    given = engine.engine_settings(settings, 10, 2, 1, [])["bf16"]
    assert given.get("check_grad_overflow") == searched
    assert finite.left_out(settings) == bool(searched)


@pytest.mark.parametrize(
    ("zero", "count", "bucket"),
    [
        ({"stage": 2}, 30, 30),
        ({"stage": 1}, 10**9, 500_000_000),
        ({"stage": 2, "reduce_bucket_size": 7}, 30, 7),
        ({"stage": 0}, 30, None),
    ],
)
def test_a_bucket_of_gradients_is_no_larger_than_the_model(files, zero, count, bucket):
    weights = torch.nn.Parameter(torch.empty(count, device="meta"))
    settings = files.load({**SPARSE, "zero_optimization": zero})
    given = engine.engine_settings(settings, 10, 2, 1, [{"params": [weights]}])["zero_optimization"]
    assert given.get("reduce_bucket_size") == bucket


@pytest.mark.parametrize("block", ["bf16", "fp16", "torch_autocast"])
def test_two_answers_contradict_each_other(files, block):
    with pytest.raises(UserError, match=rf"precision. and {block} exclude each other"):
        files.load(SPARSE, {block: {"enabled": True}}, overrides=[f"{KEY}=auto"])
    files.load(SPARSE, {block: {"enabled": False}}, overrides=[f"{KEY}=auto"])


def test_tf32_needs_a_gpu(chosen):
    with pytest.raises(UserError, match=r"precision. is .tf32., which NVIDIA GPUs have only"):
        machine.check(chosen("tf32")[0])


def test_fused_needs_torch_adam(files):
    params = {"lr": 1e-4, "fused": True}
    with pytest.raises(UserError, match=r"fused. has an effect only with torch_adam"):
        files.load(SPARSE, {"optimizer": {"type": "AdamW", "params": params}})


def test_an_architecture_that_cannot_checkpoint_is_told():
    model = AlbertForSequenceClassification(
        AlbertConfig(vocab_size=9, hidden_size=8, embedding_size=4, num_attention_heads=2)
    )
    with pytest.raises(UserError, match="activation_checkpointing: AlbertForSequenceClassification"):
        engine.check_checkpointing(model)


@pytest.fixture
def tf32():
    """As `run` sets it for a run whose precision is tf32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("part", ["write", "parity"])
def test_an_export_computes_without_tf32_and_what_follows_with_it(
    tf32, tmp_path, monkeypatch, part, fails
):
    """What follows: scores, and the training of the student that `evaluation.baseline` asks for."""
    seen = []

    def logits(*_):
        seen.append(torch.get_float32_matmul_precision())
        if fails:
            raise UserError("it does not")
        return np.zeros((1, 2))

    monkeypatch.setattr(student_export.Trained, "_stream", lambda *_: None)
    monkeypatch.setattr(student_export.Trained, "_expected", logits)
    monkeypatch.setattr(parity, "logits", logits)
    settings = SimpleNamespace(deepspeed=SimpleNamespace(low_precision=False))
    dev = SimpleNamespace(head=lambda count: None)
    run = SimpleNamespace(config=settings, columns={"dev": dev}, device=None)
    with pytest.raises(UserError) if fails else nullcontext():
        if part == "write":
            student_export.Trained(None, None, [], None).write(run, tmp_path)
        else:
            student_export.Written(tmp_path, None, np.zeros((1, 2))).parity(run, tmp_path)
    assert seen == ["highest"] and torch.get_float32_matmul_precision() == "high"


# Runs


@pytest.mark.launcher
@pytest.mark.parametrize("stage", [3])
def test_activation_checkpointing_changes_nothing(tiny_model, tmp_path, stage):
    """Dropout included; each run has a cache of its own."""
    found = {}
    for asked in ("false", "true"):
        extra = [f"zero_optimization.stage={stage}", "optimizer.params.fused=true"]
        extra += [f"robust_compression.activation_checkpointing={asked}", "robust_compression.epochs=1"]
        done = two_ranks(*job(tiny_model, tmp_path / asked / "run", *extra, stage="teacher"))
        assert done.returncode == 0, done.stderr[-2000:]
        (file,) = (tmp_path / asked).glob("shared/teacher/*/probabilities.npy")
        found[asked] = file.read_bytes()
    assert found["false"] == found["true"]


@pytest.mark.launcher
def test_the_choice_is_said_and_recorded(tiny_model, tmp_path):
    done = python(*job(tiny_model, tmp_path / "run", f"{KEY}=auto", stage="teacher"))
    assert done.returncode == 0, done.stderr[-2000:]
    fast = precision.computes_bf16("cpu")
    assert done.stdout.count(f"precision: {'bf16' if fast else 'fp32'}, because") == 1
    kept = json.loads((tmp_path / "run/config.json").read_text())
    assert kept.get("bf16", {}).get("enabled", False) == fast
