"""The sentence for every mistake in a configuration, with its source and key."""

import json

import pytest
from configs import BASE, FULL, OURS, SPARSE, Files, at

from compress.configuration import batch_sizes
from compress.configuration.config import _check_removed, load
from compress.configuration.merge import Merge, override
from compress.errors import UserError

GROUPS = "compression_training.sparse_pruning.different_groups"
SHARED = "compression_training.sparse_pruning.shared_parameters"


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


# ------------------------------------------------------------------------------------------ mistakes

UNKNOWN = [
    ("optimiser", {}, "did you mean 'optimizer'?"),
    ("train_bach_size", 8, "did you mean 'train_batch_size'?"),
    ("zero_optimisation", {"stage": 1}, "did you mean 'zero_optimization'?"),
    ("robust_compresion", {}, "did you mean 'robust_compression'?"),
    ("gradient_acumulation_steps", 2, "did you mean 'gradient_accumulation_steps'?"),
    ("zero_optimization.stag", 1, "did you mean 'stage'?"),
    ("zero_optimization.offload_optimiser", {"device": "cpu"}, "did you mean 'offload_optimizer'?"),
    ("zero_optimization.offload_param.pin_memmory", True, "did you mean 'pin_memory'?"),
    ("optimizer.params.learning_rate", 1e-4, "valid here: betas, eps, fused, lr"),
    ("optimizer.params.weight_decy", 0.1, "did you mean 'weight_decay'?"),
    ("scheduler.params.warmup_steps", 3, "did you mean 'warmup_num_steps'?"),
    ("bf16.enable", True, "did you mean 'enabled'?"),
    ("tensorboard.output", "x", "did you mean 'output_path'?"),
    ("compression_training.sparse_prunning", {}, "did you mean 'sparse_pruning'?"),
    ("compression_training.channel_pruning", {}, "remove the block or disable it"),
    ("compression_training.weight_quantization", {}, "remove the block or disable it"),
    (f"{SHARED}.schedule_ofset", 3, "did you mean 'schedule_offset'?"),
    (f"{GROUPS}.encoder.params.dense_rato", 0.5, "did you mean 'dense_ratio'?"),
    (f"{GROUPS}.encoder.module", ["x"], "did you mean 'modules'?"),
    (f"{OURS}.sed", 1, "did you mean 'seed'?"),
    (f"{OURS}.los", {}, "did you mean 'loss'?"),
    (f"{OURS}.loss.lamda", 0.5, "did you mean 'lambda'?"),
    (f"{OURS}.loss.lambda_", 0.5, "did you mean 'lambda'?"),
    (
        f"{OURS}.loss.xyz",
        2,
        "valid here: bias, calibrate, difficulty, first_epochs, floor, gamma, hook, lambda, ",
    ),
    (f"{OURS}.task.nam", "x", "did you mean 'name'?"),
    (f"{OURS}.task.synthetic.trian", 5, "did you mean 'train'?"),
    (f"{OURS}.uncertainty.alfa", 0.5, "did you mean 'alpha'?"),
    (f"{OURS}.uncertainty.normalization", "minmax", "did you mean 'normalisation'?"),
    (f"{OURS}.pruning.updtes", 3, "did you mean 'updates'?"),
    (f"{OURS}.student.initfrom", "teacher", "did you mean 'init_from'?"),
    (f"{OURS}.evaluation.batchsize", 4, "did you mean 'batch_size'?"),
]
WRONG = [
    ("train_batch_size", "8", "integer"),
    ("train_batch_size", 8.5, "integer"),
    ("train_batch_size", True, "integer"),
    ("train_batch_size", 0, "greater than or equal to 1"),
    ("train_batch_size", "auto", "integer"),
    ("gradient_clipping", -1, "greater than or equal to 0"),
    ("zero_optimization.stage", 4, "less than or equal to 3"),
    ("zero_optimization.stage", -1, "greater than or equal to 0"),
    ("zero_optimization", 2, "valid dictionary"),
    ("zero_optimization.overlap_comm", "yes", "boolean"),
    ("zero_optimization.offload_param.device", "disk", "'cpu'"),
    ("scheduler.params.warmup_num_steps", -1, "greater than or equal to 1"),
    ("optimizer.params.lr", 0, "greater than 0"),
    ("optimizer.params.lr", float("nan"), "finite number"),
    ("optimizer.params.lr", "fast", "number"),
    ("optimizer.params.betas", 0.9, "list"),
    ("communication_data_type", "int8", "'fp16'"),
    ("bf16.enabled", 1, "boolean"),
    ("bf16", True, "valid dictionary"),
    (f"{SHARED}.schedule_offset", -1, "greater than or equal to 0"),
    (f"{SHARED}.method", "snip_momentum", "'l1'"),
    (f"{GROUPS}.encoder.params.dense_ratio", 0, "greater than 0"),
    (f"{GROUPS}.encoder.params.dense_ratio", 1.2, "less than or equal to 1"),
    (f"{GROUPS}.encoder.modules", [], "at least 1"),
    (f"{GROUPS}.encoder.modules", "encoder", "list"),
    (f"{OURS}.epochs", 0, "greater than or equal to 1"),
    (f"{OURS}.epochs", 2.5, "integer"),
    (f"{OURS}.seed", -3, "greater than or equal to 0"),
    (f"{OURS}.model", 5, "string"),
    (f"{OURS}.loss.lambda", 1.5, "less than or equal to 1"),
    (f"{OURS}.loss.lambda", -0.1, "greater than or equal to 0"),
    (f"{OURS}.loss.hook", 3, "string"),
    (f"{OURS}.uncertainty.alpha", 2, "less than or equal to 1"),
    (f"{OURS}.uncertainty.sparsities", [0.5], "at least 2"),
    (f"{OURS}.uncertainty.protocol", "both", "'trajectory' or 'independent'"),
    (f"{OURS}.uncertainty.quantile", 0.0, "greater than 0"),
    (f"{OURS}.pruning.curve", "square", "'cubic' or 'linear'"),
    (f"{OURS}.pruning.end", 1.5, "less than or equal to 1"),
    (f"{OURS}.pruning.updates", 0, "greater than or equal to 1"),
    (f"{OURS}.task.max_length", 4, "greater than or equal to 8"),
    (f"{OURS}.task.data_dir", "", "at least 1 character"),
    (f"{OURS}.task.ood_dir", "", "at least 1 character"),
    (f"{OURS}.task.synthetic.conflicting", 1.0, "less than 1"),
    (f"{OURS}.evaluation.ood", "hans", "list"),
    (f"{OURS}.student.init_from", "scratch", "'pretrained' or 'teacher'"),
]


def refused(files, path, value, by_override):
    """Give the sentence about `value` at `path`, which names the file or the override it came from."""
    override = f"{path}={json.dumps(value)}"
    parts = [FULL] if by_override else [FULL, at(path, value)]
    sentence, file = files.refused(*parts, overrides=[override] if by_override else [])
    assert sentence.startswith(f"--set {override}: " if by_override else f"{file}: ")
    return sentence


@pytest.mark.parametrize("by_override", [False, True], ids=["file", "set"])
@pytest.mark.parametrize(("path", "value", "hint"), UNKNOWN, ids=[case[0] for case in UNKNOWN])
def test_unknown_key(files, path, value, hint, by_override):
    sentence = refused(files, path, value, by_override)
    assert f"'{path}' is not a key" in sentence and hint in sentence


def test_further_unknown_keys_are_named_too(files):
    wrong = {"optimiser": {}, "bf16": {"enable": True}, **{f"key{n}": n for n in range(9)}}
    sentence, _ = files.refused(FULL, wrong)
    assert sentence.count("is not a key that takes effect") == 1
    assert "Without effect too: " in sentence and sentence.endswith(" and 2 more.")
    named = sentence.split("Without effect too: ")[1]
    assert "'bf16.enable'" in sentence and named.count("'") == 2 * 8


@pytest.mark.parametrize(
    ("block", "wrong", "right"),
    [("row_pruning", "l1", "'topk' or 'importance'"), ("sparse_pruning", "snip_momentum", "'l1'")],
)
def test_methods_of_the_library_that_are_not_offered(files, block, wrong, right):
    shared = {"shared_parameters": {"enabled": True, "method": wrong}}
    sentence, _ = files.refused(FULL, at(f"compression_training.{block}", shared))
    assert f"but: input should be {right}" in sentence
    assert wrong in sentence.split("(")[1] and "not offered" in sentence


def test_a_key_of_another_method(files):
    sentence, file = files.refused(FULL, at(f"{SHARED}.method", "topk"), at(f"{SHARED}.pattern", "2:4"))
    assert sentence == f"{file}: '{SHARED}.pattern' has no effect with method \"topk\"; remove it."


@pytest.mark.parametrize("by_override", [False, True], ids=["file", "set"])
@pytest.mark.parametrize(
    ("path", "value", "hint"), WRONG, ids=[f"{case[0]}={case[1]}" for case in WRONG]
)
def test_wrong_value(files, path, value, hint, by_override):
    sentence = refused(files, path, value, by_override)
    assert f"'{path}' is " in sentence and hint in sentence


@pytest.mark.parametrize("key", ["train", "dev", "label", "ood.x.file", "ood.x.label"])
def test_no_name_in_a_definition_is_empty(files, key):
    definition = {"texts": ["a", "b"], "labels": ["x", "y"]}
    path = f"{OURS}.task.definition"
    sentence, file = files.refused(at(path, definition), at(f"{path}.{key}", ""))
    assert sentence.startswith(f"{file}: '{path}.{key}' is \"\"") and "1 character" in sentence


@pytest.mark.parametrize("sparsity", [1.0, 1.5, -0.1])
def test_sparsity_outside_its_range_names_the_entry(files, sparsity):
    path = f"{OURS}.uncertainty.sparsities"
    sentence, file = files.refused(at(path, [0.2, sparsity]))
    assert sentence.startswith(f"{file}: '{path}.1' is {sparsity}, but: ")


def test_the_source_is_the_file_with_the_mistake(files):
    mistake = files.write(at(f"{OURS}.epochs", 0))
    later = files.write(at(f"{OURS}.seed", 3))
    with pytest.raises(UserError) as error:
        load([files.write(BASE), mistake, later], [f"{OURS}.seed=4"])
    assert str(error.value).startswith(f"{mistake}: '{OURS}.epochs' is 0")


def test_a_mistake_mended_later_is_none(files):
    assert files.load(at(f"{OURS}.epochs", 0), at(f"{OURS}.epochs", 2)).robust.epochs == 2
    assert files.load(at("optimiser", {"x": 1}), at("optimiser", None)).robust.epochs == 3


@pytest.mark.parametrize(
    "path",
    ["optimizer", "train_batch_size", "robust_compression", "optimizer.params.lr", f"{OURS}.task"],
)
def test_missing_key(files, path):
    sentence, file = files.refused(at(path, None))
    assert sentence.startswith(f"{file}: the key '{path}' is missing")


def test_a_key_that_no_file_gives_is_blamed_on_none(tmp_path):
    files = Files(tmp_path)
    parts = [{k: v for k, v in BASE.items() if k != OURS}, {OURS: {"task": {"name": "mnli"}}}]
    parts.append(at(f"{OURS}.loss.hook", "rmc"))
    written = [files.write(part) for part in parts]
    with pytest.raises(UserError) as error:
        load(written, [f"{OURS}.seed=1"])
    places = f"{written[1]}, {written[2]}, --set {OURS}.seed=1"
    assert places in str(error.value) and f"'{OURS}.model'" in str(error.value)


def test_nothing_given_at_all():
    with pytest.raises(UserError, match="the key 'train_batch_size' is missing"):
        load([])


@pytest.mark.parametrize(
    ("path", "value", "valid"),
    [("optimizer.type", "adam", "'AdamW'"), ("scheduler.type", "warmuplr", "'WarmupDecayLR'")],
)
def test_valid_names_are_given_as_they_are_spelt(files, path, value, valid):
    sentence, _ = files.refused(at("scheduler", {"params": {}}), at(path, value))
    assert valid in sentence


def test_wrong_value_of_a_choice_between_types(files):
    scheduler = {"type": "WarmupLR", "params": {"warmup_max_lr": {}}}
    sentence, file = files.refused(at("scheduler", scheduler))
    assert sentence.startswith(f"{file}: 'scheduler.params.warmup_max_lr' is ")


@pytest.mark.parametrize("path", ["optimizer.params.lr", "gradient_clipping"])
def test_infinity_is_no_setting(files, path):
    files.refused(overrides=[f"{path}=Infinity"])


@pytest.mark.parametrize("micro", [float("inf"), 2.5, 0, True])
def test_a_micro_batch_that_is_no_number_of_samples_is_left_to_the_validation(micro):
    values = {"train_micro_batch_size_per_gpu": micro}
    batch_sizes.complete(values, {}, ranks=2)
    assert values == {"train_micro_batch_size_per_gpu": micro}


# -------------------------------------------------------------------------------- unreadable sources


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b'{"a": 1,\n "b": }', "is not valid JSON (line 2, column 7"),
        (b"", "is not valid JSON (line 1, column 1"),
        (b'{"a": 1} x', "is not valid JSON (line 1"),
        (b"{'a': 1}", "is not valid JSON (line 1"),
        (b'{"x": "\xff"}', "is not UTF-8 text"),
        (b"[1, 2]", "must hold a JSON object"),
        (b"null", "must hold a JSON object"),
        (
            b'{"train_batch_size": 8, "bf16": null, "train_batch_size": 9}',
            "'train_batch_size' stands twice",
        ),
        (b'{"bf16": {"enabled": true, "enabled": false}}', "'enabled' stands twice"),
    ],
)
def test_file_that_is_no_configuration(tmp_path, content, hint):
    file = tmp_path / "broken.json"
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        load([file])
    assert str(error.value).startswith(f"{file}: ") and hint in str(error.value)


@pytest.mark.parametrize("name", ["nowhere.json", "."])
def test_file_that_cannot_be_read(tmp_path, name):
    with pytest.raises(UserError, match="cannot be read") as error:
        load([tmp_path / name])
    assert str(error.value).startswith(str(tmp_path / name))


def test_the_same_key_in_two_objects_is_fine(files):
    assert files.load({"bf16": {"enabled": False}, "fp16": {"enabled": False}}).deepspeed.fp16


@pytest.mark.parametrize("override", ["", "a.b", "=3", "a..b=3", ".a=3", "a.=3"])
def test_override_without_form(files, override):
    sentence, _ = files.refused(overrides=[override])
    assert sentence.startswith(f"--set {override}: ") and "a.b.c=value" in sentence


# -------------------------------------------------------------------- settings that exclude each other


@pytest.mark.parametrize(
    ("settings", "key", "hint"),
    [
        ([("loss", {"hook": "vanilla", "lambda": 0.9})], "loss.lambda", "'vanilla'"),
        ([("uncertainty.quantile", 0.9)], "uncertainty.quantile", "'quantile'"),
        ([("teacher", {"model": "x", "epochs": 2})], "teacher.epochs", "not trained"),
        ([("pruning.end", 0.5)], "pruning", "no sparse_pruning is enabled"),
        ([("task.name", "mnli"), ("task.synthetic.seed", 1)], "task.synthetic", "'synthetic' only"),
        ([("task.data_dir", "/somewhere")], "task.data_dir", "makes its own data"),
        ([("uncertainty.sparsities", [0.2, 0.2])], "uncertainty.sparsities", "must increase"),
        ([("uncertainty.sparsities", [0.5, 0.4])], "uncertainty.sparsities", "must increase"),
    ],
)
def test_settings_without_effect(files, settings, key, hint):
    sentence, file = files.refused(*[at(f"{OURS}.{path}", value) for path, value in settings])
    assert sentence.startswith(f"{file}: '{OURS}.{key}' ") and hint in sentence


@pytest.mark.parametrize(
    "settings",
    [
        [("loss", {"hook": "vanilla"})],
        [("loss", {"hook": "vanilla", "lambda": 0.9}), ("loss.lambda", None)],
        [("loss", {"hook": "distil", "lambda": 0.9})],
        [("uncertainty", {"quantile": 0.9, "normalisation": "quantile"})],
        [("teacher.model", "x")],
        [("teacher.epochs", 2)],
        [("task", {"name": "mnli", "data_dir": "/somewhere"})],
        [("task.synthetic.seed", 1)],
        [("uncertainty.sparsities", [0.0, 0.99])],
    ],
)
def test_the_same_settings_where_they_have_one(files, settings):
    assert files.load(*[at(f"{OURS}.{path}", value) for path, value in settings])


def test_pruning_schedule_in_fractions_or_steps(files):
    assert files.load(SPARSE, at(f"{OURS}.pruning.end", 0.5)).robust.pruning.end == 0.5
    assert files.load(SPARSE, at(f"{SHARED}.schedule_offset_end", 50))
    for name, twin in {"": "begin", "_end": "end", "_stride": "updates"}.items():
        step, ours = f"{SHARED}.schedule_offset{name}", f"{OURS}.pruning.{twin}"
        sentence, file = files.refused(SPARSE, at(step, 1), at(ours, 1))
        assert sentence.startswith(f"{file}: '{ours}' contradicts")
        assert f"schedule_offset{name};" in sentence


def test_pruning_that_is_switched_off(files):
    off = at(f"{SHARED}.enabled", False)
    sentence, file = files.refused(SPARSE, off, at(f"{OURS}.pruning.end", 0.5))
    assert sentence.startswith(f"{file}: '{OURS}.pruning' has no effect")


def test_schedules_that_end_before_they_begin(files):
    sentence, file = files.refused(SPARSE, at(f"{OURS}.pruning", {"begin": 0.5, "end": 0.4}))
    assert sentence.startswith(f"{file}: '{OURS}.pruning.begin' ") and "pruning.end" in sentence
    assert files.load(SPARSE, at(f"{OURS}.pruning", {"begin": 0.4, "end": 0.4}))
    steps = {"enabled": True, "schedule_offset": 9, "schedule_offset_end": 8}
    sentence, file = files.refused(SPARSE, at(SHARED, steps))
    assert sentence.startswith(f"{file}: '{SHARED}.schedule_offset' ")
    assert "schedule_offset_end" in sentence


def test_two_half_precisions(files):
    sentence, file = files.refused(at("bf16.enabled", True), at("fp16.enabled", True))
    assert sentence.startswith(f"{file}: ") and "'fp16' and bf16" in sentence
    assert files.load(at("bf16.enabled", True), at("fp16.enabled", False))


@pytest.mark.parametrize("by_override", [False, True])
@pytest.mark.parametrize(
    ("path", "value", "hint"), [row for row in UNKNOWN if row[0] != f"{OURS}.loss.xyz"]
)
def test_an_unknown_key_is_refused_with_null_too(files, path, value, hint, by_override):
    sources = {"overrides": [f"{path}=null"]} if by_override else {}
    with pytest.raises(UserError) as caught:
        files.load(*([FULL] if by_override else [FULL, at(path, None)]), **sources)
    sentence = str(caught.value)
    assert sentence.startswith(f"--set {path}=null: " if by_override else str(files.folder))
    assert f"'{path}' is not a key that takes effect" in sentence
    if "did you mean" in hint:
        assert hint in sentence


def test_an_unknown_key_with_null_below_others(files):
    for path, key in (
        ("robust_compresion.task.name", "robust_compresion"),
        (f"{OURS}.task.nmae.first", f"{OURS}.task.nmae"),
        (f"{OURS}.seed.first", f"{OURS}.seed.first"),
        ("epochs", "epochs"),
    ):
        with pytest.raises(UserError, match=f"'{key}' is not a key that takes effect"):
            files.load(overrides=[f"{path}=null"])


@pytest.mark.parametrize(
    "path",
    [
        *("bf16", "tensorboard.enabled", "scheduler.params.total_num_steps", "compression_training"),
        *(
            f"{OURS}.{key}"
            for key in ("epochs", "loss", "loss.lambda", "loss.gamma", "layerwise.hidden")
        ),
        *(f"{OURS}.task.{key}" for key in ("max_length", "definition.labels", "definition.ood.x.file")),
        *(f"{SHARED}.method", f"{SHARED}.schedule_offset", f"{GROUPS}.any", f"{GROUPS}.encoder.params"),
    ],
)
def test_null_at_any_key_that_is_one_is_accepted(path):
    merge = Merge()
    merge.add(override(f"{path}=null"), "--set")
    assert merge.removed == {tuple(path.split(".")): "--set"}
    _check_removed(merge)
