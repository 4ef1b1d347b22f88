"""Every key of the configuration changes the key of a stage, or is declared to change none."""

import ast
import types
from copy import deepcopy

import pytest
from configs import BASE, ROOT, SPARSE
from example_values import ALONE, leaves, other, typed
from stage_runs import run_of

from compress import method_code
from compress.configuration import used_keys
from compress.configuration.config import build
from compress.configuration.robust_schema import Root
from compress.files import artefacts, ownership
from compress.models import encoders, label_order
from compress.stages import stage, student
from compress.stages.alpha import Alpha
from compress.stages.difficulty import Difficulty
from compress.stages.onnx import Int8Scores
from compress.stages.partial_encoder import PartialEncoder
from compress.stages.partial_input import PartialInput
from compress.stages.scores import Scores
from compress.stages.shallow import Shallow
from compress.stages.student import Student
from compress.stages.teacher import Teacher
from compress.stages.tokenised import Tokens
from compress.stages.weak import Weak

OURS = "robust_compression"
STAGES = {
    "teacher": Teacher(),
    "difficulty": Difficulty(),
    "student": Student(),
    "alpha": Alpha(),
    "shallow": Shallow(),
    "weak": Weak(),
    "partial_encoder": PartialEncoder(),
    "partial_input": PartialInput(),
    "teacher scores": Scores("teacher"),
    "student scores": Scores("student"),
    "int8 scores": Int8Scores(),
}
STUDENT = {"student", "alpha", "student scores", "int8 scores"}
TRAINED = {*STUDENT, "teacher", "teacher scores", "difficulty"}
EVERY = {*TRAINED, "weak", "partial_encoder"}
CHANGES = {
    "optimizer.params.lr": EVERY,
    "scheduler.params.warmup_num_steps": EVERY,
    "gradient_clipping": EVERY,
    "train_batch_size": EVERY,
    "communication_data_type": EVERY,
    f"{OURS}.seed": EVERY,
    f"{OURS}.epochs": TRAINED,
    f"{OURS}.task.max_length": EVERY,
    f"{OURS}.teacher.epochs": {*STUDENT, "teacher", "teacher scores"},
    f"{OURS}.uncertainty.sparsities": {*STUDENT, "difficulty"},
    f"{OURS}.uncertainty.epochs": {*STUDENT, "difficulty"},
    f"{OURS}.uncertainty.alpha": {"student", "student scores", "int8 scores"},
    f"{OURS}.uncertainty.alpha_candidates": {"alpha"},
    f"{OURS}.student.epochs": STUDENT,
    f"{OURS}.pruning.end": STUDENT,
    f"{OURS}.loss.lambda": STUDENT,
    f"{OURS}.teacher.loss.gamma": {*STUDENT, "teacher", "teacher scores"},
    "compression_training.sparse_pruning.different_groups.x.params.dense_ratio": STUDENT,
}
"""Key -> all stages whose keys it changes, for those that are worth saying."""
OTHERS = {
    "torch_autocast.dtype": "float16",
    "optimizer.params.betas": [0.8, 0.9],
    f"{OURS}.uncertainty.sparsities": [0.1, 0.3],
    f"{OURS}.uncertainty.alpha_candidates": [0.1, 0.6],
    f"{OURS}.layerwise.layer_map": [[0, 1]],
    f"{OURS}.student.model": "another",
}
"""Another value for a key, where none can be made from its type."""
CASES = [pytest.param(*case, id=case[0]) for case in leaves(Root)]


def put(values, key, value):
    *path, last = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
    values[last] = value


def at(values, key):
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


@pytest.fixture(scope="module")
def keys_of(tiny_model):
    """Function (merged configuration, **changes of the run) -> the key of each stage by name."""

    def find(merged, **changes):
        run = run_of(build(merged, {}), tiny_model, **changes)
        return {name: stage.key_of(one, run) for name, one in STAGES.items()}

    with pytest.MonkeyPatch.context() as patch:  # reads a file, which takes most of the time
        patch.setattr(encoders, "find_labels", lambda *_: label_order.Order((0, 1), 2))
        yield find


def changed(before, after):
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(("key", "info", "needed"), CASES)
def test_a_key_changes_a_stage_or_is_declared_to_change_none(keys_of, key, info, needed):
    merged = deepcopy(BASE)
    for where, values, chosen in needed:
        there = at(merged, where) or {}
        put(merged, where, values if chosen and not values.items() <= there.items() else values | there)
    now, after = at(merged, key), deepcopy(merged)
    value = OTHERS.get(key) or other(typed(info), info.default if now is None else now)
    if key.rpartition(".")[2] in ALONE:
        put(after, key.rpartition(".")[0], {})
    put(after, key, value)
    assert value is not None, f"give another value for {key} in OTHERS"
    content = any(key.startswith(name) for name in used_keys.CONTENT)
    if content and key != f"{OURS}.task.max_length":
        read = {name for one in STAGES.values() for name in one.reads(build(merged, {}))}
        assert any(f"{key}.".startswith(f"{name}.") for name in read)
        return
    found = changed(keys_of(merged), keys_of(after))
    assert bool(found) != used_keys.without_effect(key), (
        f"{key} changes the keys of {found or 'no stage'}"
    )
    assert key not in CHANGES or found == CHANGES[key]


def test_another_of_several_blocks_is_another_key(keys_of):
    schedules = [{"type": f"Warmup{kind}LR", "params": {}} for kind in ("", "Cosine")]
    schedules[1]["params"]["total_num_steps"] = "auto"
    without, *found = [keys_of(BASE | extra) for extra in ({}, *({"scheduler": s} for s in schedules))]
    assert changed(*found) == changed(without, found[0]) == EVERY
    losses = [
        keys_of(BASE | {OURS: BASE[OURS] | {"loss": {"hook": hook}}}) for hook in ("rmc", "distil")
    ]
    assert changed(*losses) == STUDENT


def test_the_table_names_keys_that_there_are():
    names = {case.values[0] for case in CASES}
    assert CHANGES.keys() | OTHERS.keys() <= names
    assert all(any(f"{n}.".startswith(f"{key}.") for n in names) for key in used_keys.WITHOUT_EFFECT)


@pytest.mark.parametrize(
    ("part", "stages"),
    [
        ("train", {*EVERY, "shallow", "partial_input"}),
        ("dev", {*STUDENT, "difficulty", "teacher scores", "partial_input"}),
        ("ood", {"teacher scores", "student scores", "int8 scores"}),
    ],
)
def test_other_data_change_the_stages_that_see_them(keys_of, part, stages):
    assert changed(keys_of(BASE), keys_of(BASE, words={part: ("seven", "eight")})) == stages


@pytest.mark.parametrize(("keep", "depends"), [("last", False), ("best_dev", True)])
def test_a_student_chosen_by_dev_depends_on_the_content_of_dev(keys_of, keep, depends):
    """Its loss uses no difficulty, which depends on dev in any case."""
    merged = deepcopy(BASE)
    put(merged, f"{OURS}.loss.hook", "vanilla")
    put(merged, f"{OURS}.student.keep", keep)
    other = keys_of(merged, words={"dev": ("seven", "eight")})
    assert ("student" in changed(keys_of(merged), other)) == depends


def test_another_encoder_changes_what_is_trained(keys_of):
    merged = deepcopy(BASE)
    put(merged, f"{OURS}.model", "another")
    assert changed(keys_of(BASE), keys_of(merged)) == EVERY
    merged = deepcopy(BASE)
    put(merged, f"{OURS}.student.model", "another")
    assert changed(keys_of(BASE), keys_of(merged)) == STUDENT


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((f"{OURS}.{block}.epochs", 3) for block in ("teacher", "student", "uncertainty")),
        (f"{OURS}.uncertainty.alpha", 0.5),
        ("gradient_clipping", None),
        ("optimizer.params.weight_decay", 0),
        ("bf16", {"enabled": False}),
        (f"{OURS}.student", {"init_from": "pretrained"}),
    ],
)
def test_a_default_that_is_written_changes_nothing(keys_of, key, value):
    merged = deepcopy(BASE)
    put(merged, key, value)
    assert not changed(keys_of(BASE), keys_of(merged))


@pytest.mark.parametrize("key", ["alpha", "normalisation", "sparsities"])
def test_settings_of_a_difficulty_that_the_loss_does_not_use(keys_of, key):
    merged = deepcopy(BASE)
    put(merged, f"{OURS}.loss.hook", "vanilla")
    after = deepcopy(merged)
    values = {"alpha": 0.3, "normalisation": "quantile", "sparsities": [0.1, 0.2]}
    put(after, f"{OURS}.uncertainty.{key}", values[key])
    assert not changed(keys_of(merged), keys_of(after)) & {"student", "teacher"}


@pytest.mark.parametrize("hook", ["own_loss", "own_loss_without_difficulty"])
def test_a_loss_of_the_users_is_given_the_configured_alpha(keys_of, hook):
    """Whether it takes the difficulty or not: the student's stage sees it, and its key holds it."""
    merged = deepcopy(BASE)
    put(merged, f"{OURS}.loss.hook", f"stage_runs:{hook}")
    other = deepcopy(merged)
    put(other, f"{OURS}.uncertainty.alpha", 0.25)
    config = build(other, {})
    assert used_keys.reduced(config, Student().reads(config)).robust.uncertainty.alpha == 0.25
    assert "student" in changed(keys_of(merged), keys_of(other))


def test_another_number_of_the_numerics_is_another_key(keys_of, monkeypatch):
    before = keys_of(BASE)
    monkeypatch.setattr(artefacts, "NUMERICS", artefacts.NUMERICS + 1)
    assert changed(before, keys_of(BASE)) == STAGES.keys()


@pytest.mark.parametrize("method", ["importance", "topk"])
def test_importance_in_low_precision_is_another_key(method):
    """Such students were once made with an importance in float32, and are not taken for these."""
    merged = deepcopy(BASE)
    params = {"dense_ratio": 0.5}
    put(merged, "compression_training.row_pruning", {
        "shared_parameters": {"enabled": True, "method": method},
        "different_groups": {"g": {"params": params}},
    })  # fmt: skip
    found = []
    for precision in ({}, {"bf16": {"enabled": True}}):
        config = build({**deepcopy(merged), **precision}, {})
        found.append(student._precision_of_importance(config))
    assert found[0] == {} and bool(found[1]) == (method == "importance")


def test_other_arithmetic_of_a_method_is_another_key_and_another_docstring_is_not():
    def code(source):
        return ast.dump(method_code.without_texts(source))

    text = "'One.'\n\nclass Kind:\n    'Two.'\n\n    def loss(self, x):\n        return {} * x\n"
    plain = code(text.format(2))
    assert plain == code(text.format(2).replace("One", "Three").replace("Two", "Four") + "# five\n")
    assert plain != code(text.format(3))


@pytest.fixture
def edited(monkeypatch):
    """Function (old, new): from now on the files that hold the old code hold the new."""
    real = method_code.without_texts

    def edit(old, new):
        method_code.digest.cache_clear()
        monkeypatch.setattr(method_code, "without_texts", lambda text: real(text.replace(old, new)))

    yield edit
    method_code.digest.cache_clear()


SPARSE_KEY = "compression_training.sparse_pruning.shared_parameters"


@pytest.mark.parametrize(
    ("file", "old", "new", "stages"),
    [
        ("mitigations/jtt", "self.upweight)", "2.0)", STUDENT),
        ("mitigations/_shared", "difficulty.clip(max=ceiling)", "difficulty", STUDENT),
        ("mitigations/_shared", "class Gamma(Mitigation)", "class Gamma(Lambda)", set()),
        ("mitigations/rmc", "batch.distillation(self.lambda_", "batch.distillation(1.0", set()),
        ("mitigations/vanilla", "return batch.cross_entropy()", "return 0", EVERY),
        ("layerwise/hidden", ".square()", ".abs()", STUDENT),
        ("layerwise/terms", "return self.weight * term", "return term", STUDENT),
        ("compression/pruners/movement", "round(", "int(", STUDENT),
        (
            "compression/pruners/magnitude",
            "Target(group.schedule(step).sparsity(step)",
            "Target(0.5",
            {*STUDENT, "difficulty"},
        ),
    ],
)
def test_edited_code_of_a_method_or_of_what_it_derives_from(keys_of, edited, file, old, new, stages):
    """Here a student of movement pruning, which derives from magnitude pruning, with jtt."""
    assert old in (ROOT / "compress" / f"{file}.py").read_text()
    merged = deepcopy(SPARSE | BASE)
    merged[OURS] |= {"loss": {"hook": "jtt"}, "layerwise": {"hidden": 1.0}}
    put(merged, f"{SPARSE_KEY}.method", "topk")
    config = build(merged, {})
    before, stamp = keys_of(merged), ownership.stamp(config)
    edited(old, new)
    assert changed(before, keys_of(merged)) == stages
    assert (ownership.stamp(config) != stamp) == bool(stages), "a study notices it too"


def test_a_stage_is_made_with_its_own_keys_only():
    merged = deepcopy(BASE) | {"steps_per_print": 7}
    put(merged, f"{OURS}.seed", 5)
    config = build(merged, {})
    seen = used_keys.reduced(config, (f"{OURS}.seed",))
    assert (seen.robust.seed, seen.deepspeed.steps_per_print) == (5, 7)
    assert seen.deepspeed.train_batch_size == 1 and not seen.robust.loss.hook


def test_the_length_belongs_to_the_tokens(tiny_model):
    def key(words, **task):
        config = build(BASE | {OURS: BASE[OURS] | {"task": {"name": "synthetic", **task}}}, {})
        run = run_of(config, tiny_model, words=words)
        tokenizer = types.SimpleNamespace(model_input_names=["input_ids"])
        return stage.key_of(Tokens("train", "model", tokenizer), run)

    plain = key({})
    assert plain == key({"dev": ("seven", "eight")})
    assert len({plain, key({}, max_length=16), key({"train": ("seven", "eight")})}) == 3


def test_the_first_model_of_jtt(keys_of, tiny_model):
    def first(merged):
        config = build(merged, {})
        (own,) = (need for need in Student().needs(run_of(config, tiny_model)) if need.name == "first")
        return stage.key_of(own, run_of(config, tiny_model))

    merged = deepcopy(BASE)
    put(merged, f"{OURS}.loss", {"hook": "jtt", "first_epochs": 2})
    other = deepcopy(merged)
    put(other, f"{OURS}.student.epochs", 7)
    put(other, f"{OURS}.loss.upweight", 9)
    assert first(merged) == first(other)
    put(other, f"{OURS}.loss.first_epochs", 1)
    assert changed(keys_of(merged), keys_of(other)) == STUDENT
    assert first(merged) != first(other)
