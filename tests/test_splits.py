"""Splits of a task: read from files, fingerprinted by their content, and tokenised once."""

import numpy as np
import pytest
from folders import NLI, encode_split, error_of, from_folder, labelled, renamed, token_rows
from transformers import AutoTokenizer, RobertaTokenizer

from compress.data import splits
from compress.data.columns import Columns
from compress.data.reading import SUFFIXES

# Content


def test_a_folder_gives_texts_labels_and_subsets(tmp_path, write_table):
    write_table(tmp_path / "train.jsonl", labelled("neutral", "entailment", "contradiction"))
    write_table(tmp_path / "dev.csv", labelled("contradiction", "neutral"))
    hans = [
        {**row, "heuristic": f"kind {n}"} for n, row in enumerate(labelled("non-entailment", start=9))
    ]
    write_table(tmp_path / "ood_hans.tsv", hans)
    read = from_folder(tmp_path)
    assert read.labels == NLI
    assert read.train.texts[:] == (["p0", "p1", "p2"], ["h0", "h1", "h2"])
    assert read.train.labels.tolist() == [1, 0, 2]
    assert read.train.labels.dtype == np.int64
    assert (read.train.names, read.train.groups) == (NLI, (0, 1, 2))
    assert read.dev.labels.tolist() == [2, 1]
    assert read.ood["hans"].labels.tolist() == [1]
    assert read.ood["hans"].names == ("entailment", "not_entailment")
    assert read.ood["hans"].groups == (0, 1, 1)
    assert read.ood["hans"].subsets == {"heuristic": ["kind 0"]}
    assert [len(split) for split in read.splits().values()] == [3, 2, 1]
    assert list(read.splits()) == ["train", "dev", "ood_hans"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_format_of_the_files_does_not_matter(tmp_path, nli_folder, suffix):
    sizes = {"train": 6, "dev": 3, "ood_hans": 9}
    first = from_folder(nli_folder(tmp_path / "a", **sizes))
    second = from_folder(nli_folder(tmp_path / "b", format=suffix, **sizes))
    assert first.fingerprint() == second.fingerprint()
    assert first.ood["hans"].subsets == second.ood["hans"].subsets
    assert len(set(first.ood["hans"].subsets["heuristic"])) == 3


@pytest.mark.parametrize(
    "written",
    [
        ("entailment", "neutral", "contradiction"),
        ("Entailment", " NEUTRAL", "Contradiction "),
        (0, 1, 2),
        ("0", "1", "2"),
    ],
    ids=["words", "other case", "ids", "ids as strings"],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt", ".parquet"])
def test_labels_as_words_and_ids(small_task, put_split, written, suffix):
    put_split("train", labelled(*reversed(written)), suffix)
    assert from_folder(small_task).train.labels.tolist() == [2, 1, 0]


def test_columns_of_the_published_files(small_task, put_split):
    names = {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}
    extra = [{"annotator": "x", **row} for row in labelled(*NLI)]
    put_split("train", renamed(extra, **names))
    read = from_folder(small_task).train
    assert read.texts[:] == (["p0", "p1", "p2"], ["h0", "h1", "h2"])
    assert read.labels.tolist() == [0, 1, 2]


HANS = [
    ("non-entailment", "The president advised the doctor .", "The doctor advised the president ."),
    ("entailment", 'The judge said "stop" by the actor .', "The judge spoke ."),
]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".txt.gz"])
def test_the_published_hans_file_is_read_as_it_is(small_task, put_split, write_table, suffix):
    (small_task / "ood_hans.jsonl").unlink()
    rows = [
        {
            "gold_label": label,
            "sentence1_binary_parse": "( ( The judge ) )",
            "sentence2_binary_parse": "( ( The ) )",
            "sentence1_parse": "(ROOT (S))",
            "sentence2_parse": "(ROOT (S))",
            "sentence1": first,
            "sentence2": second,
            "pairID": f"ex{number}",
            "heuristic": "lexical_overlap",
            "subcase": "ln_subject/object_swap",
            "template": "temp1",
        }
        for number, (label, first, second) in enumerate(HANS)
    ]
    write_table(small_task / f"heuristics_evaluation_set{suffix}", rows)
    read = from_folder(small_task).ood
    assert list(read) == ["hans"]
    assert read["hans"].labels.tolist() == [1, 0]
    assert read["hans"].texts[:] == ([row[1] for row in HANS], [row[2] for row in HANS])
    assert read["hans"].subsets == {"heuristic": ["lexical_overlap"] * 2}


def test_hans_twice_is_an_error(small_task, write_table):
    write_table(small_task / "heuristics_evaluation_set.txt", labelled("entailment"))
    error_of(small_task, str(small_task), "ood_hans.jsonl", "heuristics_evaluation_set.txt")


def fever(*labels, claim="claim", evidence="evidence", start=0):
    return [{claim: f"c{n}", evidence: f"e{n}", "label": x} for n, x in enumerate(labels, start)]


@pytest.fixture
def fever_folder(tmp_path, write_table):
    def write(train, dev=("SUPPORTS", "REFUTES"), sym1=("REFUTES", "SUPPORTS"), **names):
        for split, labels in (("train", train), ("dev", dev), ("ood_sym1", sym1)):
            start = 10 * split.startswith("ood")
            write_table(tmp_path / f"{split}.jsonl", fever(*labels, **names, start=start))
        return tmp_path

    return write


def test_fever_with_two_classes(fever_folder):
    read = from_folder(fever_folder(("REFUTES", "SUPPORTS", "SUPPORTS")), task="fever")
    assert read.labels == ("SUPPORTS", "REFUTES")
    assert read.train.labels.tolist() == [1, 0, 0]
    assert read.train.texts[:] == (["c0", "c1", "c2"], ["e0", "e1", "e2"])
    assert read.ood["sym1"].names == ("SUPPORTS", "REFUTES")
    assert read.ood["sym1"].groups == (0, 1)
    assert read.ood["sym1"].labels.tolist() == [1, 0]


def test_fever_with_three_classes(fever_folder):
    train = ("NOT ENOUGH INFO", "REFUTES", "SUPPORTS")
    read = from_folder(fever_folder(train, dev=train), task="fever")
    assert read.labels == ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO")
    assert read.train.labels.tolist() == read.dev.labels.tolist() == [2, 1, 0]
    assert read.ood["sym1"].names == read.labels
    assert read.ood["sym1"].groups == (0, 1, 2)


def test_fever_with_labels_and_columns_of_nli(fever_folder):
    names = {"claim": "premise", "evidence": "evidence_sentence"}
    train = ("entailment", "contradiction", "neutral", "NEI", "supports", "not_enough_info")
    read = from_folder(fever_folder(train, **names), task="fever")
    assert read.train.labels.tolist() == [0, 1, 2, 2, 0, 2]
    assert read.train.texts[:][0][0] == "c0"
    assert read.train.texts[:][1][0] == "e0"


def test_a_third_class_that_train_does_not_have(fever_folder):
    folder = fever_folder(("REFUTES", "SUPPORTS"), dev=("SUPPORTS", "NOT ENOUGH INFO"))
    message = error_of(folder, str(folder / "dev.jsonl"), "row 2", "NOT ENOUGH INFO", task="fever")
    assert "known are SUPPORTS, REFUTES and 0 to 1" in message


# Fingerprints


def change_text(rows):
    rows[1]["hypothesis"] += " "


def change_label(rows):
    rows[1]["label"] = next(label for label in NLI if label != rows[1]["label"])


def swap_rows(rows):
    rows[0], rows[1] = rows[1], rows[0]


def swap_texts(rows):
    rows[1]["premise"], rows[1]["hypothesis"] = rows[1]["hypothesis"], rows[1]["premise"]


def drop_row(rows):
    rows.pop()


def double_row(rows):
    rows.append(rows[-1])


@pytest.mark.parametrize("split", ["train", "dev", "ood_mine"])
@pytest.mark.parametrize(
    "change", [change_text, change_label, swap_rows, swap_texts, drop_row, double_row]
)
def test_any_change_of_content_changes_the_fingerprint(small_task, put_split, split, change):
    rows = labelled(*NLI, *NLI, start=20 * (split == "ood_mine"))
    put_split("ood_mine", labelled(*NLI, start=20))
    put_split(split, rows)
    before = from_folder(small_task)
    change(rows)
    put_split(split, rows)
    after = from_folder(small_task)
    assert before.fingerprint() != after.fingerprint()
    for name in before.splits():
        same = before.fingerprint(name) == after.fingerprint(name)
        assert same == (name != split)
        assert (before.splits()[name].fingerprint() == after.splits()[name].fingerprint()) == same


def split_of(*pairs, names=("x", "y"), groups=(0, 1)):
    firsts, seconds = [list(texts) for texts in zip(*pairs, strict=True)]
    return splits.Split.of((firsts, seconds), np.zeros(len(pairs), np.int64), names, groups)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (split_of(("a\0b", "c")), split_of(("a", "b\0c"))),
        (split_of(("a", "b\0000\nc\0d")), split_of(("a", "b"), ("c", "d"))),
        (split_of(("a", "b")), split_of(("a", "b"), names=("y", "x"))),
        (split_of(("a", "b")), split_of(("a", "b"), groups=(0, 0))),
    ],
    ids=["NUL inside", "row inside", "names", "groups"],
)
def test_different_content_never_has_one_fingerprint(one, other):
    assert one.fingerprint() != other.fingerprint()


# Encoding


@pytest.fixture(scope="module")
def bert(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def roberta():
    letters = [*"abcdefghijklmnopqrstuvwxyz", "\u0120"]
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters]
    vocabulary = {word: number for number, word in enumerate(words)}
    return RobertaTokenizer(vocab=vocabulary, merges=[])


def encoded(split, tokenizer, length, folder):
    encode_split(split, tokenizer, length, folder)
    return Columns.open(folder, tokenizer.pad_token_id)


def test_encode_gives_what_the_tokenizer_gives(tmp_path, bert, nli_folder, monkeypatch):
    split = from_folder(nli_folder(tmp_path / "nli")).train
    columns = encoded(split, bert, 64, tmp_path / "columns")
    assert columns.labels.tolist() == split.labels.tolist()
    ids, types = token_rows(columns), token_rows(columns, "token_type_ids")
    assert columns.lengths.tolist() == [len(row) for row in ids]
    for number in (0, 7, 47):
        pair = bert(split.texts[:][0][number], split.texts[:][1][number])
        assert ids[number] == pair["input_ids"] and types[number] == pair["token_type_ids"]
        assert bert.unk_token_id not in pair["input_ids"]


@pytest.mark.parametrize("long_first", [True, False])
def test_truncation_keeps_both_texts(tmp_path, bert, long_first):
    long, short = "the king " * 100, "the cook hid"
    pair = (long, short) if long_first else (short, long)
    equal = (long, long)
    columns = encoded(split_of(pair, (short, short), equal), bert, 16, tmp_path / "columns")
    rows = token_rows(columns)
    assert columns.lengths.tolist() == [16, 9, 16] == [len(ids) for ids in rows]
    kept = [bert.convert_ids_to_tokens(ids) for ids in rows]
    first, second = [part.split() for part in " ".join(kept[0]).split("[SEP]")[:2]]
    assert first[0] == "[CLS]"
    whole, cut = (second, first[1:]) if long_first else (first[1:], second)
    assert whole == short.split()
    assert cut == long.split()[:10]
    types = token_rows(columns, "token_type_ids")
    assert abs(types[2].count(1) - 8) <= 1, "two long texts are cut alike"


def test_a_roberta_has_no_token_types(tmp_path, roberta):
    split = split_of(("abc", "de"), ("abc " * 50, "de"))
    columns = encoded(split, roberta, 12, tmp_path / "columns")
    assert set(columns.tokens) == {"input_ids"}
    rows = token_rows(columns)
    assert rows[0] == roberta("abc", "de")["input_ids"]
    assert columns.lengths.tolist() == [len(rows[0]), 12]
    ends = [n for n, token in enumerate(rows[1]) if token == roberta.sep_token_id]
    assert ends == [7, 8, 11]
