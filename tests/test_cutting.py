"""Texts through the library `tokenizers` get the tokens that transformers gives them."""

import pickle

import pytest
from transformers import BertTokenizer, GPT2Tokenizer, RobertaTokenizer

from compress.data import tokens
from compress.data.cutting import IDS, LENGTHS, LOST, TYPES, CutOff, Slow
from compress.stages.tokenised import _sendable

LETTERS = [*"abcdefghijklmnopqrstuvwxyz"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "king", "slept", "##s", *LETTERS]
TEXTS = (
    ["the king slept", "", "the kings [SEP] slept the the", "king " * 30, "slept"],
    ["king", "the king", "", "the king slept " * 9, "the " * 40],
)


def bert(**more):
    return BertTokenizer(vocab={word: n for n, word in enumerate(WORDS)}, **more)


def spelt(kind, **more):
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
    vocabulary = {word: n for n, word in enumerate([*special, *LETTERS, "\u0120"])}
    return kind(vocab=vocabulary, merges=[], **more)


KINDS = {
    "bert": bert,
    "bert that splits special tokens": lambda: bert(split_special_tokens=True),
    "cut on the left": lambda: bert(truncation_side="left"),
    "without types": lambda: bert(model_input_names=["input_ids", "attention_mask"]),
    "roberta": lambda: spelt(RobertaTokenizer),
    "gpt2": lambda: spelt(GPT2Tokenizer, pad_token="<pad>"),
}


@pytest.mark.parametrize(("texts", "keep"), [(TEXTS, None), (TEXTS, 0), (TEXTS, 1), (TEXTS[:1], None)])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_transformers(kind, texts, keep):
    """Sent to another process or not; the reference is `Slow`, which calls the tokenizer itself."""
    whole = tokens.Cut(Slow(KINDS[kind]()), 10_000, keep).lists(texts)[IDS]
    for length in (8, 12, 64):
        expected = tokens.Cut(Slow(KINDS[kind]()), length, keep).lists(texts)
        here = tokens.cut(KINDS[kind](), length, keep)
        for cut in (here, pickle.loads(pickle.dumps(here))):
            found = cut.lists(texts)
            assert found.keys() == expected.keys()
            for name, rows in expected.items():
                assert found[name] == [list(row) for row in rows], (name, length)
        flat = here(texts)
        assert flat[LENGTHS].tolist() == [len(row) for row in expected[IDS]]
        lost = [len(a) - len(b) for a, b in zip(whole, expected[IDS], strict=True)]
        assert flat[LOST].tolist() == lost and (max(lost) > 0 or length == 64)
        assert flat[IDS].tolist() == [token for row in expected[IDS] for token in row]
        assert (TYPES in flat) == (TYPES in expected)


def test_what_is_cut_off_is_told():
    told = CutOff(samples=1_412, of_samples=9_399, tokens=93, of_tokens=1_000).described()
    assert told == "1,412 of 9,399 samples (15.0 %; 9.3 % of its tokens lost)"


def test_what_cannot_be_sent_is_known():
    cut = tokens.cut(bert(), 9)
    assert _sendable(cut)

    class Closed(Slow):
        def __reduce__(self):
            raise TypeError("closed")

    assert not _sendable(tokens.Cut(Closed(bert()), 9))
