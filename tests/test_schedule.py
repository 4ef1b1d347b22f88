"""The learning rate is the user's in every schedule, at every stage, for weights and learned scores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress.configuration import schedule
from compress.configuration.config import load
from compress.configuration.merge import RECORD
from compress.errors import UserError
from compress.files import ownership

HERE = Path(__file__).parent
LR, SCORE_LR, STEPS = 3e-4, 0.02, 50
BASE = {
    "train_batch_size": 2,
    "optimizer": {"type": "AdamW", "params": {"lr": LR, "torch_adam": True}},
    "zero_optimization": {"stage": 0},
    "robust_compression": {"task": {"name": "synthetic"}, "model": "some-encoder"},
}
TOPK = (
    'compression_training={"sparse_pruning": {"shared_parameters": {"enabled": true, '
    '"method": "topk"}, "different_groups": {"g": {"params": {"dense_ratio": 0.5}, '
    '"modules": ["encoder"]}}}}'
)
LEARNED = [TOPK, f"robust_compression.score_lr={SCORE_LR}"]
SCHEDULERS = {
    "none": None,
    "WarmupLR": {},
    "WarmupDecayLR": {"total_num_steps": "auto"},
    "WarmupCosineLR": {"total_num_steps": "auto"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    file = tmp_path_factory.mktemp("schedule") / "base.json"
    file.write_text(json.dumps(BASE))
    return file


def scheduler(kind, **params):
    block = {"type": kind, "params": {**(SCHEDULERS[kind] or {}), **params}}
    return [] if kind == "none" else [f"scheduler={json.dumps(block)}"]


@pytest.mark.slow
def test_every_schedule_peaks_at_the_users_rates(base):
    types = [{}, {"warmup_type": "linear"}]
    cases = [(kind, stage, types[stage % 2]) for kind in SCHEDULERS for stage in range(4)]
    overrides = [
        [f"zero_optimization.stage={stage}", *LEARNED, *scheduler(kind, **more)]
        for kind, stage, more in cases
    ]
    done = subprocess.run(
        [sys.executable, HERE / "drivers" / "learning_rates.py", base, json.dumps(overrides)],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for case, peaks in zip(cases, found, strict=True):
        near = 1e-2 if case[0] == "WarmupCosineLR" else 1e-9  # its cosine is a step ahead of the peak
        assert peaks == pytest.approx([LR, LR, SCORE_LR], rel=near), case


def params(base, *overrides, steps=STEPS):
    return schedule.resolve(load([base], overrides), steps)["params"]


@pytest.mark.parametrize("kind", ["WarmupLR", "WarmupDecayLR", "WarmupCosineLR"])
def test_no_value_is_left_to_the_library(base, kind):
    import inspect

    from deepspeed.runtime import lr_schedules

    known = inspect.signature(getattr(lr_schedules, kind)).parameters
    wanted = set(known) - {"optimizer", "last_batch_iteration"}
    resolved = params(base, *scheduler(kind))
    assert set(resolved) == wanted
    assert "auto" not in resolved.values() and resolved["warmup_num_steps"] == 3
    assert resolved.get("warmup_max_lr", LR) == LR and resolved["warmup_type"] == "log"


def test_what_the_user_says_stays(base):
    said = {"warmup_num_steps": 20, "warmup_max_lr": 0.5, "warmup_min_lr": 0.1, "total_num_steps": 40}
    assert params(base, *scheduler("WarmupDecayLR", **said)) == {**said, "warmup_type": "log"}
    resolved = load([base], scheduler("WarmupDecayLR", **said))
    notes = schedule.notes(schedule.resolve(resolved, 10), 10)
    assert len(notes) == 1 and "warmup_num_steps is 20, the training has 10 steps" in notes[0]
    assert "ends before the training" in schedule.notes(schedule.resolve(resolved, 50), 50)[0]


@pytest.mark.parametrize("warmup", ["log", "linear"])
@pytest.mark.parametrize("kind", ["WarmupLR", "WarmupDecayLR", "WarmupCosineLR"])
def test_a_training_without_a_rate_is_told_so(base, kind, warmup):
    """Just where the installed library has the rate 0 in every step."""
    import torch
    from deepspeed.runtime import lr_schedules

    for steps in (1, 2, 3):
        resolved = schedule.resolve(load([base], scheduler(kind, warmup_type=warmup)), steps)
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=LR)
        library, used = getattr(lr_schedules, kind)(optimizer, **resolved["params"]), []
        for _ in range(steps):
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            library.step()
        told = any("is 0 in every step" in note for note in schedule.notes(resolved, steps))
        assert told == (max(used) == 0), (steps, used)


def test_a_warmup_that_starts_above_its_peak(base):
    with pytest.raises(UserError, match=r"warmup_min_lr' is above its peak .* 0.0003"):
        load([base], scheduler("WarmupLR", warmup_min_lr=0.1))
    high = scheduler("WarmupLR", warmup_min_lr=0.1, warmup_max_lr=0.2)
    load([base], high)
    with pytest.raises(UserError, match=r"above robust_compression.score_lr, 0.02"):
        load([base], [*high, *LEARNED])


def test_the_cache_follows_the_rate(base):
    """Another key where the rate is another than it was; the same where it is the same."""
    absent = schedule.settled(load([base], scheduler("WarmupDecayLR")).merged)
    auto = {"warmup_max_lr": "auto", "warmup_num_steps": "auto"}
    said = load([base], scheduler("WarmupDecayLR", **auto)).merged
    assert absent == said == schedule.settled(said)
    constant = load([base], scheduler("WarmupLR", warmup_num_steps=5)).merged
    assert schedule.settled(constant) == constant
    assert schedule.settled(load([base]).merged) == BASE


def test_precision_that_is_not_said_is_the_same_on_every_device(base):
    config = load([base], ['torch_autocast={"enabled": true}'])
    assert schedule.settled(config.merged)["torch_autocast"]["dtype"] == "bfloat16"


def test_the_schedules_stand_in_config_json(base, tmp_path):
    config = load([base], [*scheduler("WarmupDecayLR"), *LEARNED, "robust_compression.epochs=2"])
    schedule.record(config, 101, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    record = written[RECORD]
    assert set(record) == {"teacher", "sub_networks", "student"}
    assert record["student"]["score_lr"] == SCORE_LR and "score_lr" not in record["teacher"]
    for training in record.values():
        assert training["steps"] == 2 * 51
        assert training["scheduler"] == schedule.resolve(config, 102)
    (tmp_path / "student").mkdir()
    ownership.claim(tmp_path, config)
    again = load([tmp_path / "config.json"])
    assert again.merged == config.merged
    del written[RECORD]
    (tmp_path / "config.json").write_text(json.dumps(written))
    ownership.claim(tmp_path, config)


def test_whole_numbers_that_are_written_as_floats(base):
    zero = '{"stage": 2.0, "reduce_bucket_size": 5e8}'
    train = "robust_compression.task.synthetic.train=1e3"
    config = load([base], [f"zero_optimization={zero}", train])
    sizes = config.engine["zero_optimization"]
    assert sizes == {"stage": 2, "reduce_bucket_size": 500_000_000}
    assert all(isinstance(size, int) for size in sizes.values())
    assert config.robust.task.synthetic.train == 1000
    rate = load([base], ["optimizer.params.lr=1.0"]).engine["optimizer"]["params"]["lr"]
    assert isinstance(rate, float)


@pytest.mark.parametrize("value", ["5.5", "true", "1e400", "NaN", '"5"', "1e30"])
def test_what_is_no_whole_number(base, value):
    with pytest.raises(UserError, match="'train_batch_size' is "):
        load([base], [f"train_batch_size={value}"])


@pytest.mark.parametrize("key", ["seed", "task.synthetic.seed"])
@pytest.mark.parametrize("value", [2**64, 2**64 - 1, 2**63, -1])
def test_seeds_that_torch_does_not_take(base, key, value):
    with pytest.raises(UserError, match=rf"'robust_compression.{key}' is {value}, but"):
        load([base], [f"robust_compression.{key}={value}"])


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"a":' * 60 + "1" + "}" * 60])
def test_json_without_end(tmp_path, base, text):
    file = tmp_path / "deep.json"
    file.write_text(text)
    with pytest.raises(UserError, match="is nested more than 50 levels deep"):
        load([file])
    with pytest.raises(UserError, match=r"nested more than 50 levels|'robust_compression'"):
        load([base], [f"robust_compression={text}"])


def test_an_override_with_endless_names_or_digits(base):
    with pytest.raises(UserError, match="nested more than 50 levels deep"):
        load([base], [f"{'a.' * 5000}b=1"])
    with pytest.raises(UserError, match="cannot be read"):
        load([base], [f"train_batch_size={'1' * 5000}"])
