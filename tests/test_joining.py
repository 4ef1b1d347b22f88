"""A line break between the texts of a pair, for tokenizers that put nothing there."""

import json

import families
import numpy as np
import pytest
from folders import token_rows
from launcher import job, python
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    CTRLTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    RobertaTokenizer,
)

from compress import predict
from compress.data import tokens
from compress.data.columns import Columns
from compress.data.cutting import IDS, LENGTHS, LOST, Slow
from compress.models import joining
from compress.synthetic import generator

LETTERS = [*"abcdefghijklmnopqrstuvwxyz"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
VOCABULARY = {word: n for n, word in enumerate([*SPECIAL, *LETTERS, "\u0120", "\u010a"])}
PIECES = ["<unk>", "<s>", "</s>", "\u2581", *(f"<0x{n:02X}>" for n in range(256)), *LETTERS]
TEXTS = (
    ["the king", "a", "king " * 9, "", "the"],
    ["queen", "the queen slept " * 9, "b", "it", "so " * 30],
)


def spelt(kind, **more):
    return kind(vocab=VOCABULARY, merges=[], pad_token="<pad>", **more)


def around(single, pair, bytes_first=True):
    """A tokenizer whose template puts something around a pair, and nothing between its texts."""
    made = spelt(GPT2Tokenizer)
    special = [("<s>", VOCABULARY["<s>"]), ("</s>", VOCABULARY["</s>"])]
    template = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    both = [processors.ByteLevel(trim_offsets=False), template]
    made.backend_tokenizer.post_processor = processors.Sequence(both if bytes_first else both[::-1])
    return made


def words(line_break=False):
    """Whole words and nothing else, so that there may be no line break."""
    names = [*SPECIAL, *("the", "king", "queen", "a"), *(["\u010a"] if line_break else [])]
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", **special)


JOINED = {
    "gpt2": lambda: spelt(GPT2Tokenizer),
    "qwen2": lambda: spelt(Qwen2Tokenizer),
    "llama": lambda: LlamaTokenizer(vocab={piece: n for n, piece in enumerate(PIECES)}, merges=[]),
    "around": lambda: around("<s> $A", "<s> $A $B </s>"),
    "around, template first": lambda: around("<s> $A", "<s> $A $B </s>", bytes_first=False),
    "no line break": words,
    "cut on the left": lambda: spelt(GPT2Tokenizer, truncation_side="left"),
}
APART = {
    "bert": lambda: BertTokenizer(
        vocab={w: n for n, w in enumerate(["[PAD]", "[UNK]", *SPECIAL, "a"])}
    ),
    "roberta": lambda: spelt(RobertaTokenizer),
    "a decoder that begins each text": lambda: families.tokenizer(decoder=True),
    "something between": lambda: around("$A", "$A </s> $B"),
}


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("kind", JOINED)
def test_a_line_break_is_put_where_nothing_stands(tmp_path, kind):
    """Against the tokens of each text alone; single texts and what stands around a pair stay."""
    made, plain = JOINED[kind](), JOINED[kind]()
    told = joining.settle(made)
    between = made.init_kwargs[joining.MARK]
    assert between == (ids(plain, "\n") if kind != "no line break" else [plain.eos_token_id])
    for name in ("a line break is put there",) if kind != "no line break" else ("'</s>' is put there",):
        assert name in told
    for one, two in zip(*TEXTS, strict=True):
        joined, (a, b) = plain(one, two).input_ids, (ids(plain, one), ids(plain, two))
        start = joined.index(a[0]) if a else len(plain("").input_ids)
        assert joined[start : start + len(a) + len(b)] == a + b
        place = start + len(a)
        expected = [*joined[:place], *between, *joined[place:]]
        assert made(one, two).input_ids == expected
        assert made(one).input_ids == plain(one).input_ids
    assert joining.separated(made) and joining.settle(made) is None
    made.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for texts in (*zip(*TEXTS, strict=True), ("the king",)):
        assert loaded(*texts).input_ids == made(*texts).input_ids
    assert joining.key("x", loaded) == joining.key("x", made) != joining.key("x", plain) == "x"


@pytest.mark.parametrize("kind", ["gpt2", "qwen2", "llama", "around"])
@pytest.mark.parametrize("keep", [None, 0, 1])
def test_a_cut_pair_keeps_the_line_break(kind, keep):
    """The reference is transformers' own truncation of the tokenizer with its new template."""
    made = JOINED[kind]()
    joining.settle(made)
    between = made.init_kwargs[joining.MARK]
    for length in (10, 16):
        found = tokens.cut(made, length, keep)(TEXTS)
        expected = tokens.Cut(Slow(made), length, keep).lists(TEXTS)[IDS]
        parts = np.split(found[IDS], np.cumsum(found[LENGTHS])[:-1])
        assert [part.tolist() for part in parts] == [list(row) for row in expected]
        assert max(map(len, expected)) == length and found[LOST].any()
        for row in expected:
            assert any(row[n : n + len(between)] == between for n in range(len(row)))


@pytest.mark.parametrize("kind", APART)
def test_tokenizers_that_separate_stay_as_they_are(kind):
    made = APART[kind]()
    before = made.backend_tokenizer.to_str()
    assert joining.settle(made) is None and joining.note(made) is None
    made.backend_tokenizer.no_truncation()
    assert made.backend_tokenizer.to_str() == before
    assert joining.key("x", made) == "x" and joining.MARK not in made.init_kwargs


def test_a_slow_tokenizer_and_a_finished_classifier_are_told_of_only(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"a</w>": 0, "b</w>": 1, "<unk>": 2}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    slow = CTRLTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert not slow.is_fast and not joining.separated(slow)
    assert "cannot be made to" in joining.settle(slow)
    made = spelt(GPT2Tokenizer)
    assert "read in this way, as it was trained" in joining.note(made)
    assert made("a", "b").input_ids == [*ids(made, "a"), *ids(made, "b")]


def decoder(folder):
    """A tiny Qwen whose tokenizer appends the second text to the first, as published ones do."""
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    learnt.train_from_iterator(families.WORDS, trainer)
    parts = json.loads(learnt.to_str())["model"]
    end = {"<|endoftext|>": len(parts["vocab"])}
    merges = [tuple(pair) for pair in parts["merges"]]
    size = len(end | parts["vocab"])
    families.write("qwen2", folder, vocab_size=size, pad_token_id=size - 1, eos_token_id=size - 1)
    made = Qwen2Tokenizer(vocab=parts["vocab"] | end, merges=merges, pad_token="<|endoftext|>")
    made.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    made.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_whole_run_predict_and_the_onnx_file_read_the_same_tokens(tmp_path, capsys):
    model, output = decoder(tmp_path / "model"), tmp_path / "run"
    more = ("robust_compression.task.max_length=40", "robust_compression.epochs=1")
    words = job(model, output, *more, parts=("compression/rows50", "mitigation/distil"))
    done = python(*words, "--export", "onnx")
    assert done.returncode == 0, done.stderr[-3000:]
    told = "note: model: its tokenizer puts nothing between the two texts of a pair; a line break is"
    assert done.stdout.count(told) == 1
    plain = AutoTokenizer.from_pretrained(model)
    rows = generator.generate(train=120, dev=40, ood=40)["dev"]
    (between,) = ids(plain, "\n")
    expected = [[*ids(plain, row["premise"]), between, *ids(plain, row["hypothesis"])] for row in rows]
    assert [n for one in expected for n in one].count(between) == len(rows)
    kept = [
        token_rows(Columns.open(place, 0)) for place in (tmp_path / "shared").glob("tokens/*/columns")
    ]
    assert expected in kept and max(map(len, expected)) < 40
    for place in (output / "student/model", output / "onnx", *tmp_path.glob("shared/teacher/*/model")):
        tokenizer = AutoTokenizer.from_pretrained(place)
        assert [tokenizer(r["premise"], r["hypothesis"]).input_ids for r in rows] == expected
    file = tmp_path / "dev.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict.main([str(output / "student/model"), "--file", str(file), "--device", "cpu"])
    lines = [json.loads(line)["probabilities"] for line in capsys.readouterr().out.splitlines()]
    found = np.array([[line["entailment"], line["not_entailment"]] for line in lines])
    np.testing.assert_allclose(found, np.exp(np.load(output / "scores/dev.npy")), atol=1e-5)
