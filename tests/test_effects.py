"""Settings without effect are refused, each with its source and key."""

import json

import pytest

from compress.configuration.config import load
from compress.errors import UserError
from compress.models import directories

BASE = {
    "train_batch_size": 8,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},
    "zero_optimization": {"stage": 2},
    "robust_compression": {
        "task": {"name": "mnli"},
        "model": "some-encoder",
        "loss": {"hook": "rmc"},
    },
}
SPARSE = (
    'compression_training={"sparse_pruning": {"shared_parameters": {"enabled": true}, '
    '"different_groups": {"g": {"params": {"dense_ratio": 0.5}, "modules": ["encoder"]}}}}'
)
REFUSED = [
    ("zero_optimization.stage3_max_live_parameters=10", "under ZeRO stage 2"),
    ('zero_optimization={"stage": 0, "offload_optimizer": {"device": "cpu"}}', "under ZeRO stage 0"),
    ('zero_optimization.offload_param={"device": "cpu"}', "under ZeRO stage 2"),
    ('fp16={"enabled": false, "loss_scale": 8}', "while fp16.enabled is false"),
    ('torch_autocast={"enabled": false, "dtype": "bfloat16"}', "while torch_autocast.enabled"),
    ('robust_compression.pruning={"end": 0.5}', "no sparse_pruning is enabled"),
    ('robust_compression.task.synthetic={"seed": 1}', "for the task 'synthetic' only"),
    ("robust_compression.layerwise.layer_map=[[0, 0]]", "layerwise.attention are 0"),
    ("robust_compression.uncertainty.alpha_candidates=[0.1, 0.2]", "only with alpha 'auto'"),
    ("robust_compression.loss.gamma=1", "with focal"),
    ("robust_compression.loss.smoothing=1", "with smooth"),
    ("robust_compression.loss.floor=0.1", "with rmc_plus"),
    ("robust_compression.loss.warmup=0.1", "with jtt, poe, rmc_plus, rmc_weighted, weighted"),
    ("robust_compression.loss.max_weight=2", "with jtt, rmc_plus"),
    ("robust_compression.loss.first_epochs=2", "with jtt"),
    (
        'robust_compression.loss={"hook": "distil", "difficulty": "shallow"}',
        "with rmc, rmc_plus",
    ),
    ('robust_compression.loss={"hook": "rmc", "bias": "weak"}', "with confidence, poe"),
    ("robust_compression.loss.plain_weight=1", "with poe"),
    ("robust_compression.loss.calibrate=true", "with confidence, poe"),
    (
        "robust_compression.teacher.loss.hook=rmc",
        "cannot be 'rmc'; a teacher is trained with focal, poe",
    ),
    ("robust_compression.teacher.loss.hook=poee", "cannot be 'poee'; a teacher is trained with focal"),
    ("robust_compression.teacher.loss.hook=own:loss", "cannot be a function of your own; a teacher is"),
    (
        "robust_compression.teacher.loss.bias=weak",
        "has no effect without teacher.loss.hook; choose a loss, such as poe",
    ),
    ('robust_compression.teacher.loss={"hook": "vanilla", "bias": "weak"}', "it has one with poe."),
    (
        'robust_compression.teacher={"model": "given", "loss": {"hook": "poe"}}',
        "teacher.model is given and not trained",
    ),
    ("robust_compression.uncertainty.quantile=0.9", "'minmax'"),
    ("robust_compression.cache_dir=", "at least 1 character"),
    ('robust_compression.evaluation.ood=["hans", "x", "hans"]', 'names "hans" twice'),
]


@pytest.fixture
def base(tmp_path):
    file = tmp_path / "base.json"
    file.write_text(json.dumps(BASE))
    return file


@pytest.mark.parametrize(("override", "why"), REFUSED)
def test_refused(base, override, why):
    with pytest.raises(UserError) as error:
        load([base], [override])
    assert str(error.value).startswith(f"--set {override}: '{override.partition('=')[0]}")
    assert why in str(error.value)


@pytest.mark.parametrize(
    "override",
    [
        'zero_optimization={"stage": 3, "stage3_max_live_parameters": 10}',
        'zero_optimization={"stage": 1, "offload_optimizer": {"device": "cpu"}}',
        'fp16={"enabled": true, "loss_scale": 8}',
        'robust_compression.layerwise={"hidden": 1, "layer_map": [[0, 0]]}',
        'robust_compression.layerwise={"attention": 0.5, "layer_map": [[0, 0]]}',
        'robust_compression.uncertainty={"alpha": "auto", "alpha_candidates": [0.1, 0.2]}',
        'robust_compression.loss={"hook": "focal", "gamma": 0}',
        'robust_compression.loss={"hook": "smooth", "smoothing": 0.5, "lambda": 0.5}',
        'robust_compression.loss={"hook": "jtt", "first_epochs": 2, "upweight": 3, "max_weight": 2}',
        'robust_compression.loss={"hook": "rmc_plus", "floor": 0.1, "warmup": 0.1}',
        'robust_compression.loss={"hook": "weighted", "difficulty": "shallow"}',
        'robust_compression.loss={"hook": "mine:loss", "gamma": 1, "floor": 0.1, "lambda": 0.1}',
    ],
)
def test_taken_where_it_has_an_effect(base, override):
    load([base], [override])


@pytest.mark.parametrize(
    "value",
    [
        '{"hidden": -1}',
        '{"hidden": 1, "layer_map": [[0]]}',
        '{"hidden": 1, "layer_map": []}',
        '{"hidden": 1, "layer_map": [[0, -1]]}',
        '{"hiden": 1}',
    ],
)
def test_layerwise_values_out_of_range(base, value):
    with pytest.raises(UserError, match=r"'robust_compression\.layerwise\."):
        load([base], [f"robust_compression.layerwise={value}"])


def heads(method="importance", params='{"dense_ratio": 0.5}'):
    return (
        'compression_training.head_pruning={"shared_parameters": {"enabled": true, '
        f'"method": "{method}"}}, "different_groups": {{"g": {{"params": {params}, '
        '"modules": ["out"]}}}'
    )


ROWS = (
    'compression_training.row_pruning={"shared_parameters": {"enabled": true}, '
    '"different_groups": {"g": {"params": {"dense_ratio": 0.5}, "modules": ["in"]}}}'
)
TOPK = "compression_training.sparse_pruning.shared_parameters.method=topk"


@pytest.mark.parametrize(
    ("given", "override", "why"),
    [
        ([SPARSE], "structured.end=0.5", "head_pruning or row_pruning"),
        ([heads("topk")], "structured.rounds=2", "importance"),
        ([heads("topk")], "structured.samples=9", "importance"),
        ([heads(params='{"pruned_heads": [1]}')], "structured.rounds=2", "importance"),
        ([heads("topk")], "structured.even=true", "no heads are chosen by importance"),
        ([heads(params='{"pruned_heads": [1]}')], "structured.even=true", "no heads are chosen"),
        ([ROWS], "structured.even=true", "no heads are chosen by importance"),
        ([heads()], "structured.multiple_of=8", "no row_pruning"),
        ([heads()], "structured.begin=0.1", "one round"),
        ([heads(params='{"pruned_heads": [1]}')], "structured.begin=0.1", "one round"),
        ([heads(), ROWS], "score_lr=0.1", "scores"),
        ([SPARSE, TOPK], "pruning.updates=3", "refreshed at every step"),
        ([], 'student={"model": "m", "init_from": "teacher"}', "student.model"),
    ],
)
def test_schedules_that_nothing_takes_up(base, given, override, why):
    with pytest.raises(UserError) as error:
        load([base], [*given, f"robust_compression.{override}"])
    assert "has no effect: " in str(error.value) and why in str(error.value)


def test_all_settings_without_effect_are_named_at_once(base):
    """Each once, though some break several rules: with `heads()` alone, in one round."""
    given = ("structured.begin=0.1", "score_lr=0.1", "pruning.updates=3")
    with pytest.raises(UserError) as error:
        load([base], [heads(), *(f"robust_compression.{one}" for one in given)])
    first, others = str(error.value).split(" To be changed too: ")
    assert first.count("'robust_compression.") == 1 and first.endswith(".") and "has no effect" in first
    named = {first.split("'")[1], *(key.strip("'") for key in others.removesuffix(".").split(", "))}
    parts = {"pruning", "structured.begin", "score_lr"}  # the block has none, so its keys have none
    assert named == {f"robust_compression.{part}" for part in parts}
    with pytest.raises(UserError) as error:
        load([base], [heads(), "robust_compression.structured.begin=0.1"])
    assert "To be changed too" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "override"),
    [
        ([heads()], 'structured={"begin": 0.1, "rounds": 3, "samples": 9}'),
        ([heads()], "structured.even=true"),
        ([heads("topk")], 'structured={"begin": 0.1}'),
        ([ROWS], "structured.multiple_of=8"),
        ([heads("topk")], "score_lr=0.1"),
        ([SPARSE, TOPK], "score_lr=0.1"),
    ],
)
def test_schedules_that_are_taken_up(base, given, override):
    load([base], [*given, f"robust_compression.{override}"])


def test_a_stride_of_learned_scores_is_refused(base):
    stride = "compression_training.sparse_pruning.shared_parameters.schedule_offset_stride=5"
    with pytest.raises(UserError, match="schedule_offset_stride' has no effect"):
        load([base], [SPARSE, TOPK, stride])


@pytest.mark.parametrize("technique", ["head_pruning", "row_pruning"])
def test_steps_and_fractions_of_heads_and_rows(base, technique):
    given = heads() if technique == "head_pruning" else ROWS
    steps = f"compression_training.{technique}.shared_parameters.schedule_offset_end=5"
    with pytest.raises(UserError, match=r"structured.end' contradicts"):
        load([base], [given, steps, "robust_compression.structured.end=0.4"])


def test_the_first_step_of_a_single_round_is_refused(base):
    """Everything goes at its end, so that the beginning would be silently ignored."""
    shared = "compression_training.row_pruning.shared_parameters"
    steps = [f"{shared}.schedule_offset=2", f"{shared}.schedule_offset_end=4"]
    with pytest.raises(UserError, match=r"schedule_offset' has no effect beside schedule_offset_end"):
        load([base], [ROWS, *steps])
    for taken in (steps[:1], steps[1:], [*steps, "robust_compression.structured.rounds=2"]):
        load([base], [ROWS, *taken])
    load([base], [ROWS, *steps, f"{shared}.method=topk"])
    load([base], [ROWS, steps[0], f"{shared}.schedule_offset_end=2"])


def test_steps_of_a_disabled_block_contradict_nothing(base):
    """DeepSpeed's examples hold every block, most of them disabled, with an offset."""
    shared = "compression_training.row_pruning.shared_parameters"
    disabled = [ROWS, f"{shared}.enabled=false", f"{shared}.schedule_offset=5"]
    rounds = ["robust_compression.structured.rounds=2", "robust_compression.structured.begin=0.1"]
    load([base], [heads(), *disabled, *rounds])


def test_steps_and_fractions_exclude_each_other(base):
    steps = "compression_training.sparse_pruning.shared_parameters.schedule_offset_end=5"
    load([base], [SPARSE, steps])
    load([base], [SPARSE, "robust_compression.pruning.end=0.5"])
    with pytest.raises(UserError, match="contradicts compression_training's schedule_offset_end"):
        load([base], [SPARSE, steps, "robust_compression.pruning.end=0.5"])


def test_another_scheduler_names_its_own_keys(base):
    scheduler = 'scheduler={"type": "WarmupLR", "params": {"total_num_steps": 3}}'
    with pytest.raises(UserError, match=r"total_num_steps' is not a key.*'warmup_num_steps'"):
        load([base], [scheduler])


def test_an_unknown_key_called_type(base):
    with pytest.raises(UserError, match=r"'tensorboard\.type' is not a key"):
        load([base], ['tensorboard={"enabled": true, "type": "x"}'])


def test_a_keyword_that_is_no_regular_expression(base):
    broken = SPARSE.replace('"encoder"', '"("')
    with pytest.raises(UserError, match="not a regular expression"):
        load([base], [broken])


OFFLOAD = '"offload_optimizer": {"device": "%s"%s}'
NVME = OFFLOAD % ("nvme", ', "nvme_path": "/tmp"')
HELD = [
    ([f'zero_optimization={{"stage": 3, {NVME}}}'], "offload_optimizer.device", "cannot be reached"),
    (
        ['zero_optimization={"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/tmp"}}'],
        "offload_param.device",
        "cannot be reached",
    ),
    (
        [f'zero_optimization={{"stage": 2, {OFFLOAD % ("cpu", "")}}}', "gradient_clipping=1.0"],
        "gradient_clipping",
        "counts pruned weights",
    ),
]


@pytest.mark.parametrize(("overrides", "key", "why"), HELD)
def test_what_puts_zeroed_weights_out_of_reach_is_refused(base, overrides, key, why):
    with pytest.raises(UserError, match=why) as error:
        load([base], [*overrides, SPARSE])
    assert key in str(error.value)
    load([base], [*overrides, "robust_compression.loss.hook=vanilla"])  # nothing is held at 0


def test_offload_to_the_cpu_is_taken_where_it_can_be_reached(base):
    zero3 = f'zero_optimization={{"stage": 3, {OFFLOAD % ("cpu", "")}}}'
    load([base], [zero3, "gradient_clipping=1.0", SPARSE])
    load([base], [zero3.replace("3", "2"), SPARSE])


def test_masks_without_anything_to_mask_are_refused(base):
    with pytest.raises(UserError, match="nothing is pruned"):
        load([base], ["robust_compression.loss.hook=vanilla", "robust_compression.masks=native"])
    load([base], ["robust_compression.masks=native"])  # the difficulty of rmc prunes


def test_alpha_candidates_that_are_tried_twice(base):
    alpha = "robust_compression.uncertainty.alpha=auto"
    with pytest.raises(UserError, match=r"alpha_candidates' names 0\.5 twice"):
        load([base], [alpha, "robust_compression.uncertainty.alpha_candidates=[0.2, 0.5, 0.5]"])


OWN = [f"robust_compression.{name}.epochs=2" for name in ("teacher", "student", "uncertainty")]
SCORED = "robust_compression.teacher.model=other"


@pytest.mark.parametrize("own", [OWN, [SCORED, *OWN[1:]]], ids=["trained", "given teacher"])
def test_epochs_that_every_training_replaces(base, own):
    epochs = "robust_compression.epochs=4"
    with pytest.raises(UserError, match=r"^--set robust_compression.epochs=4: .*student\.epochs and"):
        load([base], [*own, epochs])
    for left in range(len(own)):
        if own[left] != SCORED:
            load([base], [epochs, *own[:left], *own[left + 1 :]])


def test_the_epochs_of_a_task_may_be_replaced(base, tmp_path):
    """As with everything that a later file gives; and config.json of that run can be given again."""
    file = tmp_path / "task.json"
    file.write_text(json.dumps({"robust_compression": {"epochs": 4}}))
    config = load([base, file], OWN)
    assert config.robust.epochs == 4
    file.write_text(json.dumps(config.merged))
    assert load([file]).robust == config.robust


def test_alpha_of_a_task_may_stand_beside_a_loss_without_difficulty(base):
    overrides = ["robust_compression.loss.hook=vanilla", "robust_compression.uncertainty.alpha=0.3"]
    assert load([base], overrides).robust.uncertainty.alpha == 0.3


@pytest.mark.parametrize("name", ["bert@", "@x", "@"])
def test_half_a_revision(name):
    with pytest.raises(UserError, match=f"model: '{name}' is no id on the hub; .* id@revision"):
        directories.local(name, "robust_compression.model")
    assert directories.local("bert@x", "robust_compression.model") is None
