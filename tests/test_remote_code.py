"""A student of its own dimensions loads with transformers alone if its code is trusted, else not."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_models import CONFIGS, IDS, KEPT, exported, fresh, masked
from small_models import kept as kept_of
from torch import nn

import compress
from compress.inference import onnx_export
from compress.models import compressed, encoders, modeling_compressed, remote_code
from compress.models.compressed import Kept, Layer

SCRIPT = Path(__file__).with_name("remote_code_alone.py")
EVEN_HEADS = [Kept((0, 3), tuple(range(32))), Kept((1, 2), tuple(range(32)))]
EVEN_NEURONS = [Kept((0, 1, 2, 3), tuple(range(20))), Kept((0, 1, 2, 3), tuple(range(4, 24)))]


def student(name, kept, folder):
    """A cut random model, written as the run writes it, with the logits that it must have."""
    model = masked(fresh(name))
    small = compressed.cut(model.state_dict(), model, kept)
    compressed.describe(model.config, [Layer(len(k.heads), len(k.neurons)) for k in kept])
    new = compressed.build(model.config)
    new.load_state_dict(small)
    remote_code.save(new, folder / "model")
    with torch.no_grad():
        torch.save(new.eval()(input_ids=IDS).logits, folder / "logits.pt")
    return new


def alone(folders, tmp_path):
    """What a fresh process without this package says of the directories."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-I", str(SCRIPT), *map(str, folders)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_transformers_alone_gives_the_identical_logits_or_no_model(tmp_path):
    """Without trust its own class meets tensors of another shape: an error, not a wrong model."""
    folders = [tmp_path / name for name in CONFIGS]
    for folder in folders:
        student(folder.name, kept_of(fresh(folder.name)), folder)
    folders.append(tmp_path / "even-heads")
    student("bert", EVEN_HEADS, folders[-1])
    for folder, found in zip(folders, alone(folders, tmp_path), strict=True):
        assert found["trusted"] is True and found["saved again"] is True, folder.name
        assert "mismatched" in found["default"] and found["refused"] == found["default"]
        again = compress.load_compressed(folder / "again")
        with torch.no_grad():
            assert torch.equal(again(input_ids=IDS).logits, torch.load(folder / "logits.pt"))


@pytest.mark.slow
def test_a_student_that_transformers_loads_gets_no_code(tmp_path):
    student("bert", EVEN_NEURONS, tmp_path)
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == [
        *("config.json", "model.safetensors"),
    ]
    [found] = alone([tmp_path], tmp_path)
    assert found == {"trusted": True, "default": True, "refused": True}


def by_hand(name):
    """`compressed_modules` of a model cut to `KEPT`, written out: hidden size 24, heads of 6."""
    found = {}
    for layer, (heads, neurons) in enumerate([(3, 16), (1, 27)]):
        if name == "bert":
            block = f"bert.encoder.layer.{layer}"
            projections = [f"{block}.attention.self.{one}" for one in ("query", "key", "value")]
            attention, out = f"{block}.attention.self", f"{block}.attention.output.dense"
            first, second = f"{block}.intermediate.dense", f"{block}.output.dense"
            found[attention] = {"num_attention_heads": heads, "all_head_size": 6 * heads}
        else:
            block = f"distilbert.transformer.layer.{layer}"
            projections = [f"{block}.attention.{one}_lin" for one in "qkv"]
            attention, out = f"{block}.attention", f"{block}.attention.out_lin"
            first, second = f"{block}.ffn.lin1", f"{block}.ffn.lin2"
            found[attention] = {"n_heads": heads}
        for each in projections:
            found[each] = {"in_features": 24, "out_features": 6 * heads}
        found[out] = {"in_features": 6 * heads, "out_features": 24}
        found[first] = {"in_features": 24, "out_features": neurons}
        found[second] = {"in_features": neurons, "out_features": 24}
    return found


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_config_json_lists_each_module_that_differs(name, tmp_path):
    student(name, KEPT, tmp_path)
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["compressed_modules"] == by_hand(name)
    kind = {"bert": "Bert", "distilbert": "DistilBert"}[name]
    assert config["auto_map"] == {
        "AutoModelForSequenceClassification": f"modeling_compressed.Compressed{kind}"
        "ForSequenceClassification"
    }
    assert [layer["heads"] for layer in config["compressed_layers"]] == [3, 1]


def test_this_package_never_runs_the_code_of_a_directory(tmp_path, monkeypatch):
    new = student("bert", KEPT, tmp_path)
    (tmp_path / "model/modeling_compressed.py").write_text("raise SystemExit('it ran')")
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked on the terminal"))
    loaded = compress.load_compressed(tmp_path / "model")
    assert type(loaded) is type(new)
    assert torch.equal(loaded(input_ids=IDS).logits, new(input_ids=IDS).logits)


def test_what_is_compressed_further_names_its_own_sizes(tmp_path):
    """A student that starts from a student carries its list until it is written itself."""
    student("bert", KEPT, tmp_path / "first")
    model = compress.load_compressed(tmp_path / "first/model")
    assert remote_code.needed(model.config)
    part = compressed.reduced(model.config, [0])
    remote_code.save(compressed.build(part), tmp_path / "second")
    found = json.loads((tmp_path / "second/config.json").read_text())["compressed_modules"]
    first = {name: sizes for name, sizes in by_hand("bert").items() if ".layer.0.attention" in name}
    assert found == first, "the ffn width of the only layer is that of config.json"
    config = copy.deepcopy(model.config)
    config.compressed_layers = None
    remote_code.save(compressed.build(config), tmp_path / "third")
    assert (
        not {"auto_map", "compressed_modules"}
        & json.loads((tmp_path / "third/config.json").read_text()).keys()
    )
    assert not (tmp_path / "third" / remote_code.FILE).exists()


@pytest.mark.slow
def test_the_onnx_directory_names_no_code(tmp_path):
    student("bert", KEPT, tmp_path)
    onnx_export.export(tmp_path / "model", tmp_path / "onnx/model.onnx")
    config = json.loads((tmp_path / "onnx/config.json").read_text())
    assert not {"auto_map", "compressed_modules"} & config.keys() and config["compressed_layers"]


def test_the_file_needs_nothing_of_this_package_and_is_copied_as_it_is(tmp_path):
    student("bert", KEPT, tmp_path)
    source = Path(modeling_compressed.__file__).read_text()
    assert (tmp_path / "model/modeling_compressed.py").read_text() == source
    assert "import compress" not in source and "from compress" not in source
    assert len(source.splitlines()) < 80


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"bert.encoder.layer.7": {"x": 1}}, "names 'bert.encoder.layer.7', which the model lacks"),
        ({"bert.pooler": {"forward": 1}}, "sets 'bert.pooler.forward', which is no size"),
        ({"bert.encoder.layer.0.attention.self": {"num_attention_heads": "x"}}, "which is no size"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(sizes, sentence):
    config = fresh("bert")
    config.compressed_modules = sizes
    with pytest.raises(ValueError, match=sentence):
        modeling_compressed.CompressedBertForSequenceClassification(config)


def test_a_class_is_one_of_transformers_or_there_is_none():
    kind = modeling_compressed.CompressedBertForSequenceClassification
    assert kind is modeling_compressed.CompressedBertForSequenceClassification
    plain = kind(fresh("bert"))
    assert {name: p.shape for name, p in plain.named_parameters()} == {
        name: p.shape for name, p in masked(fresh("bert")).named_parameters()
    }
    for name in ("BertForSequenceClassification", "CompressedNothing", "CompressedAutoConfig"):
        with pytest.raises(AttributeError):
            getattr(modeling_compressed, name)


def test_a_layer_keeps_its_type_and_whether_it_has_a_bias():
    model = nn.Sequential(nn.Linear(4, 4, bias=False, dtype=torch.bfloat16))
    modeling_compressed.resize(model, "0", {"in_features": 4, "out_features": 2})
    assert model[0].weight.shape == (2, 4) and model[0].weight.dtype == torch.bfloat16
    assert model[0].bias is None


def test_directories_of_before_load_as_they_did(tmp_path):
    new = exported(masked(fresh("bert")), tmp_path)
    assert not remote_code.needed(encoders.load_config(tmp_path))
    loaded = compress.load_compressed(tmp_path)
    assert torch.equal(loaded(input_ids=IDS).logits, new.eval()(input_ids=IDS).logits)
