"""A model whose blocks the difficulty cannot prune is known before the teacher is trained."""

import json

import pytest
import torch
from tokenizer_models import made

from compress import run
from compress.configuration import config
from compress.errors import UserError

NAMES = {"model_input_names": ["input_ids", "attention_mask"]}


def settings(tmp_path, hook, **robust):
    file = tmp_path / f"{hook}.json"
    ours = {"loss": {"hook": hook}, "task": {"name": "mnli", "data_dir": str(tmp_path / "none")}}
    content = {
        "train_batch_size": 8,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},
        "zero_optimization": {"stage": 0},
        "robust_compression": {**ours, **robust},
    }
    content["robust_compression"]["task"]["max_length"] = 32
    file.write_text(json.dumps(content))
    return config.load([file], [])


def sentence(tmp_path, hook, **robust):
    with pytest.raises(UserError) as error:
        run.prepare(settings(tmp_path, hook, **robust), tmp_path / "run", torch.device("cpu"))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.slow
def test_blocks_that_cannot_be_pruned(tmp_path):
    """`data_dir` does not exist: the model is looked at first, and only for a loss that needs it."""
    folder = made(tmp_path / "model", "gpt2", **NAMES)
    said = sentence(tmp_path, "rmc", model=str(folder))
    assert said.startswith("robust_compression.model: ") and "stage difficulty" in said
    assert "stages" not in said, "a loss without it leaves the stage out by itself"
    assert "none" in sentence(tmp_path, "vanilla", model=str(folder)).rpartition("/")[2]
    assert "stage difficulty" not in sentence(tmp_path, "rmc", model=str(made(tmp_path / "b")))


@pytest.mark.parametrize("key", ["model", "student", "teacher"])
def test_the_key_of_a_model_that_does_not_fit_is_named(tmp_path, key):
    """A teacher that is given is asked too: with 64 positions it cannot take 65 tokens."""
    good, bad = made(tmp_path / "good"), made(tmp_path / "bad", "roberta")
    names = {"model": str(good), key: str(bad) if key == "model" else {"model": str(bad)}}
    said = sentence(tmp_path, "vanilla", **names)
    where = "model" if key == "model" else f"{key}.model"
    assert said.startswith(f"robust_compression.{where}: '{bad}' ") and "segment ids" in said
