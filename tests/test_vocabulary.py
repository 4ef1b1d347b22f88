"""Texts that a tokenizer does not know are said loudly, because the model cannot tell them apart."""

import numpy as np
import pytest
from folders import encode_split
from transformers import BertTokenizer, GPT2Tokenizer

from compress.data import splits, tokens
from compress.data.columns import Columns
from compress.stages import given_models
from compress.stages.context import Encoder

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "king", "slept")
KNOWN, FOREIGN = ["the king slept", "the king"], ["le roi dort", "the roi"]


def columns(folder, tokenizer, texts):
    split = splits.Split.of((texts, texts), np.zeros(len(texts), dtype=np.int64), ("a", "b"), (0, 1))
    encode_split(split, tokenizer, 32, folder / "columns")
    return Columns.open(folder / "columns", tokenizer.pad_token_id, tokenizer.padding_side)


@pytest.fixture
def tokenizer():
    return BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}, do_lower_case=True)


def test_the_share_of_unknown_words_by_hand(tmp_path, tokenizer):
    assert tokens.unknown_share(tokenizer, columns(tmp_path / "a", tokenizer, KNOWN)) == 0
    share = tokens.unknown_share(tokenizer, columns(tmp_path / "b", tokenizer, FOREIGN))
    assert share == pytest.approx(8 / 10)  # "the" in each text of the second pair is known


def test_a_tokenizer_that_spells_everything_out_knows_everything(tmp_path):
    spelt = GPT2Tokenizer(vocab={"<|endoftext|>": 0, "a": 1}, merges=[], pad_token="<|endoftext|>")
    assert tokens.unknown_share(spelt, columns(tmp_path, spelt, ["a", "aa"])) == 0


@pytest.mark.parametrize(("texts", "warned"), [(KNOWN, False), (FOREIGN, True)])
def test_it_is_said(tmp_path, tokenizer, texts, warned, monkeypatch):
    said = []
    monkeypatch.setattr(given_models.ranks, "say", said.append)
    encoder = Encoder(tmp_path, "key", tokenizer, {"train": columns(tmp_path, tokenizer, texts)})
    given_models.check_vocabulary("model", encoder)
    assert [("80% of the words of train" in line) for line in said] == [True] * warned
