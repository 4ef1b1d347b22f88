"""The ONNX file in 8-bit integers computes what quantisation says, and its figures are right."""

import json
import logging

import numpy as np
import onnxruntime
import pytest
import torch
from configs import BASE
from reports import Page, metrics, writing
from small_models import KEPT, exported, fresh, masked
from stage_runs import run_of
from torch import nn

import compress
from compress import run
from compress.configuration.config import build
from compress.errors import UserError
from compress.files import artefacts
from compress.inference import onnx_export, onnx_int8
from compress.reporting import summary
from compress.scoring import evaluation
from compress.stages import int8_figures
from compress.stages import onnx as onnx_stage
from compress.stages.onnx import OnnxInt8
from compress.stages.stage import Stage, obtain
from compress.stages.workspace import Artefact


def symmetric(weight):
    """Weights [out, in] after rounding to 7 bits with a sign, a scale for each output."""
    scale = weight.abs().amax(dim=1, keepdim=True) / 64
    return (weight / scale).round() * scale


def asymmetric(values):
    """Numbers after rounding to 0 ... 255 between their smallest and their largest, 0 among them."""
    low, high = values.amin().clamp(max=0), values.amax().clamp(min=0)
    scale = (high - low) / 255
    zero = (-low / scale).round()
    return ((values / scale).round() + zero).clamp(0, 255).sub(zero) * scale


def rounded(model):
    """A model in PyTorch that rounds as the file should: the reference."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = symmetric(module.weight.data)
            module.register_forward_pre_hook(lambda _, given: (asymmetric(given[0]), *given[1:]))
        elif isinstance(module, nn.Embedding):
            module.weight.data = asymmetric(module.weight.data)
    return model


def files(folder, name="bert"):
    """A cut student, its ONNX file, and that in 8-bit integers."""
    exported(masked(fresh(name)), folder / "model")
    (folder / "int8").mkdir(parents=True)
    whole, small = folder / "onnx/model.onnx", folder / "int8/model.onnx"
    onnx_export.export(folder / "model", whole)
    onnx_int8.quantise(whole, small)
    return folder / "model", whole, small


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_logits_are_those_of_a_model_whose_weights_and_activations_are_rounded(name, tmp_path):
    folder, whole, small = files(tmp_path, name)
    model = compress.load_compressed(folder)
    inputs = onnx_export.random_inputs(model.config, 1, 9)
    found, exact = (
        onnx_export.call(onnx_export.session(file, 1, onnx_int8.CPU), inputs)()
        for file in (small, whole)
    )
    with torch.no_grad():
        wanted = rounded(model)(**inputs).logits.numpy()
    apart = np.abs(exact - wanted).max()
    assert apart > 1e-3 and np.abs(found - wanted).max() < apart / 10
    beside = json.loads((small.parent / "config.json").read_text())
    assert [one["heads"] for one in beside["compressed_layers"]] == [len(k.heads) for k in KEPT]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deberta", "deberta-own-positions"])
def test_other_architectures_stay_near(name, tmp_path):
    folder, whole, small = files(tmp_path, name)
    config = compress.load_compressed(folder).config
    one, two = (
        onnx_export.random_call(onnx_export.session(file, 1, onnx_int8.CPU), config, 4, 9)()
        for file in (whole, small)
    )
    assert 0 < np.abs(one - two).max() < 0.3 * np.abs(one).max()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return files(tmp_path_factory.mktemp("int8"))


@pytest.mark.slow
def test_a_sample_is_scored_without_the_others_and_without_padding(small):
    forward, config = onnx_int8.Forward(small[2]), fresh("bert")
    inputs = onnx_export.random_inputs(config, 5, 12, padded=True)
    together = forward(inputs)
    for row, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
        alone = {name: tensor[row : row + 1, :length] for name, tensor in inputs.items()}
        assert torch.equal(forward(alone)[0], together[row])
        left = {name: tensor[row : row + 1].flip(1) for name, tensor in inputs.items()}
        turned = {name: tensor[:, -length:].flip(1) for name, tensor in left.items()}
        assert torch.equal(forward(turned)[0], together[row])
    padded = onnx_export.call(forward.running, inputs)()
    assert not np.array_equal(padded, together.numpy()), "the reason for it"


class Whole(Stage):
    """The ONNX file, as if it were made."""

    name, source = "onnx", None

    def make(self, run, made):
        return lambda folder: (
            (folder / "model.onnx").write_bytes(self.source.read_bytes())
            and (folder / "config.json").write_bytes((self.source.parent / "config.json").read_bytes())
        )


@pytest.fixture
def workspace(small, tmp_path, monkeypatch):
    monkeypatch.setattr(Whole, "source", small[1])
    monkeypatch.setattr(onnx_stage, "Onnx", Whole)
    return run_of(build(BASE, {}), small[0], tmp_path)


@pytest.mark.slow
def test_the_file_is_whole_or_not_there(workspace, monkeypatch):
    from onnxruntime import quantization

    quantize = quantization.quantize_dynamic

    def broken(source, file, **options):
        file.write_bytes(b"half")
        raise ValueError("no such layer\nmore")

    monkeypatch.setattr(quantization, "quantize_dynamic", broken)
    with pytest.raises(UserError, match=r"cannot be quantised \(no such layer\)"):
        obtain(OnnxInt8(), workspace)
    assert not (workspace.output_dir / "onnx_int8").exists()
    assert logging.getLogger().level != logging.ERROR
    monkeypatch.setattr(quantization, "quantize_dynamic", quantize)
    made = obtain(OnnxInt8(), workspace)
    assert sorted(file.name for file in made.path.iterdir()) == [
        *(artefacts.MARKER, "config.json", "model.onnx"),
    ]
    assert onnxruntime.InferenceSession(made.path / "model.onnx").get_outputs()[0].name == "logits"


def test_what_it_costs_is_counted_against_the_student(tmp_path):
    """By hand: of four dev samples one changes from right to wrong, of two OOD samples none changes."""
    answers = np.log(np.eye(2) * 0.8 + 0.1)
    student = evaluation.Scores(answers[[0, 1, 0, 1]], {"set": answers[[0, 0]]})
    own = evaluation.Scores(answers[[0, 1, 0, 0]], {"set": answers[[0, 0]]})
    places = {"float": tmp_path / "a", "int8": tmp_path / "b"}
    places["float"].write_bytes(b"1234")
    places["int8"].write_bytes(b"1")
    found = int8_figures.agreement(own, student, places)
    assert found["bytes"] == {"float": 4, "int8": 1}
    assert found["same_answer"]["dev"]["samples"] == 3 and found["same_answer"]["dev"]["share"] == 0.75
    assert found["same_answer"]["ood_set"]["share"] == 1.0
    assert found["same_answer"]["dev"]["interval"] == pytest.approx([0.3006, 0.9544], abs=1e-4)


@pytest.mark.slow
def test_figures_are_those_of_the_two_files(small, tmp_path):
    context = run_of(build(BASE, {}), small[0], tmp_path, words={"dev": ("a", "b", "c", "d")})
    key, encoder = next(iter(context.encoders.items()))
    columns = {"dev": type("Dev", (), {"lengths": np.array([4, 6, 9, 9])})}
    encoders = {key: type(encoder)(encoder.model, encoder.key, encoder.tokenizer, columns)}
    context = run_of(build(BASE, {}), small[0], tmp_path, words={"dev": "abcd"}, encoders=encoders)
    answers = np.log(np.eye(2) * 0.8 + 0.1)
    student = evaluation.Scores(answers[[0, 1, 0, 1]], {"set": answers[[0, 0]]})
    np.save(tmp_path / "dev.npy", answers[[0, 1, 0, 0]])
    np.save(tmp_path / "ood_set.npy", answers[[0, 0]])
    scored = Artefact(tmp_path, {}, reused=False)
    made = int8_figures.Int8(scored, {"float": small[1], "int8": small[2]})
    found = int8_figures.figures(context, made, student, 5000)
    assert (found["dev"], found["ood"]) == (0.75, {"set": 0.5})
    assert found["difference"]["dev"]["value"] == -0.25
    assert found["difference"]["ood_set"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert found["latency"]["tokens"] == {"float": 7, "int8": 7}
    assert [one["batch"] for one in found["latency"]["timings"]] == [1, 32]
    assert all(one["int8_ms"] > 0 < one["float_ms"] for one in found["latency"]["timings"])


INT8 = {
    "dev": 0.835,
    "ood": {"hans": 0.549},
    "ood_pooled": 0.549,
    "delta": 0.3425,
    "difference": {
        "dev": {"value": -0.003, "interval": [-0.005, -0.001]},
        "ood_hans": {"value": -0.002, "interval": None},
        "ood_pooled": {"value": -0.002, "interval": None},
        "delta": {"value": -0.0006, "interval": [-0.004, 0.003]},
    },
    "same_answer": {
        "dev": {"samples": 990, "share": 0.99, "interval": [0.982, 0.995]},
        "ood_hans": {"samples": 29000, "share": 0.967, "interval": [0.965, 0.969]},
    },
    "bytes": {"float": 40_000_000, "int8": 10_000_000},
    "latency": {
        "tokens": {"float": 20, "int8": 20},
        "device": "a processor",
        "threads": 2,
        "precision": "onnxruntime",
        "timings": [{"batch": 1, "float_ms": 4.0, "int8_ms": 1.0, "repeats": 50}],
        "left_out": ["a batch of 32 takes too long here"],
    },
}


def test_the_report_shows_both_side_by_side(tmp_path):
    page = Page(writing(tmp_path)(metrics() | {"int8": INT8}))
    table = {row[0]: [" ".join(cell.split()) for cell in row[1:]] for row in page.named["int8"][1:]}
    assert table["Dev accuracy, %"] == ["83.8", "83.5", "−0.3 [−0.5, −0.1]"]
    assert table["hans accuracy, %"] == ["55.1", "54.9", "−0.2"]
    assert table["Delta"][2] == "−0.001 [−0.004, +0.003]"
    assert table["Dev samples of the same class, %"][1] == "99.0 [98.2, 99.5]"
    assert table["ONNX file, MB"] == ["40.0", "10.0", "−75.0 %"]
    assert table["Latency, batch of 1, ms"] == ["4.00", "1.00", "−75.0 %"]


def test_a_run_without_the_file_says_nothing_of_it(tmp_path):
    assert summary.int8(metrics()) == []
    assert "8-bit" not in writing(tmp_path)(metrics())


def test_the_sentences():
    size, accuracy, latency, left_out = summary.int8(metrics() | {"int8": INT8})
    assert "10.0 MB (float32 40.0)" in size and "99.0 % of dev (95 % interval 98.2 to 99.5)" in size
    assert "dev 83.5 instead of 83.8 % (−0.3 points, 95 % interval −0.5 to −0.1)" in accuracy
    assert "OOD 54.9 instead of 55.1 % (−0.2 points)" in accuracy
    assert "1.00 ms for a batch of 1 (float32 4.00); 20 tokens, a processor, 2 threads" in latency
    assert left_out.startswith("Latency of the ONNX files not measured: a batch of 32")


def test_missing_packages_are_known_before_training(monkeypatch):
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(UserError, match=r"package onnxruntime; .*requirements-onnx\.txt"):
        run.check_export("all", "onnx-int8")
    with pytest.raises(UserError, match=r"--export onnx-int8: .*--stage teacher"):
        run.check_export("teacher", "onnx-int8")
