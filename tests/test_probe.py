"""A model that does not fit its tokenizer or the run is known before anything is trained."""

from types import SimpleNamespace

import families
import numpy as np
import pyarrow as pa
import pytest
import torch
from folders import encode_split
from tokenizer_models import CONFIGS, WORDS, made
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, LlamaConfig

from compress.data import batches, tokens
from compress.data.columns import Columns
from compress.data.splits import Split
from compress.data.texts import Texts
from compress.errors import UserError
from compress.models import encoders, padding, probe, stand_in
from compress.stages import given_models

NAMES = ["input_ids", "attention_mask"]


def check(folder, length=32):
    return probe.check(folder, "robust_compression.student.model: 'x'", length)


def refused(folder, length=32):
    with pytest.raises(UserError) as error:
        check(folder, length)
    sentence = str(error.value)
    assert sentence.startswith("robust_compression.student.model: 'x'") and "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("kind", "tokenizer", "words"),
    [
        ("roberta", {}, "segment ids (token_type_ids) up to 1"),
        ("bert", {"words": (*WORDS, "one", "two")}, "token ids up to 32"),
        ("gpt2 other pad", {"model_input_names": NAMES}, "pad_token_id 9 in its config.json"),
    ],
    ids=["segments", "ids", "other pad id"],
)
def test_what_does_not_fit_is_one_sentence(tmp_path, kind, tokenizer, words):
    assert words in refused(made(tmp_path, kind, **tokenizer))


def with_image_token(folder):
    """As Gemma 3 models of texts: a special token of the tokenizer has no embedding."""
    made(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    tokenizer.save_pretrained(folder)
    return folder


def test_a_special_token_that_no_text_needs_may_lack_its_embedding(tmp_path):
    assert check(with_image_token(tmp_path / "image")).table == len(WORDS)
    assert check(made(tmp_path / "plain")).table is None
    folder = with_image_token(tmp_path / "named")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.sep_token = "<image_soft_token>"
    tokenizer.save_pretrained(folder)
    assert f"token ids up to {len(WORDS)}" in refused(folder)


def test_a_text_that_holds_it_is_named(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(with_image_token(tmp_path))
    texts, table = (["wa", "wb"] * 2, ["wc", "wc", "wa <image_soft_token>", "wc"]), len(WORDS)
    encode_split(
        split := Split.of(texts, np.zeros(4, np.int64), ("a", "b"), (0, 1)),
        tokenizer,
        16,
        tmp_path / "columns",
    )
    columns = Columns.open(tmp_path / "columns", 0)
    assert tokens.first_beyond(columns, table + 1) is None
    assert tokens.first_beyond(columns, table) == (2, table)
    encoder, data = SimpleNamespace(columns={"dev": columns}, tokenizer=tokenizer), SimpleNamespace
    with pytest.raises(UserError, match=rf"model: sample 3 of dev holds '<image_.*id {table}\)"):
        given_models.check_ids("model", encoder, table, data(splits=lambda: {"dev": split}))
    places = Texts(split.texts.table.append_column("number", pa.array([5, 6, 8, 9])), np.array([1, 2]))
    assert places.row(1, "dev") == "row 8 of dev"


@pytest.mark.parametrize(
    ("kind", "tokenizer", "lacking"),
    [
        ("gpt2", {"pad": None}, "its tokenizer named none"),
        ("gpt2 without pad", {}, "its config.json named none"),
        ("gpt2 without pad", {"pad": None}, "its tokenizer and config.json named none"),
    ],
    ids=["tokenizer", "configuration", "both"],
)
def test_a_padding_token_is_chosen_and_said(tmp_path, kind, tokenizer, lacking):
    """The tokenizer of this model has '[PAD]' among its special tokens."""
    folder = made(tmp_path, kind, model_input_names=NAMES, **tokenizer)
    [note] = check(folder).notes
    assert note.startswith("robust_compression.student.model: 'x': ")
    assert f"padding token is '[PAD]', id 0: {lacking}" in note
    assert encoders.load_tokenizer(folder).pad_token_id == 0
    assert encoders.load_config(folder).pad_token_id == 0
    encoders.load_tokenizer(folder).save_pretrained(tmp_path / "again")
    assert AutoTokenizer.from_pretrained(tmp_path / "again").pad_token == "[PAD]"


@pytest.mark.parametrize(
    ("added", "given", "wanted"),
    [
        ([], None, "</s>"),
        (["<|vision_pad|>", "<|pad_of_texts|>"], None, "<|pad_of_texts|>"),
        (["<|pad_of_texts|>"], 5, "token 5"),
    ],
    ids=["the end of a text", "an added token of that name", "that of the configuration"],
)
def test_which_padding_token_is_chosen(added, given, wanted):
    tokenizer = families.tokenizer(decoder=True, padding=False)
    tokenizer.add_special_tokens({"additional_special_tokens": added})
    if wanted == "token 5":
        wanted = tokenizer.convert_ids_to_tokens(5)
    config = LlamaConfig(vocab_size=len(tokenizer), pad_token_id=given)
    assert f"'{wanted}'" in padding.settle(tokenizer, config)
    assert tokenizer.pad_token == wanted and config.pad_token_id == tokenizer.pad_token_id
    assert padding.settle(tokenizer, config) is None


def test_without_any_token_to_pad_with_nothing_is_chosen():
    tokenizer = families.tokenizer(padding=False)
    tokenizer.eos_token = None
    config = LlamaConfig(vocab_size=len(tokenizer), pad_token_id=None)
    assert padding.settle(tokenizer, config) is None
    assert (tokenizer.pad_token_id, config.pad_token_id) == (None, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "longest"),
    [("bert", 66), ("roberta", 65), ("roberta pad 1", 64), ("gpt2", 66), ("albert", 66)],
)
def test_positions_are_counted_by_the_model(tmp_path, kind, longest):
    folder = made(tmp_path, kind, model_input_names=NAMES)
    assert check(folder, longest).names == tuple(NAMES)
    for length in (longest + 1, 5000):
        assert f"has {longest} positions, but" in refused(folder, length)


def test_a_model_without_a_table_of_positions(tmp_path):
    assert check(made(tmp_path, "xlnet", padding_side="left"), 300).side == "left"


def logits(folder, side, rows):
    """Of a classifier with real random weights: rows of tokens, padded on a side."""
    torch.manual_seed(1)
    config = CONFIGS["xlnet"].__class__.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    torch.nn.init.normal_(model.logits_proj.weight)
    with torch.no_grad():
        return model(**batches.pad({"input_ids": rows}, 0, side)).logits


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_of_the_padding_is_the_one_that_changes_no_scores(tmp_path, side):
    """XLNet reads the last token: with padding on the right it reads padding."""
    folder = made(tmp_path, "xlnet", padding_side=side)
    fit = check(folder)
    assert fit.side == "left"
    assert [("misreads padding on the right" in note) for note in fit.notes] == [True] * (
        side != "left"
    )
    rows = [[5, 6, 7, 8, 3, 2], [9, 3, 2]]
    alone = logits(folder, "left", rows[1:])
    torch.testing.assert_close(logits(folder, "left", rows)[1:], alone)
    assert (logits(folder, "right", rows)[1:] - alone).abs().max() > 1e-3


def test_a_padding_side_that_absolute_positions_misread(tmp_path):
    assert check(made(tmp_path, "bert", padding_side="left")).side == "right"


@pytest.mark.parametrize(
    ("kind", "given", "kept"),
    [
        ("bert", {}, True),
        ("bert", {"model_input_names": NAMES}, False),
        ("bert", {"model_input_names": ["input_ids", "token_type_ids"]}, True),
        ("distilbert", {}, False),
        ("roberta pad 1", {}, True),
    ],
    ids=["both", "tokenizer gives none", "tokenizer gives no mask", "model takes none", "two types"],
)
def test_a_tokenizer_hands_over_what_the_model_uses(tmp_path, kind, given, kept):
    folder = made(tmp_path / "a", kind, **given)
    tokenizer = probe.settled(folder)
    tokenizer.save_pretrained(tmp_path / "b")
    wanted = {*NAMES, *(["token_type_ids"] if kept else [])}
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "b")):
        assert set(each(["wa wb"], ["wc"])) == wanted
    assert ("token_type_ids" in tokens.cut(tokenizer, 16).lists((["wa"], ["wb"]))) == kept


def test_a_token_that_only_the_model_takes_for_padding_is_noted(tmp_path):
    folder = made(tmp_path, "roberta pad 1")
    assert ["'[UNK]'" in note for note in check(folder).notes] == [True]
    assert check(made(tmp_path / "fits", "bert")).notes == ()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "gpt2", "xlnet", "albert"])
def test_one_block_says_the_same_as_all(tmp_path, monkeypatch, kind):
    side = {"padding_side": "left"} if kind == "xlnet" else {}
    folder = made(tmp_path, kind, model_input_names=NAMES, **side)
    whole = check(folder), probe.longest(folder, 80)
    monkeypatch.setattr(stand_in, "WHOLE", 0)
    assert (check(folder), probe.longest(folder, 80)) == whole


def test_a_large_model_is_asked_by_one_block():
    config = BertConfig(num_hidden_layers=12, layer_types=["full_attention"] * 12)
    small = stand_in.shallow(config)
    assert (small.num_hidden_layers, small.layer_types) == (1, ["full_attention"])
    assert config.num_hidden_layers == 12


def test_asking_leaves_the_random_state_as_it_is(tmp_path):
    folder = made(tmp_path)
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    check(folder)
    assert torch.equal(torch.rand(3), wanted)
