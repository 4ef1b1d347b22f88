"""The ONNX file says what PyTorch says, in any shape, or it is not there."""

import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from configs import BASE
from small_models import CONFIGS, SIZES, exported, fresh, kept, masked
from stage_runs import run_of
from transformers import AutoModelForSequenceClassification, BartConfig, BertConfig

import compress
from compress import run
from compress.configuration.config import build
from compress.errors import UserError
from compress.inference import onnx_export
from compress.models.blocks import find_blocks
from compress.stages import onnx as onnx_stage
from compress.stages.stage import Stage, obtain

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SHAPES = ((1, 1), (2, 9), (7, 38))


def directory(name, cut, folder):
    """Write a random model, plain or with uneven layers."""
    model = masked(fresh(name))
    if cut:
        exported(model, folder)
    else:
        model.save_pretrained(folder)
    return folder


def answers(file, inputs):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == list(inputs)
    return session.run(["logits"], {name: tensor.numpy() for name, tensor in inputs.items()})[0]


def padded(model, batch, length):
    """Make inputs by hand: row i ends in i tokens of padding, the middle of a row starts segment 1."""
    torch.manual_seed(batch)
    ids = torch.randint(2, 40, (batch, length))
    mask = torch.ones_like(ids)
    for row in range(min(batch, length)):
        mask[row, length - row :] = 0
    inputs = {"input_ids": torch.where(mask == 1, ids, 0), "attention_mask": mask}
    if model.config.model_type in {"bert", "roberta", "electra", "albert"}:
        inputs["token_type_ids"] = torch.zeros_like(ids)
        inputs["token_type_ids"][:, length // 2 :] = 1
    return inputs


@pytest.mark.parametrize("cut", [False, True], ids=["plain", "cut"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_file_says_what_pytorch_says(name, cut, tmp_path):
    folder, file = directory(name, cut, tmp_path / "model"), tmp_path / "deep" / "model.onnx"
    onnx_export.export(folder, file)
    model = compress.load_compressed(folder)
    if cut:
        assert [block.heads for block in find_blocks(model)] == [
            len(own.heads) for own in kept(model.config)
        ]
    for batch, length in SHAPES:
        inputs = padded(model, batch, length)
        with torch.no_grad():
            wanted = model(**inputs).logits.numpy()
        np.testing.assert_allclose(answers(file, inputs), wanted, atol=1e-5, rtol=1e-5)
    assert sorted(path.name for path in file.parent.iterdir()) == ["config.json", "model.onnx"]


@pytest.fixture
def plain(tmp_path):
    return directory("bert", False, tmp_path / "model")


def test_segments_and_padding_reach_the_graph(plain, tmp_path):
    """Without them in the graph, other segments or another mask would change nothing."""
    file, model = tmp_path / "m.onnx", compress.load_compressed(plain)
    onnx_export.export(plain, file)
    inputs = padded(model, 3, 8)
    base = answers(file, inputs)
    for name in ("token_type_ids", "attention_mask"):
        other = {**inputs, name: torch.ones_like(inputs[name])}
        assert np.abs(answers(file, other) - base).max() > 1e-3


def test_another_models_file_is_refused_and_the_old_one_stays(plain, tmp_path, monkeypatch):
    file, write = tmp_path / "out" / "m.onnx", onnx_export._write

    def nudged(model, *others):
        model.classifier.bias.data[0] += 2e-4
        write(model, *others)

    file.parent.mkdir()
    file.write_text("older")
    monkeypatch.setattr(onnx_export, "_write", nudged)
    with pytest.raises(UserError, match=r"model: .*ONNX.* differs .*0\.0002"):
        onnx_export.export(plain, file)
    assert [path.name for path in file.parent.iterdir()] == ["m.onnx"]
    assert file.read_text() == "older"


def test_a_graph_of_one_shape_is_refused(plain, tmp_path, monkeypatch):
    """A file without dynamic axes runs in the traced shape only."""
    export = torch.onnx.export

    def fixed(*arguments, dynamic_axes, **options):
        export(*arguments, **options)

    monkeypatch.setattr(torch.onnx, "export", fixed)
    with pytest.raises(UserError, match="onnxruntime cannot run its ONNX file"):
        onnx_export.export(plain, tmp_path / "out" / "m.onnx")
    assert not [*(tmp_path / "out").iterdir()]


def test_scores_that_are_no_numbers_are_refused(tmp_path):
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SIZES))
    torch.nn.init.constant_(model.classifier.weight, float("nan"))
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="differs from PyTorch by nan"):
        onnx_export.export(tmp_path / "model", tmp_path / "m.onnx")


def test_a_damaged_directory_and_an_unwritable_file(plain, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written \((File exists|Not a directory)\)"):
        onnx_export.export(plain, tmp_path / "file" / "m.onnx")
    (plain / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights of a model"):
        onnx_export.export(plain, tmp_path / "m.onnx")


def test_random_inputs_are_real_tokens_or_end_in_padding():
    config = BertConfig(**{**SIZES, "pad_token_id": 7})
    exact = onnx_export.random_inputs(config, 64, 5)
    assert exact["attention_mask"].all()
    assert set(exact["input_ids"].flatten().tolist()) == set(range(40)) - {7}
    short = onnx_export.random_inputs(config, 6, 4, padded=True)
    assert short["attention_mask"].sum(1).tolist() == [4, 3, 2, 1, 1, 1]
    assert torch.equal(short["input_ids"] == 7, short["attention_mask"] == 0)
    assert short["token_type_ids"].tolist()[:2] == [[0, 0, 1, 1], [0, 0, 1, 0]]


def test_random_inputs_end_the_text_once_where_the_model_has_a_token_for_it():
    """BART's classifier reads its state there, and takes no row with more of them or none."""
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 40}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_labels": 3}
    config = BartConfig(**sizes, **heads, encoder_ffn_dim=16, decoder_ffn_dim=16, eos_token_id=2)
    inputs = onnx_export.random_inputs(config, 64, 5, padded=True)
    real = inputs["attention_mask"].sum(dim=1)
    assert torch.equal((inputs["input_ids"] == config.eos_token_id).nonzero()[:, 1], real - 1)
    with torch.no_grad():
        logits = AutoModelForSequenceClassification.from_config(config).eval()(**inputs).logits
    assert logits.shape == (64, 3)


def test_missing_packages_are_known_before_training(monkeypatch):
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(UserError, match=r"package onnx; .*requirements-onnx\.txt"):
        run.check_export("all", "onnx")
    run.check_export("all", None)


@pytest.mark.parametrize("stage", ["teacher", "difficulty"])
def test_an_export_that_cannot_take_effect(stage):
    with pytest.raises(UserError, match=f"--export onnx: .*--stage {stage}"):
        run.check_export(stage, "onnx")


def test_the_run_writes_the_student_once_for_each_student(plain, tmp_path, monkeypatch):
    class Finished(Stage):
        name = "student"

        def reads(self, config):
            return ("robust_compression.seed",)

        def make(self, run, made):
            return lambda folder: shutil.copytree(plain, folder / "model")

    monkeypatch.setattr(onnx_stage, "Student", Finished)

    def written(seed):
        merged = BASE | {"robust_compression": BASE["robust_compression"] | {"seed": seed}}
        made = obtain(onnx_stage.Onnx(), run_of(build(merged, {}), plain, tmp_path))
        return made.reused, (tmp_path / "run/onnx/model.onnx").stat().st_mtime_ns

    (_, first), again, (reused, second) = written(1), written(1), written(2)
    assert again == (True, first) and not reused and second != first


def test_the_command_line_refuses_before_it_writes(tmp_path, monkeypatch):
    files = [str(ROOT / "ds_configs" / name) for name in ("zero0.json", "tasks/synthetic.json")]
    options = ["--output_dir", str(tmp_path / "run"), "--stage", "teacher", "--export", "onnx"]
    monkeypatch.setattr(sys, "argv", ["train.py", "--deepspeed_config", *files, *options])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(UserError, match="--export onnx: there is no student"):
        runpy.run_path(str(ROOT / "train.py"))["main"]()
    assert not (tmp_path / "run").exists()
