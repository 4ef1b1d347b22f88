"""Configuration: how files and overrides merge, and how a batch is split among ranks."""

import copy

import pytest
from configs import BASE, FULL, OURS, SPARSE, Files, at

from compress.configuration.config import batch_split
from compress.errors import UserError


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


# ------------------------------------------------------------------------------------------- merging


def test_later_files_win(files):
    config = files.load(at(f"{OURS}.epochs", 4), at(f"{OURS}.epochs", 5), at(f"{OURS}.seed", 7))
    assert (config.robust.epochs, config.robust.seed) == (5, 7)
    assert config.robust.model == "some-encoder"


def test_overrides_come_last_and_from_left_to_right(files):
    overrides = [f"{OURS}.epochs=8", "optimizer.params.lr=0.5", f"{OURS}.epochs=9"]
    config = files.load(at(f"{OURS}.epochs", 4), overrides=overrides)
    assert config.robust.epochs == 9
    assert config.deepspeed.optimizer.params.lr == 0.5
    assert config.deepspeed.optimizer.type == "AdamW"


def test_order_of_the_files_matters(files):
    one, two = at("train_batch_size", 16), at("train_batch_size", 32)
    assert files.load(one, two).deepspeed.train_batch_size == 32
    assert files.load(two, one).deepspeed.train_batch_size == 16


def test_null_returns_to_the_default(files):
    assert files.load(at(f"{OURS}.epochs", 9), at(f"{OURS}.epochs", None)).robust.epochs == 3
    config = files.load(at(f"{OURS}.loss", {"hook": "distil"}), at(f"{OURS}.loss", None))
    assert config.robust.loss.hook == ""
    assert files.load(at("bf16.enabled", True), overrides=["bf16=null"]).deepspeed.bf16 is None


def test_null_can_be_overridden_again(files):
    key = f"{OURS}.epochs"
    assert files.load(at(key, None), at(key, 6)).robust.epochs == 6
    assert "bf16" not in files.load(at("bf16", None)).merged


def test_lists_replace(files):
    key = f"{OURS}.uncertainty.sparsities"
    config = files.load(at(key, [0.1, 0.2, 0.3]), at(key, [0.4, 0.5]))
    assert config.robust.uncertainty.sparsities == [0.4, 0.5]
    assert files.load(overrides=[f"{key}=[0.0, 0.7]"]).robust.uncertainty.sparsities == [0.0, 0.7]


def test_an_object_replaces_a_scalar(files):
    config = files.load(at("zero_optimization", 3), at("zero_optimization.stage", 1))
    assert config.deepspeed.zero_optimization.stage == 1


def test_override_values_are_json_or_else_text(files):
    overrides = [
        f"{OURS}.task.name=fever",
        f"{OURS}.cache_dir=/a=b",
        f'{OURS}.evaluation.ood=["a"]',
        'optimizer.params={"lr": 0.1}',
        "wall_clock_breakdown=true",
    ]
    config = files.load(overrides=overrides)
    assert config.robust.task.name == "fever"
    assert config.robust.cache_dir == "/a=b"
    assert config.robust.evaluation.ood == ["a"]
    assert config.deepspeed.optimizer.params.lr == 0.1
    assert config.deepspeed.wall_clock_breakdown is True


def test_defaults(files):
    robust = files.load().robust
    assert (robust.seed, robust.epochs, robust.cache_dir) == (42, 3, None)
    assert (robust.loss.hook, robust.loss.lambda_) == ("rmc", 0.9)
    assert (robust.pruning.curve, robust.pruning.begin, robust.pruning.end) == ("cubic", 0.0, 0.6)
    assert robust.uncertainty.sparsities == [0.2, 0.4, 0.6, 0.7, 0.85]
    assert (robust.uncertainty.alpha, robust.uncertainty.protocol) == (0.5, "trajectory")


def test_lambda_has_its_json_name(files):
    assert files.load(at(f"{OURS}.loss.lambda", 0.25)).robust.loss.lambda_ == 0.25


def test_integers_stand_for_fractions(files):
    assert files.load(at(f"{OURS}.uncertainty.alpha", 1)).robust.uncertainty.alpha == 1.0


def test_merged_json_and_engine_keys(files):
    config = files.load(SPARSE, at("tensorboard.enabled", True), at("bf16.enabled", True))
    assert config.merged == {
        **BASE,
        **SPARSE,
        **at("tensorboard.enabled", True),
        "bf16": {"enabled": True},
    }
    handled_here = {OURS, "compression_training", "tensorboard"}
    assert config.engine == {k: v for k, v in config.merged.items() if k not in handled_here}


def test_all_blocks_together_load(files):
    assert files.load(FULL).deepspeed.bf16.enabled


def test_a_configuration_is_frozen(files):
    config = files.load()
    with pytest.raises(ValueError, match="frozen"):
        config.robust.epochs = 5
    with pytest.raises(AttributeError):
        config.merged = {}


def test_merging_leaves_the_base_alone(files):
    before = copy.deepcopy(BASE)
    files.load(overrides=["zero_optimization.stage=0"])
    assert before == BASE


# ---------------------------------------------------------------------------------------- batch split


@pytest.mark.parametrize(
    ("total", "micro", "accumulation", "world", "expected"),
    [
        (64, None, None, 1, (64, 1)),
        (64, None, None, 4, (16, 1)),
        (64, 8, None, 2, (8, 4)),
        (64, None, 4, 2, (8, 4)),
        (64, 8, 4, 2, (8, 4)),
        (6, None, None, 3, (2, 1)),
        (1, None, None, 1, (1, 1)),
    ],
)
def test_batch_split(files, total, micro, accumulation, world, expected):
    batch = {
        "train_batch_size": total,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
    }
    assert batch_split(files.load(batch), world) == expected


@pytest.mark.parametrize(
    ("total", "micro", "accumulation", "world"),
    [
        (64, None, None, 3),
        (2, None, None, 4),
        (64, 8, 3, 2),
        (64, 7, None, 1),
        (64, 128, None, 1),
        (64, None, 5, 1),
        (64, 64, None, 2),
    ],
)
def test_batch_split_without_solution(files, total, micro, accumulation, world):
    batch = {
        "train_batch_size": total,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
    }
    with pytest.raises(UserError, match=f"train_batch_size is {total}, .*{world} ranks x"):
        batch_split(files.load(batch), world)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    """Editors on Windows write one."""
    files = Files(tmp_path)
    assert files.load("\ufeff" + '{"train_batch_size": 24}').deepspeed.train_batch_size == 24
