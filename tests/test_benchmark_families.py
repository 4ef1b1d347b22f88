"""The benchmark's three commands on every architecture: operations by a formula, and small runs."""

import json

import numpy as np
import pytest
import torch
from families import DECODERS, WORDS, tokenizer, write
from launcher import ROOT, benchmark_job, python
from small_models import exported, fresh, masked

from compress.benchmark import inference
from compress.inference import onnx_export
from compress.models.blocks import find_blocks, head_size, queries

NAMES = ("electra", "mpnet", "albert", "modernbert", "llama", "qwen3", "gemma2", "gemma3")


def by_formula(model, inputs):
    """Products of all linear layers, counted when they are called, and those of the attention."""
    batch, length = inputs["input_ids"].shape
    found = []

    def count(layer, args, _):
        found.append(2 * args[0].shape[:-1].numel() * layer.in_features * layer.out_features)

    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in linear]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    config, blocks = model.config, find_blocks(model)
    rounds = config.num_hidden_layers // len(blocks)  # ALBERT goes through its only block again
    each = 2 * 2 * batch * length**2 * head_size(config) * queries(config)
    return sum(found) + rounds * sum(each * block.heads for block in blocks)


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("name", NAMES)
def test_operations_are_those_of_the_layers_and_the_attention(name, cut, tmp_path):
    model = masked(fresh(name))
    model = (exported(model, tmp_path) if cut else model).eval().requires_grad_(False)
    for shape in ((1, 5), (3, 17)):
        inputs = onnx_export.random_inputs(model.config, *shape)
        assert inference.flops(model, inputs) == by_formula(model, inputs) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_both_runtimes_run_whole_and_cut_models_on_the_same_tokens(name, tmp_path):
    pad = 1 if name == "mpnet" else 0
    config = fresh(name)
    config.vocab_size, config.pad_token_id = len(WORDS) + 4, pad
    folders = [tmp_path / "whole", tmp_path / "cut"]
    model = masked(config)
    model.save_pretrained(folders[0])
    exported(model, folders[1])
    for folder in folders:
        tokenizer(name in DECODERS).save_pretrained(folder)
    setting = inference.Setting((2,), (6,), inference.RUNTIMES, 1, torch.device("cpu"), 1)
    inference.check(folders, setting)
    sizes, timings = inference.measure(folders, setting)
    assert sizes[1].parameters < sizes[0].parameters
    assert [one.runtime for one in timings] == ["torch", "torch", "onnxruntime", "onnxruntime"]
    assert timings[0].flops > timings[1].flops
    loaded = [inference._load(folder, setting.device) for folder in folders]
    answers = []
    for runtime in setting.runtimes:
        with inference._running(runtime, folders, loaded, setting) as prepare:
            answers.append([np.asarray(call()) for call in prepare((2, 6))])
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)
    np.testing.assert_allclose(answers[0][0], answers[0][1], atol=1e-5)  # what is cut was off


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Directory of the results of `steps` and `train`, for each family."""
    folder, jobs = tmp_path_factory.mktemp("benchmarks"), []
    for name in NAMES:
        model = write(name, folder / "models" / name)
        parts = ("compression/heads20_rows50_imp40", "mitigation/distil")
        kept = benchmark_job(model, folder, parts=parts)
        for words in (["steps"], ["train", "--only", "ours"]):
            where = ["--rounds", "1", "--steps", "2", "--output", str(folder / name / words[0])]
            jobs.append([*words, *kept, *where])
    done = python(str(ROOT / "tests/drivers/benchmark_all.py"), json.dumps(jobs))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.launcher
@pytest.mark.parametrize("name", NAMES)
def test_parts_of_a_step_are_timed(measured, name):
    found = json.loads((measured / name / "steps/steps.json").read_text())
    assert {turn["training"] for turn in found["turns"]} == {"pruning on", "pruning off"}
    assert found["machine"]["model"].endswith(name)
    for turn in found["turns"]:
        assert turn["seconds"]["forward"] > 0 and turn["seconds"]["backward"] > 0


@pytest.mark.launcher
@pytest.mark.parametrize("name", NAMES)
def test_a_training_is_timed(measured, name):
    found = json.loads((measured / name / "train/training.json").read_text())
    assert [row["training"] for row in found["trainings"]] == ["robust compression"]
    (turn,) = found["turns"]
    assert turn["steps"] == 2 and 0 < turn["tokens"] <= turn["places"]
    assert found["machine"]["operations of a token"] > 0
