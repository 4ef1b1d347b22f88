"""Encoders: where they are found, what loads, and what is told of a directory that does not."""

import json
import shutil
from pathlib import Path

import families
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import BERT_SIZES
from transformers import BertConfig, BertForSequenceClassification, BertModel

from compress.errors import UserError
from compress.models import compressed, directories, encoders, probe

LABELS = ("yes", "no")
IDS = torch.tensor([[2, 5, 6, 3, 7, 3]])


@pytest.fixture
def copied(tmp_path, tiny_model):
    """A copy of the tiny encoder that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copied"))


@pytest.fixture
def teacher(tmp_path):
    """Function (id2label) -> directory of a random BERT classifier with these labels."""

    def make(id2label):
        folder = tmp_path / "teacher"
        label2id = {name: number for number, name in id2label.items()}
        with torch.random.fork_rng():
            torch.manual_seed(1)
            config = BertConfig(**BERT_SIZES, id2label=id2label, label2id=label2id)
            BertForSequenceClassification(config).save_pretrained(folder)
        return folder

    return make


def told(folder, call):
    """The one sentence that names the directory."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


def edit_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def logits(model):
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


# Where a model is found


def test_a_local_directory(tiny_model, tmp_path, monkeypatch):
    assert encoders.directory(str(tiny_model)) == tiny_model
    monkeypatch.chdir(tiny_model.parent)
    assert encoders.directory("model") == Path("model")
    assert encoders.directory("./model").resolve() == tiny_model.resolve()


@pytest.mark.parametrize("name", ["/no/such/place", "./nowhere", "../nowhere", "a/b/c"])
def test_a_path_that_does_not_exist_is_not_asked_of_the_hub(name, monkeypatch):
    monkeypatch.setattr("compress.data.hub.model_directory", lambda _: pytest.fail("asked the hub"))
    message = told(name, lambda: encoders.directory(name))
    assert "robust_compression.model: there is no directory" in message


def test_other_names_are_asked_of_the_hub(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(encoders.directories, "check", lambda path, key: None)
    monkeypatch.setattr(
        "compress.data.hub.model_directory", lambda *words: asked.append(words) or f"/cache/{words[0]}"
    )
    assert encoders.directory("bert-base", "student.model") == Path("/cache/bert-base")
    assert asked == [("bert-base", "student.model")]
    assert encoders.directory("someone/bert-base") == Path("/cache/someone/bert-base")


def test_a_folder_without_config(tmp_path):
    message = told(tmp_path, lambda: encoders.directory(str(tmp_path)))
    assert "config.json" in message


def test_the_encoder_that_comes_with_the_package():
    folder = encoders.directory(directories.SYNTHETIC_ENCODER)
    assert folder == Path(encoders.__file__).parents[1] / "synthetic/encoder"
    if not folder.is_dir():
        pytest.skip("the encoder is not there yet; compress.synthetic.pretrain makes it")
    assert (folder / "config.json").is_file()
    tokenizer = encoders.load_tokenizer(folder)
    assert tokenizer.unk_token_id not in tokenizer("the doctor saw the lawyer")["input_ids"]
    model = encoders.load_classifier(folder, LABELS)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_fingerprint_follows_the_content(copied, tiny_model):
    before = encoders.fingerprint(copied)
    assert before == encoders.fingerprint(tiny_model)
    for name in ("README.md", "eval_results.json", "trainer_state.json", "training_args.bin"):
        (copied / name).write_text("not part of the model")
    assert encoders.fingerprint(copied) == before
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        file = copied / name
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert encoders.fingerprint(copied) != before
        file.write_bytes(content)
        assert encoders.fingerprint(copied) == before
    (copied / "tokenizer.json").rename(copied / "renamed.json")
    assert encoders.fingerprint(copied) != before


# What loads


def test_a_fresh_head_depends_on_the_seed_only(tiny_model):
    heads = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        heads.append(encoders.load_classifier(tiny_model, LABELS).classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert heads[0].shape == (2, 32)
    assert heads[0].std() > 0


def test_the_encoder_is_that_of_the_file(tiny_model):
    model, encoder = encoders.load_classifier(tiny_model, LABELS), BertModel.from_pretrained(tiny_model)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(model.bert.state_dict()[name], tensor)


@pytest.mark.parametrize("labels", [("a", "b"), ("a", "b", "c")])
def test_the_labels_are_written_into_the_configuration(tiny_model, labels):
    config = encoders.load_classifier(tiny_model, labels).config
    assert config.num_labels == len(labels)
    assert config.id2label == dict(enumerate(labels))
    assert config.label2id == {name: number for number, name in enumerate(labels)}
    assert config.problem_type == "single_label_classification"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_float32_whatever_the_file_holds(tmp_path, tiny_model, dtype):
    half = BertModel.from_pretrained(tiny_model, dtype=dtype)
    half.save_pretrained(tmp_path / "half")
    assert {t.dtype for t in load_file(tmp_path / "half/model.safetensors").values()} == {dtype}
    model = encoders.load_classifier(tmp_path / "half", LABELS)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.dtype for p in compressed.build(model.config).parameters()} == {torch.float32}
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(model.bert.state_dict()[name], half.state_dict()[name].float())


def test_a_fresh_model_has_the_same_shapes_and_configuration(tiny_model):
    model = encoders.load_classifier(tiny_model, ("a", "b", "c"))
    other = compressed.build(model.config)
    assert type(other) is type(model)
    shapes = [{k: t.shape for k, t in m.state_dict().items()} for m in (model, other)]
    assert shapes[0] == shapes[1]
    assert other.config.id2label == model.config.id2label
    other.load_state_dict(model.state_dict())


# Teachers


def test_a_teacher_keeps_its_head(teacher):
    folder = teacher({0: "yes", 1: "no"})
    expected = logits(BertForSequenceClassification.from_pretrained(folder))
    for seed in (0, 1):
        torch.manual_seed(seed)
        assert torch.equal(logits(encoders.load_classifier(folder, LABELS, trained=True)), expected)
        assert torch.equal(logits(encoders.load_classifier(folder, LABELS)), expected)


def test_a_teacher_without_label_names_has_those_of_the_task(teacher):
    folder = teacher({0: "LABEL_0", 1: "LABEL_1"})
    expected = logits(BertForSequenceClassification.from_pretrained(folder))
    model = encoders.load_classifier(folder, LABELS, trained=True)
    assert torch.equal(logits(model), expected)
    assert model.config.id2label == {0: "yes", 1: "no"}


def test_a_teacher_with_the_labels_in_another_order(teacher):
    """Its classes are put in ours; another row of a matrix product may round otherwise."""
    folder = teacher({0: "no", 1: "yes"})
    theirs = BertForSequenceClassification.from_pretrained(folder)
    model = encoders.load_classifier(folder, LABELS, trained=True)
    assert torch.equal(model.classifier.weight, theirs.classifier.weight[[1, 0]])
    assert torch.allclose(logits(model), logits(theirs)[:, [1, 0]], atol=1e-6)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("labels", [("a", "b", "c"), ("a",)])
def test_a_classifier_of_another_number_of_labels(teacher, labels, trained):
    folder = teacher({0: "yes", 1: "no"})
    message = told(folder, lambda: encoders.load_classifier(folder, labels, trained=trained))
    assert "2 labels" in message
    assert f"has {len(labels)} ({', '.join(labels)})" in message


def test_an_encoder_is_no_teacher(tiny_model):
    message = told(tiny_model, lambda: encoders.load_classifier(tiny_model, LABELS, trained=True))
    assert "no classifier" in message
    assert "BertModel" in message


def test_a_teacher_whose_file_holds_no_head(copied):
    """The configuration says classifier, the weights do not have one: it would be a random one."""
    edit_config(copied, architectures=["BertForSequenceClassification"])
    told(copied, lambda: encoders.load_classifier(copied, LABELS, trained=True))


# What does not load


@pytest.mark.parametrize("size", [0, 5, 5000, -1])
def test_truncated_weights(copied, size):
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    told(copied, lambda: encoders.load_classifier(copied, LABELS))


def test_weights_that_are_missing(copied):
    (copied / "model.safetensors").unlink()
    told(copied, lambda: encoders.load_classifier(copied, LABELS))


def test_weights_of_another_shape(copied):
    edit_config(copied, hidden_size=64)
    told(copied, lambda: encoders.load_classifier(copied, LABELS))


def test_weights_of_another_model(copied):
    """None of the tensors fits by name: an encoder of random weights would come out."""
    file = copied / "model.safetensors"
    tensors = {f"other.{name}": tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    told(copied, lambda: encoders.load_classifier(copied, LABELS))


BROKEN_CONFIGS = {
    "cut": '{"model_type": "bert", ',
    "empty": "",
    "list": "[]",
    "no type": "{}",
    "unknown type": '{"model_type": "no-such-model"}',
    "wrong value": '{"model_type": "bert", "num_hidden_layers": "two"}',
}


@pytest.mark.parametrize("text", BROKEN_CONFIGS.values(), ids=BROKEN_CONFIGS)
@pytest.mark.parametrize(
    "call",
    [
        lambda f: encoders.load_classifier(f, LABELS),
        lambda f: probe.check(f, "robust_compression.model: 'x'", 32),
    ],
    ids=["load_classifier", "probe"],
)
def test_an_unreadable_configuration(copied, text, call):
    """`run.prepare` asks `probe` first, `load_classifier` follows."""
    (copied / "config.json").write_text(text)
    told(copied, lambda: call(copied))


def test_a_tokenizer(tiny_model):
    tokenizer = encoders.load_tokenizer(tiny_model)
    tokens = tokenizer.tokenize("The doctor saw the lawyer.")
    assert tokens == ["the", "doctor", "saw", "the", "lawyer", "."]
    assert tokenizer.pad_token_id == 0


def test_a_missing_tokenizer(copied):
    """`transformers` makes one up that knows nothing but the special tokens."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copied / name).unlink()
    message = told(copied, lambda: encoders.load_tokenizer(copied))
    assert "tokenizer" in message


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "{oops", "[]"])
def test_an_unreadable_tokenizer(copied, name, text):
    (copied / name).write_text(text)
    assert "tokenizer" in told(copied, lambda: encoders.load_tokenizer(copied))


def test_the_tokenizer_is_read_once_for_the_padding_token(tmp_path, monkeypatch):
    """Of a directory whose config.json names none; again if one of its files has changed."""
    folder, read, own = families.write("llama", tmp_path / "m"), [], encoders._own_tokenizer
    monkeypatch.setattr(encoders, "_own_tokenizer", lambda path: read.append(path) or own(path))
    assert [encoders.load_config(folder).pad_token_id for _ in range(3)] == [2, 2, 2]
    assert read == [folder]
    tokenizer = own(folder)
    tokenizer.pad_token = "<pad>"
    tokenizer.save_pretrained(folder)
    assert encoders.load_config(folder).pad_token_id == 0
    assert read == [folder, folder]
