"""When and how much the student is pruned, and what is known before any training."""

import json
import shutil

import pytest

from compress.compression import resolved
from compress.configuration.config import load
from compress.data import tasks
from compress.errors import UserError
from compress.models import encoders
from compress.stages import student

SHARED = "compression_training.sparse_pruning.shared_parameters"


def config(tmp_path, *overrides, group='{"params": {"dense_ratio": 0.4}, "modules": ["layer"]}'):
    file = tmp_path / "c.json"
    file.write_text(
        json.dumps(
            {
                "train_batch_size": 10,
                "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},
                "zero_optimization": {"stage": 0},
                "robust_compression": {"task": {"name": "mnli"}, "model": "m", "epochs": 2},
                "compression_training": {
                    "sparse_pruning": {
                        "shared_parameters": {"enabled": True},
                        "different_groups": {"g": json.loads(group)},
                    }
                },
            }
        )
    )
    return load([file], overrides)


def sparse(settings, model, samples):
    return [p.groups for p in resolved.pruners(settings, encoders.fresh_from(model), samples)]


def test_fractions_become_steps(tmp_path, tiny_model):
    """95 samples, batch 10, 2 epochs: 20 steps; 10 % to 60 % of them, in 5 refreshes."""
    pruning = 'robust_compression.pruning={"begin": 0.1, "end": 0.6, "updates": 5, "curve": "linear"}'
    schedule = sparse(config(tmp_path, pruning), tiny_model, 95)[0]["g"].schedules[0]
    assert (schedule.start, schedule.begin, schedule.end, schedule.stride, schedule.curve) == (
        0.0,
        2,
        12,
        2,
        "linear",
    )
    assert schedule.target == pytest.approx(0.6)


def test_steps_of_compression_training_are_taken_as_they_are(tmp_path, tiny_model):
    steps = [f"{SHARED}.schedule_offset=3", f"{SHARED}.schedule_offset_end=9"]
    settings = config(tmp_path, *steps, f"{SHARED}.schedule_offset_stride=4")
    schedule = sparse(settings, tiny_model, 100)[0]["g"].schedules[0]
    assert (schedule.begin, schedule.end, schedule.stride) == (3, 9, 4)


def test_a_schedule_that_ends_after_the_training_is_refused(tmp_path, tiny_model):
    settings = config(tmp_path, f"{SHARED}.schedule_offset_end=21")
    with pytest.raises(UserError, match=r"step 0 to 21, .* 20 steps"):
        sparse(settings, tiny_model, 100)


def test_disabled_pruning_has_no_groups(tmp_path, tiny_model):
    assert sparse(config(tmp_path, f"{SHARED}.enabled=false"), tiny_model, 100) == []


class Data:
    task = tasks.TASKS["mnli"]
    train = range(100)
    labels = ("entailment", "neutral", "contradiction")


def test_keyword_without_a_layer_is_found_before_training(tmp_path, tiny_model):
    student.check(config(tmp_path), tiny_model, Data)
    group = '{"params": {"dense_ratio": 0.4}, "modules": ["transformer.block"]}'
    with pytest.raises(UserError, match=r"'transformer.block' matches no linear layer"):
        student.check(config(tmp_path, group=group), tiny_model, Data)


def test_two_groups_with_one_layer_are_found_before_training(tmp_path, tiny_model):
    groups = "compression_training.sparse_pruning.different_groups"
    other = f'{groups}.h={{"params": {{"dense_ratio": 0.9}}, "modules": ["attention"]}}'
    with pytest.raises(UserError, match="another group has the layer"):
        student.check(config(tmp_path, other), tiny_model, Data)


def test_a_student_of_another_number_of_labels_is_found_before_training(tmp_path, tiny_model):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    encoders.load_classifier(other, ("yes", "no")).save_pretrained(other)
    settings = config(tmp_path, f"robust_compression.student.model={other}")
    with pytest.raises(UserError, match=r"2 labels, .* 3"):
        student.check(settings, other, Data)


def test_a_half_written_student_is_found_before_training(tmp_path, tiny_model):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    file = other / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    settings = config(tmp_path, f"robust_compression.student.model={other}")
    with pytest.raises(UserError, match=r"model.safetensors: is damaged or incomplete"):
        student.check(settings, other, Data)


def test_a_given_teacher_is_what_its_layers_are_taken_from(tmp_path, tiny_model):
    """The student starts from teacher.model, of 2 layers here; the run's encoder has more."""
    deep = shutil.copytree(tiny_model, tmp_path / "deep")
    values = json.loads((deep / "config.json").read_text())
    (deep / "config.json").write_text(json.dumps({**values, "num_hidden_layers": 5}))
    layers = 'compression_training.layer_reduction={"enabled": true, "teacher_layer": [4]}'
    teacher = [
        f"robust_compression.teacher.model={tiny_model}",
        "robust_compression.student.init_from=teacher",
    ]
    student.check(config(tmp_path, layers), deep, Data)
    with pytest.raises(UserError, match="there is no layer 4; the model has 2"):
        student.check(config(tmp_path, layers, *teacher), deep, Data)
