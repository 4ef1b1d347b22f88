"""A model directory's own code never runs, and a tokenizer that lacks a package names it."""

import io
import json
import sys

import pytest
from tokenizer_models import made
from transformers import DebertaV2Config

from compress.errors import UserError
from compress.models import encoders, loading, probe

CODE = """
import pathlib
pathlib.Path({marker!r}).write_text("ran")
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer
class Config(BertConfig):
    model_type = {kind!r}
class Model(BertForSequenceClassification):
    config_class = Config
class Tokenizer(BertTokenizer):
    pass
"""


def with_code(folder, file, kind=None, **entries):
    """A model whose `file` names classes of a module in its folder; kind: its type."""
    made(folder)
    marker = folder.parent / "ran"
    (folder / "own.py").write_text(CODE.format(marker=str(marker), kind=kind or "bert"))
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    return marker


@pytest.fixture(autouse=True)
def yes(monkeypatch):
    """A terminal on which every question is answered with y."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 50))


CALLS = {
    "config": encoders.load_config,
    "tokenizer": encoders.load_tokenizer,
    "classifier": lambda folder: encoders.load_classifier(folder, ("no", "yes")),
    "shape": encoders.fresh_from,
    "student": encoders.load_compressed,
    "probe": lambda folder: probe.check(folder, "robust_compression.model: 'x'", 16),
}
UNKNOWN = {
    "model_type": "their_own",
    "auto_map": {"AutoConfig": "own.Config", "AutoModelForSequenceClassification": "own.Model"},
}


@pytest.mark.parametrize("name", CALLS)
def test_code_of_an_unknown_model_is_not_run(tmp_path, name):
    marker = with_code(tmp_path / "model", "config.json", "their_own", **UNKNOWN)
    if name != "tokenizer":
        with pytest.raises(UserError, match="needs Python code of its own") as error:
            CALLS[name](tmp_path / "model")
        assert "\n" not in str(error.value)
    else:
        CALLS[name](tmp_path / "model")
    assert not marker.exists() and sys.stdin.tell() == 0


@pytest.mark.parametrize("name", CALLS)
def test_code_of_a_model_that_transformers_knows_is_not_run(tmp_path, name):
    """Its own class is taken."""
    architecture = {"architectures": ["BertForSequenceClassification"]}
    marker = with_code(tmp_path / "model", "config.json", auto_map=UNKNOWN["auto_map"], **architecture)
    if name != "student":  # the file holds no head
        CALLS[name](tmp_path / "model")
    assert not marker.exists() and sys.stdin.tell() == 0


@pytest.mark.parametrize("form", [[None, "own.Tokenizer"], {"AutoTokenizer": [None, "own.Tokenizer"]}])
@pytest.mark.parametrize("kind", ["Tokenizer", None, "BertTokenizer"])
def test_code_of_a_tokenizer_is_not_run(tmp_path, kind, form):
    """A class that transformers has is taken; another is refused, not replaced by a general one."""
    marker = with_code(tmp_path / "model", "tokenizer_config.json", auto_map=form, tokenizer_class=kind)
    if kind == "BertTokenizer":
        encoders.load_tokenizer(tmp_path / "model")
    else:
        with pytest.raises(UserError, match="tokenizer needs Python code of its own"):
            encoders.load_tokenizer(tmp_path / "model")
    assert not marker.exists() and sys.stdin.tell() == 0


@pytest.mark.parametrize(
    ("content", "package"), [(b"\n\x0e\n\x05<unk>", "sentencepiece"), (b"aGVsbG8= 1\n", "tiktoken")]
)
@pytest.mark.parametrize("name", ["spm.model", "tokenizer.model"])
def test_a_tokenizer_names_the_package_that_it_needs(tmp_path, monkeypatch, name, content, package):
    """transformers asks for tiktoken whatever the file is."""
    DebertaV2Config().save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "DebertaV2Tokenizer"}')
    monkeypatch.setattr(
        loading, "_installed", lambda module: module not in ("sentencepiece", "tiktoken")
    )
    with pytest.raises(UserError, match=f"package {package}.* pip install {package}"):
        encoders.load_tokenizer(tmp_path)


def test_a_vocabulary_under_another_name_is_not_replaced_by_special_tokens(tmp_path):
    DebertaV2Config().save_pretrained(tmp_path)
    (tmp_path / "spiece.model").write_bytes(b"\n\x0e\n\x05<unk>")
    with pytest.raises(UserError, match=r"special tokens only.*DebertaV2Tokenizer"):
        encoders.load_tokenizer(tmp_path)
