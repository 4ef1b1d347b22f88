"""Real dimensions: a model with heads and rows cut out says what the masked one says, and loads."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import CONFIGS, IDS, SIZES, exported, fresh, kept, masked
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
)

import compress
from compress.errors import UserError
from compress.models import architectures, compressed, encoders
from compress.models.blocks import find_blocks
from compress.models.compressed import Kept, Layer


@pytest.fixture(params=CONFIGS)
def config(request):
    return fresh(request.param)


@pytest.mark.slow
def test_the_small_model_says_what_the_masked_one_says(config, tmp_path):
    model = masked(config)
    with torch.no_grad():
        wanted = model(IDS).logits
    exported(model, tmp_path)
    loaded = compress.load_compressed(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, wanted, atol=1e-5, rtol=1e-5)
    assert not loaded.training
    assert wanted.abs().max() > 0.01
    shapes = [Layer(block.heads, block.neurons) for block in find_blocks(loaded)]
    assert shapes == [Layer(len(own.heads), len(own.neurons)) for own in kept(loaded.config)]


def test_the_tensors_are_really_smaller(tmp_path):
    exported(masked(fresh("bert")), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert weights["bert.encoder.layer.0.attention.self.query.weight"].shape == (18, 24)
    assert weights["bert.encoder.layer.1.attention.output.dense.weight"].shape == (24, 6)
    assert weights["bert.encoder.layer.1.intermediate.dense.bias"].shape == (27,)
    assert weights["bert.encoder.layer.0.output.dense.weight"].shape == (24, 16)


def test_equal_widths_with_all_heads_load_without_us(tmp_path):
    config = BertConfig(**SIZES)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    kept = [Kept((0, 1, 2, 3), tuple(range(16))), Kept((0, 1, 2, 3), tuple(range(8, 24)))]
    small = compressed.cut(model.state_dict(), model, kept)
    compressed.describe(config, [Layer(4, 16)] * 2)
    new = compressed.build(config)
    new.load_state_dict(small)
    new.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(plain(IDS).logits, new.eval()(IDS).logits)
    assert plain.config.intermediate_size == 16


@pytest.mark.parametrize(("name", "plainly"), [("llama", False), ("gemma2", False), ("qwen3", True)])
def test_even_groups_load_without_us_where_the_class_takes_their_number(name, plainly, tmp_path):
    """6 heads do not divide a hidden size of 32: Llama's and Gemma's configurations refuse that."""
    sizes = {"hidden_size": 32, "head_dim": 4, "num_attention_heads": 8, "num_key_value_heads": 4}
    config = CONFIGS[name].__class__.from_dict(CONFIGS[name].to_dict() | sizes)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    kept = [Kept((0, 1, 3), tuple(range(32))), Kept((1, 2, 3), tuple(range(32)))]
    small = compressed.cut(model.state_dict(), model, kept)
    compressed.describe(config, [Layer(3, 32)] * 2)
    new = compressed.build(config).eval()
    new.load_state_dict(small)
    new.save_pretrained(tmp_path)
    assert (config.num_attention_heads, config.num_key_value_heads) == ((6, 3) if plainly else (8, 4))
    assert (compressed.sizes(encoders.load_config(tmp_path)) is None) == plainly
    with torch.no_grad():
        wanted = new(IDS).logits
        assert torch.equal(compress.load_compressed(tmp_path)(IDS).logits, wanted)
        if plainly:
            plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
            assert torch.equal(plain(IDS).logits, wanted)


@pytest.fixture
def folder(tmp_path):
    config = BertConfig(**SIZES, id2label={0: "yes", 1: "no"}, label2id={"yes": 0, "no": 1})
    exported(masked(config), tmp_path)
    return tmp_path


def test_load_half_a_file(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match=r"model.safetensors: is damaged or incomplete"):
        compress.load_compressed(folder)


def test_load_without_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights of a model"):
        compress.load_compressed(folder)


@pytest.mark.parametrize("place", ["student/model", "model"])
def test_load_from_the_directory_of_a_run(folder, tmp_path, place):
    run = tmp_path / "run"
    shutil.copytree(folder, run / place)
    for reason in ("it has no config.json", "has no weights of a model"):
        with pytest.raises(UserError, match=reason) as error:
            compress.load_compressed(run)
        assert str(error.value).endswith(f"; did you mean '{run / place}'?")
        (run / "config.json").write_text("{}")


def test_load_with_a_missing_tensor(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"does not fit its config.json.*layer.1.output.dense.weight"):
        compress.load_compressed(folder)


@pytest.mark.parametrize(
    "entries", [[{"heads": 4}] * 2, [{"heads": 4, "rows": 8}], [{"heads": 0, "rows": 8}] * 2, 7]
)
def test_load_with_sizes_that_make_no_model(folder, entries):
    values = json.loads((folder / "config.json").read_text())
    values["compressed_layers"] = entries
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="compressed_layers"):
        compress.load_compressed(folder)


def test_a_cut_model_in_half_precision_loads_in_float32(folder):
    compress.load_compressed(folder).half().save_pretrained(folder)
    assert {p.dtype for p in compress.load_compressed(folder).parameters()} == {torch.float32}


def test_load_with_a_configuration_that_makes_no_model(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "num_attention_heads": 5}))
    with pytest.raises(UserError, match=r"config.json makes no model"):
        compress.load_compressed(folder)


def test_half_a_file_is_known_from_its_header(folder):
    encoders.check_weights(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"model.safetensors: is damaged or incomplete"):
        encoders.check_weights(folder)


@pytest.mark.parametrize("left", [0, 100, -100])
def test_half_a_file_of_pytorch_is_known_too(folder, left):
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    torch.save({"weight": torch.zeros(100, 100)}, file)
    encoders.check_weights(folder)
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(UserError, match=r"pytorch_model.bin: is damaged or incomplete"):
        encoders.check_weights(folder)


def test_load_no_directory(tmp_path):
    with pytest.raises(UserError, match="load_compressed: there is no directory"):
        compress.load_compressed(tmp_path / "nothing")
    with pytest.raises(UserError, match="no model directory"):
        compress.load_compressed(tmp_path)


def test_an_architecture_without_a_mapping_is_named():
    with pytest.raises(UserError, match="no entry says where the architecture 'gpt2'"):
        architectures.find(GPT2Config())


@pytest.mark.parametrize("name", ["mistral", "ministral", "gemma2", "gemma3", "modernbert"])
def test_more_padding_than_a_sliding_window_changes_nothing(name):
    """Rows that may look at padding only must not spread what is no number."""
    config = fresh(name)
    config.sliding_window = 4
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    ids = torch.randint(3, 39, (2, 24))
    ids[1, 8:] = config.pad_token_id
    mask = (ids != config.pad_token_id).long()
    alone = model(ids[1:, :8]).logits
    both = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-5)
    both.sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
