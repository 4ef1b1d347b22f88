"""Faults that come while a run trains: each is one sentence with what to set."""

import json

import pytest
from launcher import ROOT, python

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def errors(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("faults")
    done = python(str(ROOT / "tests/drivers/faults.py"), str(folder), str(tiny_model))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "errors.json").read_text())


def test_out_of_memory_in_a_training_step(errors):
    told = errors["training"]
    assert told.startswith("teacher: step 1: out of memory") and "4 samples" in told
    assert "train_micro_batch_size_per_gpu to 2" in told and "gradient_accumulation_steps to 4" in told


def test_out_of_memory_while_scoring(errors):
    assert errors["scoring"].startswith("teacher: dev: out of memory")
    assert "24 samples" in errors["scoring"]
    assert "robust_compression.evaluation.batch_size to 64" in errors["scoring"]


def test_a_loss_that_stops_being_finite_names_its_function_and_the_step(errors):
    """8 steps: progress is above 0.3 from the fourth on; none is taken with it."""
    assert errors["late"].startswith("robust_compression.loss.hook: 'late_hooks:late'")
    assert "not finite at step 4 (epoch 1) for training samples " in errors["late"]


def test_a_function_that_fails_later_is_named_with_its_line(errors):
    assert errors["fails"].startswith("robust_compression.loss.hook: 'late_hooks:fails'")
    assert "KeyError: 'late'" in errors["fails"] and "late_hooks.py:10" in errors["fails"]


def test_a_crash_in_the_export_loses_no_step_of_the_training(errors):
    export = errors["export"]
    assert "No space left" in export["error"] or "full" in export["error"]
    assert export["half"] == []
    again = [line for line in export["again"] if line.startswith("student: continues")]
    assert again == ["student: continues at step 8 of 8"]
