"""Which places a run may write to, told before data are read; what an output directory holds."""

import json
import os
import time

import pytest
from configs import Files, at

from compress.errors import UserError
from compress.files.ownership import KINDS, claim, difference, figures_key, held

OURS = "robust_compression"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "configuration").mkdir()
    return Files(tmp_path / "configuration")


def refused(output, config):
    """The sentence; it costs milliseconds and leaves nothing."""
    began = time.perf_counter()
    with pytest.raises(UserError) as caught:
        claim(output, config)
    assert time.perf_counter() - began < 0.5
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    return str(caught.value)


def cache(path):
    return {OURS: {"cache_dir": str(path)}}


def log(kind, **block):
    return {kind: {"enabled": True, **block}}


def test_a_free_place_is_left_untouched(files, tmp_path):
    claim(tmp_path / "runs/a", files.load(cache(tmp_path / "cache/b"), log("tensorboard")))
    assert [path.name for path in tmp_path.iterdir()] == ["configuration"]


@pytest.mark.parametrize("under", ["", "a", "a/b"])
def test_a_path_under_a_file(files, tmp_path, under):
    file = tmp_path / "file"
    file.write_text("")
    place, run = file / under, tmp_path / "run"
    assert refused(place, files.load()).startswith(f"--output_dir {place}: ")
    sentence = refused(run, files.load(cache(place)))
    assert sentence.startswith(f"robust_compression.cache_dir {place}: ")
    for kind in ("tensorboard", "csv_monitor"):
        sentence = refused(run, files.load(log(kind, output_path=str(place))))
        assert sentence.startswith(f"{kind}.output_path {place}/{kind}: '{file}' is a file")


def test_the_shared_directory_beside_it_is_looked_at_too(files, tmp_path):
    (tmp_path / "shared").write_text("")
    assert f"the shared directory beside it {tmp_path}/shared: is a file" in refused(
        tmp_path / "run", files.load()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_the_cache_that_is_a_file(files, tmp_path, kind):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / kind).write_text("")
    assert f"shared/{kind}: is a file" in refused(tmp_path / "run", files.load())


def test_a_cache_that_may_not_be_written_to(files, tmp_path, monkeypatch):
    """Where there is none it must be made; one that is there may hold all that is needed."""
    config = files.load(cache(tmp_path / "disk/cache"))
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: not path.is_relative_to(tmp_path / "disk"))
    sentence = refused(tmp_path / "run", config)
    assert f"cache_dir {tmp_path}/disk/cache: '{tmp_path}/disk' cannot be written to" in sentence
    (tmp_path / "disk/cache/teacher").mkdir(parents=True)
    claim(tmp_path / "run", config)


def test_entries_of_the_output_directory_of_the_wrong_kind(files, tmp_path):
    for name in ("student", "scores", "alpha", "onnx", "onnx_int8", "scores_int8", "tensorboard"):
        run = tmp_path / f"folder-{name}"
        run.mkdir()
        (run / name).write_text("")
        assert f"{run / name}: is a file" in refused(run, files.load(log("tensorboard")))
    for name in ("config.json", "metrics.json", "hits.npz", "report.html"):
        (tmp_path / f"file-{name}" / name).mkdir(parents=True)
        assert f"'{name}' is a directory" in refused(tmp_path / f"file-{name}", files.load())


def test_a_cache_inside_what_is_replaced(files, tmp_path):
    sentence = refused(tmp_path / "run", files.load(cache(tmp_path / "run/student/cache")))
    assert "which is replaced" in sentence
    claim(tmp_path / "run", files.load(cache(tmp_path / "run/cache")))


def test_a_directory_with_the_configuration_of_something_else(files, tmp_path):
    """Such as a model's, which a run would write its own over."""
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "not one of this program and would be overwritten" in refused(tmp_path, files.load())


def test_results_beside_a_torn_configuration(files, tmp_path):
    (tmp_path / "config.json").write_text('{"robust_com')
    claim(tmp_path, files.load())
    (tmp_path / "metrics.json").write_text("{}")
    assert "config.json: cannot be read" in refused(tmp_path, files.load())


def test_the_results_of_another_configuration_are_seen_under_the_lock(files, tmp_path):
    """A run that ended between the look at the start and the lock may have left some."""
    run, config = tmp_path / "run", files.load()
    claim(run, config)
    (run / "student").mkdir(parents=True)
    other = files.load({OURS: {"seed": 7}})
    (run / "config.json").write_text(json.dumps(dict(other.merged)))
    with pytest.raises(UserError, match="seed differs"), held(run, config):
        raise AssertionError
    assert not (run / "run.lock").exists()
    with held(run, other):
        assert (run / "run.lock").exists()
    assert not (run / "run.lock").exists()


def test_a_disk_that_fails_anywhere_in_a_run_is_a_sentence(files, tmp_path):
    with pytest.raises(UserError, match="No space left"), held(tmp_path / "run", files.load()):
        raise OSError(28, "No space left on device")
    with pytest.raises(FileNotFoundError), held(tmp_path / "run", files.load()):
        raise FileNotFoundError(2, "a defect")
    assert not (tmp_path / "run/run.lock").exists()


def found(config):
    """What a run of this configuration leaves as its config.json."""
    return {
        **json.loads(json.dumps(dict(config.merged))),
        "resolved_schedule": {"student": {"steps": 9}},
    }


DEFAULTS = [
    {OURS: {"student": {"keep": "last"}}},
    {OURS: {"student": {}, "layerwise": {}}},
    {OURS: {"seed": 42, "uncertainty": {"init_from": "pretrained"}}},
    {OURS: {"loss": {"lambda": 0.9}}},
    {OURS: {"teacher": {"epochs": 3}}},
    {"bf16": {"enabled": False}},
    {"scheduler": {"params": {"warmup_num_steps": "auto"}}},
    {"optimizer": {"params": {"weight_decay": 0}}},
    {"compression_training": {}},
    at("compression_training.layer_reduction", {"enabled": False, "teacher_layer": [0]}),
    at(
        "compression_training.row_pruning",
        {
            "shared_parameters": {"enabled": False},
            "different_groups": {"g": {"params": {"dense_ratio": 0.5}}},
        },
    ),
]
SCHEDULED = {"scheduler": {"type": "WarmupLR", "params": {}}}


@pytest.mark.parametrize("written", DEFAULTS, ids=repr)
def test_a_default_may_be_written_into_a_finished_configuration_or_left_out(files, written):
    short, long = files.load(SCHEDULED), files.load(SCHEDULED, written)
    assert (short.merged == long.merged) == ("compression_training" in written), "left out at once"
    assert difference(found(short), long) is None and difference(found(long), short) is None
    assert figures_key(short) == figures_key(long)


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({OURS: {"seed": 7, "epochs": 4}}, f"{OURS}.epochs"),
        ({OURS: {"student": {"keep": "best_dev"}}}, f"{OURS}.student.keep"),
        ({OURS: {"loss": {"hook": "weighted"}}}, f"{OURS}.loss.hook"),
        ({OURS: {"loss": {"lambda": 0.8}}}, f"{OURS}.loss.lambda"),
        ({"bf16": {"enabled": True}}, "bf16"),
        ({"optimizer": {"params": {"lr": 2e-4}}}, "optimizer.params.lr"),
    ],
)
def test_a_value_that_differs_is_named(files, changed, key):
    old, new = files.load(), files.load(changed)
    assert difference(found(old), new) == difference(found(new), old) == key
    assert figures_key(old) != figures_key(new)


@pytest.mark.parametrize("key", [("sentences", 3), ("baseline", True), ("precision", "bf16")])
def test_what_is_evaluated_is_of_the_figures_alone(files, key):
    """A finished run may be scored otherwise; its student stays."""
    old, new = files.load(), files.load({OURS: {"evaluation": dict([key])}})
    assert difference(found(new), old) is None
    assert difference(found(old), new) is None and figures_key(old) != figures_key(new)


@pytest.mark.parametrize("harm", [{"epocs": 4}, {"seed": "x"}, {"loss": {"hook": "gone"}}], ids=repr)
def test_a_configuration_that_is_no_longer_taken_is_compared_as_written(files, harm):
    config = files.load()
    old = found(config)
    old[OURS] |= harm
    (key,) = harm
    assert difference(old, config).startswith(f"{OURS}.{key}")
