"""When a run counts as finished: metrics.json is there only beside all that was made with it."""

import json
import os
from copy import deepcopy
from types import SimpleNamespace

import pytest
from configs import BASE, OURS
from stage_runs import run_of

from compress.configuration.config import build
from compress.errors import UserError
from compress.files.ownership import figures_found, figures_key
from compress.stages import remaining_work, results
from compress.stages.partial_input import PartialInput
from compress.stages.scores import Scores
from compress.stages.stage import inputs_of, key_of, obtain
from compress.stages.student import Student
from compress.stages.teacher import Teacher

PARTS = {"card": "write", "report": "write_report", "events": "write"}


def full(*_):
    raise UserError("the disk is full.")


def configured(**block):
    merged = deepcopy(BASE)
    merged[OURS] |= {"loss": {"hook": "vanilla"}, **block}
    return build(merged, {})


@pytest.fixture
def report(tiny_model, tmp_path, monkeypatch):
    """Function (configuration, part that fails) -> reports figures as the end of a run does."""
    (tmp_path / "run").mkdir()

    def write(config, failing=None):
        context = run_of(config, tiny_model, tmp_path)
        figures = {"keys": {"evaluate": figures_key(config)}, "artefacts": {"evaluate": {}}}
        made = SimpleNamespace(hardness=None, student=SimpleNamespace(path=tmp_path))
        with monkeypatch.context() as patch:
            patch.setattr(results, "_metrics", lambda *_: figures)
            patch.setattr(results, "_write_hits", lambda context, made, file: file.write_text("x"))
            patch.setattr(results.model_figures, "about", lambda *_: None)
            patch.setattr(results.summary, "terminal", lambda *_: "")
            for part, name in PARTS.items():
                patch.setattr(getattr(results, part), name, lambda *_: None)
            if failing:
                module = getattr(results, failing) if failing in PARTS else results
                patch.setattr(module, PARTS.get(failing, failing), full)
            results._report(context, made, 0.0)

    return write


@pytest.mark.parametrize("part", PARTS)
def test_a_run_whose_last_part_fails_is_not_finished_until_all_is_made(report, tmp_path, part):
    config = configured()
    report(config)
    assert figures_found(tmp_path / "run") == figures_key(config)
    with pytest.raises(UserError, match="full"):
        report(config, part)
    assert figures_found(tmp_path / "run") is None
    report(config)
    assert figures_found(tmp_path / "run") == figures_key(config)
    assert {file.name for file in (tmp_path / "run").iterdir()} == {"hits.npz", "metrics.json"}


def test_old_figures_stay_until_there_are_new_ones_and_say_whose_they_are(report, tmp_path):
    old, new = configured(), configured(evaluation={"ood": ["synthetic"]})
    assert figures_key(old) != figures_key(new)
    report(old)
    with pytest.raises(UserError, match="full"):
        report(new, "_write_hits")
    assert figures_found(tmp_path / "run") == figures_key(old)
    report(new)
    assert figures_found(tmp_path / "run") == figures_key(new)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": 1}', '{"keys": {}}'])
def test_figures_that_say_nothing_of_their_configuration(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    assert figures_found(tmp_path) is None


# A cache that is read-only


IN_CACHE = {stage.label: stage for stage in (Teacher(), Scores("teacher"), PartialInput())}


@pytest.fixture
def cached(tiny_model, tmp_path, monkeypatch):
    """Function (labels) -> a run whose cache is read-only and holds these artefacts."""
    access = os.access

    def make(*labels, chosen=("teacher", "student", "evaluate")):
        run = run_of(configured(), tiny_model, tmp_path, chosen=chosen, accept_versions=True)
        run.cache_dir.mkdir()
        for stage in map(IN_CACHE.get, labels):
            inputs, key = inputs_of(stage, run), key_of(stage, run)
            marker = {"key": key, "inputs": inputs, "seconds": 1.0, "files": {}}
            stage.place(run, key).mkdir(parents=True)
            (stage.place(run, key) / "complete.json").write_text(json.dumps(marker))
        monkeypatch.setattr(
            os,
            "access",
            lambda path, mode: access(path, mode) and not path.is_relative_to(run.cache_dir),
        )
        return run

    return make


def test_a_read_only_cache_that_holds_all_that_is_needed(cached):
    remaining_work.check_places(cached(*IN_CACHE))


@pytest.mark.parametrize("label", IN_CACHE)
def test_a_read_only_cache_that_lacks_something(cached, label):
    """It is said before anything is made, and where it would be made."""
    run = cached(*(IN_CACHE.keys() - {label}))
    with pytest.raises(UserError, match=f"has no {label} .* '?{run.cache_dir}") as caught:
        remaining_work.check_places(run)
    with pytest.raises(UserError) as again:
        obtain(IN_CACHE[label], run)
    assert str(again.value) == str(caught.value)


def test_a_stage_that_may_not_be_made_needs_no_place(cached):
    """`--stage student` without a teacher has its own sentence."""
    run = cached(chosen=("student",))
    remaining_work.check_places(run)
    with pytest.raises(UserError, match="--stage teacher first"):
        obtain(Student(), run)


def test_the_keys_of_a_run_are_those_of_all_that_it_trains(tiny_model, tmp_path):
    run, other = (run_of(configured(seed=seed), tiny_model, tmp_path) for seed in (1, 2))
    keys = remaining_work.keys(run)
    assert {key_of(Teacher(), run), key_of(Student(), run)} <= keys
    assert not keys & remaining_work.keys(other)
