"""Weights that stay in their file: what fills each parameter is what whole loading puts there."""

import copy
import errno
import io
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_models import ALIKE, CONFIGS, KEPT
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from compress.compression.pruners import layers
from compress.compression.pruners.layers import LayerReduction
from compress.errors import UserError
from compress.methods import Method, Run
from compress.models import compressed, deferred, encoders
from compress.models.compressed import Layer
from compress.models.weight_files import WeightFiles, WeightWriter

LABELS = ("no", "yes")
pytestmark = pytest.mark.fast


def _classifier(kind: str) -> PreTrainedModel:
    return AutoModelForSequenceClassification.from_config(copy.deepcopy(CONFIGS[kind]))


def _filled(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The state of a model once everything is read."""
    deferred.fill(model)
    return model.state_dict()


def _same(found: PreTrainedModel, whole: PreTrainedModel) -> None:
    """Parameters, persistent buffers and the others are equal."""
    assert deferred.deferred(found)
    state, expected = _filled(found), whole.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    buffers = dict(found.named_buffers())
    assert buffers.keys() == dict(whole.named_buffers()).keys()
    assert all(torch.equal(buffers[name], value) for name, value in whole.named_buffers())
    assert [p.requires_grad for p in found.parameters()] == [
        p.requires_grad for p in whole.parameters()
    ]


def _load(path: Path, **options: bool) -> PreTrainedModel:
    torch.manual_seed(3)
    return encoders.load_classifier(path, LABELS, **options)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_classifier_is_filled_from_its_file(kind: str, tmp_path: Path) -> None:
    model = _classifier(kind)
    model.config.id2label, model.config.label2id = dict(enumerate(LABELS)), {"no": 0, "yes": 1}
    model.save_pretrained(tmp_path)
    _same(_load(tmp_path, whole=False), _load(tmp_path))


@pytest.mark.parametrize("kind", ["bert", "modernbert", "llama", "albert", "mpnet"])
def test_an_encoder_without_a_head_gets_the_same_random_one(kind: str, tmp_path: Path) -> None:
    AutoModel.from_config(copy.deepcopy(CONFIGS[kind])).save_pretrained(tmp_path)
    _same(_load(tmp_path, whole=False), _load(tmp_path))


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "albert"])
def test_a_model_of_listed_sizes_is_filled(kind: str, tmp_path: Path) -> None:
    config = _classifier(kind).config
    config.id2label, config.label2id = dict(enumerate(LABELS)), {"no": 0, "yes": 1}
    kept = ALIKE if kind == "mpnet" else KEPT
    compressed.describe(config, [Layer(len(k.heads), len(k.neurons)) for k in kept])
    compressed.build(config).save_pretrained(tmp_path)
    _same(_load(tmp_path, whole=False), _load(tmp_path))


def test_labels_in_another_order_are_arranged(tmp_path: Path) -> None:
    model = _classifier("bert")
    model.config.id2label, model.config.label2id = {0: "yes", 1: "no"}, {"yes": 0, "no": 1}
    model.save_pretrained(tmp_path)
    found = _load(tmp_path, whole=False)
    assert torch.equal(found.classifier.weight, model.classifier.weight[[1, 0]])
    _same(found, _load(tmp_path))


@pytest.mark.parametrize("kind", ["bert", "modernbert", "llama", "deberta"])
def test_layer_reduction_draws_the_same_fresh_modules(kind: str, tmp_path: Path) -> None:
    """The ZeRO stage, which decides whether a model is deferred, is in no student's key."""
    model = _classifier(kind)
    model.config.id2label, model.config.label2id = dict(enumerate(LABELS)), {"no": 0, "yes": 1}
    model.save_pretrained(tmp_path)
    first, *others = layers.outside(model)
    block = LayerReduction(enabled=True, teacher_layer=[1], other_module_name=[first])
    found, whole = (block.reduced(_load(tmp_path, whole=is_whole), [1]) for is_whole in (False, True))
    _same(found, whole)
    head = others[-1]
    assert not torch.equal(
        next(whole.get_submodule(head).parameters()), next(model.get_submodule(head).parameters())
    )


def test_nothing_is_in_memory_before(tmp_path: Path) -> None:
    _classifier("llama").save_pretrained(tmp_path)
    found = _load(tmp_path, whole=False)
    assert {p.device.type for p in found.parameters()} == {"meta"}


def test_files_of_weights_in_parts(tmp_path: Path) -> None:
    model = _classifier("bert")
    model.config.save_pretrained(tmp_path)
    writer = WeightWriter(tmp_path, limit=4000)
    writer.add((name, tensor) for name, tensor in model.state_dict().items())
    writer.close()
    parts = sorted(tmp_path.glob("*.safetensors"))
    biggest = max(4 * tensor.numel() for tensor in model.state_dict().values())
    assert len(parts) > 2 and max(part.stat().st_size for part in parts) < max(4000, biggest) + 2000
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    files = WeightFiles(tmp_path)
    assert set(files.names) == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], tensor) and torch.equal(files.read(name), tensor)
    parts[1].unlink()
    with pytest.raises(Exception, match=f"has no {parts[1].name}"):
        WeightFiles(tmp_path)


def test_what_is_no_tensor_in_a_pickled_file_is_left_out(tmp_path: Path) -> None:
    """As transformers does: some training programs keep a step or an epoch beside the weights."""
    model = _classifier("bert")
    model.config.id2label, model.config.label2id = dict(enumerate(LABELS)), {"no": 0, "yes": 1}
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    torch.save({**model.state_dict(), "epoch": 3}, tmp_path / "pytorch_model.bin")
    _same(_load(tmp_path, whole=False), _load(tmp_path))


def test_a_tensor_that_was_read_needs_its_file_no_longer(tmp_path: Path) -> None:
    """Memory that is mapped from a file ends the process where the disk fails."""
    file = tmp_path / "model.safetensors"
    tensors = {"a": torch.arange(5e5), "b": torch.tensor(3), "c": torch.ones(0, 2)}
    tensors |= {"d": torch.arange(7, dtype=torch.bfloat16)}
    save_file(tensors, file, metadata={"format": "pt"})
    files = WeightFiles(tmp_path)
    found = {name: files.read(name) for name in files.names}
    os.truncate(file, 1000)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    with pytest.raises(UserError, match=r"model\.safetensors: is damaged or incomplete"):
        files.read("a")


def test_a_disk_that_fails_while_a_tensor_is_read_is_named(tmp_path: Path, monkeypatch) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "model.safetensors")
    files, plain = WeightFiles(tmp_path), Path.open

    class Failing(io.BytesIO):
        def readinto(self, _: object) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def failing(path: Path, *mode: str) -> io.BufferedIOBase:
        return Failing(plain(path, *mode).read())

    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(UserError, match=r"model\.safetensors: .*Input/output error"):
        files.read("a")


@pytest.mark.parametrize("index", ["{}", "[]", '{"weight_map": []}'])
def test_a_damaged_index_is_named(index: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=r"index\.json: is damaged or incomplete"):
        WeightFiles(tmp_path)


def test_zeros_beside_a_deferred_weight_are_deferred() -> None:
    there = deferred.zeros((2, 3), nn.Linear(3, 2).weight)
    later = deferred.zeros((2, 3), torch.empty(2, 3, device="meta", dtype=torch.bfloat16))
    assert torch.equal(there, torch.zeros(2, 3)) and not hasattr(there, deferred.SOURCE)
    assert torch.equal(deferred.source_of(later)(), torch.zeros(2, 3, dtype=torch.bfloat16))


class Reader(Method):
    """Reads a weight before the engine is there."""

    name = "reader"

    def attach(self, model: PreTrainedModel, run: Run) -> None:
        self.largest = float(next(model.parameters()).detach().abs().max())


def test_a_method_that_reads_weights_too_early_is_named(tmp_path: Path) -> None:
    _classifier("bert").save_pretrained(tmp_path)
    Reader().attached(_load(tmp_path), None)
    with pytest.raises(UserError, match=r"test_deferred\.py: 'attach' of Reader needs weights"):
        Reader().attached(_load(tmp_path, whole=False), None)
