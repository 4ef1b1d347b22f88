"""What is checked before any library is loaded: purpose, names, paths; and how fast."""

import json
import subprocess
import sys
import time

import pytest
from configs import BASE, OURS, ROOT, SPARSE, Files, at

from compress import checks, run
from compress.configuration.config import load
from compress.data.splits import Split, TaskData
from compress.data.tasks import TASKS
from compress.errors import UserError

ENCODER = at(f"{OURS}.model", "synthetic-encoder")
LAYERS = {"layer_reduction": {"enabled": True, "teacher_layer": "first_half"}}


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def refused(config, stage="all"):
    with pytest.raises(UserError) as error:
        checks.check(config, stage)
    assert "\n" not in str(error.value) and str(error.value)[-1] in ".?"
    return str(error.value)


def test_a_student_needs_a_loss(files):
    config = files.load(ENCODER, SPARSE, at(f"{OURS}.loss", None))
    for stage in ("all", "student", "evaluate"):
        assert "loss.hook: no loss is chosen" in refused(config, stage)
    for stage in ("teacher", "difficulty"):
        checks.check(config, stage)


def test_a_scalar_without_a_loss_has_no_effect(files):
    sentence, file = files.refused(at(f"{OURS}.loss", None), at(f"{OURS}.loss", {"lambda": 0.5}))
    assert sentence.startswith(f"{file}: ") and "has no effect without loss.hook" in sentence


def test_a_bias_model_of_one_text_of_a_pair_is_refused_for_both_losses_at_once(files):
    """Of a task of single texts."""
    partial = {"hook": "poe", "bias": "partial"}
    single = at(f"{OURS}.task", {"name": "sst2", "data_dir": None})
    config = files.load(
        ENCODER, SPARSE, single, at(f"{OURS}.loss", partial), at(f"{OURS}.teacher.loss", partial)
    )
    sentence = refused(config)
    assert sentence.startswith(f"{OURS}.loss.bias: 'partial' sees one text of a pair")
    assert sentence.endswith(f"To be changed too: '{OURS}.teacher.loss.bias'.")


def dense(ratio):
    return at("compression_training.sparse_pruning.different_groups.encoder.params.dense_ratio", ratio)


NOTHING = [
    (),
    (at("compression_training", {}),),
    (SPARSE, at("compression_training.sparse_pruning.shared_parameters.enabled", False)),
    (SPARSE, dense(1.0)),
]


@pytest.mark.parametrize("given", NOTHING, ids=["none", "empty", "not enabled", "all stays"])
def test_nothing_compressed_must_be_meant(files, given):
    config = files.load(ENCODER, *given)
    assert "nothing is compressed" in refused(config)
    checks.check(config, "teacher")
    meant = files.load(ENCODER, *given, at(f"{OURS}.student.uncompressed", True))
    checks.check(meant, "all")


@pytest.mark.parametrize(
    "given",
    [SPARSE, {"compression_training": LAYERS}, at(f"{OURS}.student.model", "synthetic-encoder")],
    ids=["sparse", "layers", "student.model"],
)
def test_something_compressed(files, given):
    checks.check(files.load(ENCODER, given), "all")
    sentence, _ = files.refused(given, at(f"{OURS}.student.uncompressed", True))
    assert "student.uncompressed' is true, but" in sentence


PATHS = ["model", "teacher.model", "student.model", "task.data_dir", "task.ood_dir"]


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize("path", ["/nope", "./nope", "~/nope", "a/b/c", "FILE", "EMPTY"])
def test_the_key_at_fault_is_named(files, tmp_path, key, path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    path = {"FILE": str(tmp_path / "file"), "EMPTY": str(tmp_path / "empty")}.get(path, path)
    if key.startswith("task.") and path == str(tmp_path / "empty"):
        return  # a folder without data is found when it is read
    config = files.load(ENCODER, SPARSE, at(f"{OURS}.task.name", "fever"), at(f"{OURS}.{key}", path))
    assert refused(config).startswith(f"robust_compression.{key}: '{path}'") or (
        f"robust_compression.{key}: there is no directory '{path}'" == refused(config)[:-1]
    )


def test_names_that_are_nearly_right(files, tmp_path):
    assert "did you mean 'synthetic-encoder'?" in refused(
        files.load(at(f"{OURS}.model", "synthetic-encoders"), SPARSE)
    )
    sentence, _ = files.refused(overrides=["epochs=1"])
    assert "did you mean 'robust_compression.epochs'?" in sentence
    (tmp_path / "heads20.json").write_text("{}")
    for name, hint in (("head20.json", "did you mean 'heads20.json'?"), ("rmc", "path of a JSON file")):
        with pytest.raises(UserError, match="there is no such file") as error:
            load([tmp_path / name])
        assert hint in str(error.value)


@pytest.mark.parametrize(
    ("hook", "hint"),
    [
        ("rcm", "did you mean 'rmc'?"),
        ("distill", "did you mean 'distil'?"),
        ("rmc-weighted", "did you mean 'rmc_weighted'?"),
        ("Vanila", "did you mean 'vanilla'?"),
        ("user", "confidence, distil, focal, jtt, poe, rmc, rmc_plus, rmc_weighted, smooth, vanilla"),
        ("_shared", "vanilla, weighted"),
    ],
)
def test_names_of_losses(files, hook, hint):
    sentence, file = files.refused(at(f"{OURS}.loss", {"hook": hook, "gamma": 1}))
    assert sentence.startswith(f"{file}: 'robust_compression.loss.hook'")
    assert f"no loss is called '{hook}'" in sentence and hint in sentence


@pytest.mark.parametrize("hook", ["nowhere_to_be_found:loss", "nowhere_to_be_found.sub:loss"])
def test_modules_of_hooks(files, hook):
    sentence = refused(files.load(ENCODER, SPARSE, at(f"{OURS}.loss.hook", hook)))
    assert "loss.hook" in sentence and "there is no module 'nowhere_to_be_found'" in sentence


def test_a_hook_in_the_current_folder(files, tmp_path, monkeypatch):
    (tmp_path / "own_loss_of_mine.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    checks.check(files.load(ENCODER, SPARSE, at(f"{OURS}.loss.hook", "own_loss_of_mine:loss")), "all")


@pytest.mark.slow
@pytest.mark.parametrize(
    "mistake",
    [at(f"{OURS}.teacher.model", "/nope"), at(f"{OURS}.task.data_dir", "/nope"), at("optimizr", 1)],
    ids=["teacher", "data", "key"],
)
def test_a_mistake_is_told_within_two_seconds(tmp_path, mistake):
    """Also on a loaded machine: in seconds of this process, and without loading torch."""
    task = at(f"{OURS}.task.name", "fever")
    parts = [BASE, SPARSE, ENCODER, task, mistake]
    for number, part in enumerate(parts):
        (tmp_path / f"{number}.json").write_text(json.dumps(part))
    names = [str(tmp_path / f"{number}.json") for number in range(len(parts))]
    command = [sys.executable, "-X", "importtime", "train.py", "--deepspeed_config", *names]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and "\nerror: " in done.stderr
    assert not (tmp_path / "run").exists()
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "transformers", "datasets", "deepspeed"}
    assert time.perf_counter() - began < 10


def test_the_overview(files):
    split = Split.of((["a"] * 1200, ["b"] * 1200), [0] * 1200, ("x", "y"), (0, 1))
    data = TaskData(TASKS["mnli"], ("x", "y"), split, split, {"hans": split})
    config = files.load(ENCODER, SPARSE)
    text = run.overview(config, data, ("teacher", "student"), "cpu")
    assert text == (
        "task synthetic, seed 42: train 1,200 samples, dev 1,200, OOD hans 1,200; teacher "
        "synthetic-encoder, 3 epochs; student imp40 with the loss rmc, 3 epochs; stages teacher, "
        "student; 1 rank (cpu)"
    )
    given = files.load(at(f"{OURS}.teacher.model", "/m"), at(f"{OURS}.student.uncompressed", True))
    text = run.overview(given, data, ("student",), "cpu")
    assert "teacher /m as it is; student not compressed, as configured, with" in text
    assert "student" not in run.overview(given, data, ("teacher",), "cpu").partition("seed")[2]
