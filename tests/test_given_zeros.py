"""Zeros of a model that a run starts from are said at the start, because nothing holds them."""

import shutil

import pytest
import torch
from launcher import job, python
from safetensors.torch import load_file, save_file
from small_models import CONFIGS, fresh
from transformers import AutoModelForSequenceClassification

from compress.models import given_zeros

WEIGHTS = "model.safetensors"


def pruned(source, folder, share):
    """A copy of a model with so many of the weights of each matrix of a block set to 0."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    weights = load_file(folder / WEIGHTS)
    generator = torch.Generator().manual_seed(1)
    for name, weight in weights.items():
        if given_zeros.NUMBERED.search(name) and weight.ndim == 2:
            weight[torch.rand(weight.shape, generator=generator) < share] = 0
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_the_share_of_zeros_in_the_middle_block(name, tmp_path):
    AutoModelForSequenceClassification.from_config(fresh(name)).save_pretrained(tmp_path / "dense")
    assert given_zeros.note(tmp_path / "dense") is None
    assert given_zeros.note(pruned(tmp_path / "dense", tmp_path / "few", 0.02)) is None
    said = given_zeros.note(pruned(tmp_path / "dense", tmp_path / "many", 0.5))
    assert said is not None
    assert 45 <= int(said.split("%")[0]) <= 55
    number = 0 if name == "albert" else 1  # ALBERT shares one block
    assert f"of its block {number} are zeros" in said


def test_a_model_without_blocks_is_left_alone(tmp_path):
    save_file({"linear.weight": torch.zeros(3, 3)}, tmp_path / WEIGHTS)
    assert given_zeros.note(tmp_path) is None


@pytest.mark.slow
def test_a_dry_run_says_it(tiny_model, tmp_path):
    sparse = pruned(tiny_model, tmp_path / "sparse", 0.6)
    done = python(*job(sparse, tmp_path / "run"), "robust_compression.epochs=1", "--dry_run")
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = (line for line in done.stdout.splitlines() if "are zeros" in line)
    assert line.startswith(f"note: robust_compression.model {sparse}: ")
    assert "only what a run prunes itself is held at 0" in line
