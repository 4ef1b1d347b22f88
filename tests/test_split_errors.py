"""Mistakes in the files of a task: each is a sentence with its place."""

import numpy as np
import pytest
from folders import NLI, error_of, from_folder, labelled, renamed

from compress.errors import UserError

PAIR = {"premise": "a b", "hypothesis": "b"}


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_missing_file(small_task, split):
    (small_task / f"{split}.jsonl").unlink()
    error_of(small_task, str(small_task), f"no file {split}", ".jsonl", ".parquet", ".gz")


def test_two_files_for_a_split(small_task, write_table):
    write_table(small_task / "dev.csv", labelled(*NLI))
    error_of(small_task, "dev.csv", "dev.jsonl")


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_data_dir_that_is_no_folder(tmp_path, kind):
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("x")
    error_of(place, "robust_compression.task.data_dir", str(place), "not a folder")


@pytest.mark.parametrize("split", ["train", "dev", "ood_hans"])
@pytest.mark.parametrize(
    ("column", "typed"), [("premise", "premiss"), ("hypothesis", "hypotesis"), ("label", "labels")]
)
def test_a_missing_column_and_the_nearest(small_task, put_split, split, column, typed):
    file = put_split(split, renamed(labelled("entailment"), **{column: typed}))
    error_of(small_task, str(file), f"no column '{column}'", f"mean '{typed}'")


@pytest.mark.parametrize("split", ["train", "dev", "ood_hans"])
@pytest.mark.parametrize("label", ["entailmant", 3, -1, "-", "", 1.5, True])
def test_an_unknown_label(small_task, put_split, split, label):
    file = put_split(split, [*labelled("entailment"), {**PAIR, "label": label}])
    error_of(small_task, f"{file}: row 2", f"'{label}'", "known are entailment, n")


def test_a_label_of_the_task_that_the_set_does_not_have(small_task, put_split):
    file = put_split("ood_hans", labelled("entailment", "not_entailment", "neutral"))
    error_of(small_task, f"{file}: row 3", "'neutral'")


def test_the_row_of_an_error_is_the_line_of_the_file(small_task, put_split):
    file = put_split("dev", [*labelled("entailment", "neutral"), {**PAIR, "label": "x"}], ".csv")
    error_of(small_task, f"{file}: row 4")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("column", ["premise", "hypothesis", "label"])
def test_a_null_cell(small_task, put_split, suffix, column):
    row = {**PAIR, "label": "neutral", column: None}
    file = put_split("dev", [*labelled("entailment"), row], suffix)
    error_of(small_task, f"{file}: row 2", f"'{column}'")


def test_a_key_that_only_some_rows_have(small_task, put_split):
    file = put_split("dev", [*labelled("entailment"), {**PAIR, "gold_label": "neutral"}])
    error_of(small_task, f"{file}: row 2", "'label'")


@pytest.mark.parametrize("column", ["premise", "hypothesis"])
@pytest.mark.parametrize("value", [7, ["a"], {"a": 1}])
def test_a_text_that_is_none(small_task, put_split, column, value):
    file = put_split("dev", [{**PAIR, "label": "neutral", column: value}])
    error_of(small_task, f"{file}: row 1", f"'{column}'", "not a text")


@pytest.mark.parametrize("split", ["train", "dev", "ood_hans"])
def test_a_text_that_no_encoding_can_write(small_task, split):
    """JSON can say half of a surrogate pair; nothing later can hash or tokenise it."""
    file = small_task / f"{split}.jsonl"
    row = '{"premise": "a \\ud800", "hypothesis": "b", "label": "entailment", "heuristic": "x"}\n'
    file.write_text(file.read_text() + row)
    number = len(file.read_text().splitlines())
    with pytest.raises(UserError, match=f"row {number}"):
        from_folder(small_task).fingerprint()


@pytest.mark.parametrize("split", ["train", "dev", "ood_hans"])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_split(small_task, split, content):
    file = small_task / f"{split}.jsonl"
    file.write_text(content)
    error_of(small_task, str(file), "no sample")


def test_a_table_with_a_header_only(small_task):
    (small_task / "dev.jsonl").unlink()
    (small_task / "dev.csv").write_text("premise,hypothesis,label\n")
    error_of(small_task, "dev.csv", "no sample")


@pytest.mark.parametrize("missing", NLI)
def test_a_class_that_train_does_not_have(small_task, put_split, missing):
    file = put_split("train", labelled(*(label for label in NLI if label != missing)))
    error_of(small_task, str(file), f"'{missing}'")


def test_a_dev_split_with_one_class(small_task, put_split):
    put_split("dev", labelled("neutral", "neutral"))
    error_of(small_task, "dev", "same label")


def test_train_samples_that_leave_one_class(small_task, put_split):
    put_split("train", labelled("neutral", "neutral", "entailment", "contradiction"))
    error_of(small_task, "train", "same label", train_samples=1)
    assert from_folder(small_task, train_samples=4).labels == NLI


def test_train_samples_are_drawn_evenly_over_the_file(small_task, put_split):
    """A file sorted by label or source keeps their shares."""
    rows = [{**PAIR, "premise": f"row {i}", "label": NLI[i // 20]} for i in range(60)]
    put_split("train", rows)
    whole, part = from_folder(small_task), from_folder(small_task, train_samples=12)
    drawn = [whole.train.texts[:][0].index(text) for text in part.train.texts[:][0]]
    assert [place // 5 for place in drawn] == list(range(12))
    assert np.bincount(part.train.labels).tolist() == [4, 4, 4]
    assert part.train.labels.tolist() == [whole.train.labels[place] for place in drawn]
    assert part.dev.fingerprint() == whole.dev.fingerprint()
    assert part.train.fingerprint() != whole.train.fingerprint()
    assert from_folder(small_task, train_samples=60).fingerprint() == whole.fingerprint()
    assert (part.train.whole, len(part.train), len(whole.train)) == (60, 12, 60)


def test_train_samples_beyond_the_file(small_task):
    error_of(small_task, "robust_compression.task.train_samples is 7", "has 6", train_samples=7)


def test_eval_samples_are_spread_over_dev_and_each_ood_set(small_task, put_split):
    """Sorted or alternating, a fifth of the rows keeps the labels' shares; whole sets stay whole."""
    texts = [f"row {i}" for i in range(400)]
    for split, label in (
        ("dev", lambda i: NLI[i // 134]),
        ("ood_hans", lambda i: ("entailment", "not_entailment")[i % 2]),
    ):
        put_split(split, [{**PAIR, "premise": t, "label": label(i)} for i, t in enumerate(texts)])
    whole, part = from_folder(small_task), from_folder(small_task, eval_samples=80)
    assert part.train.fingerprint() == whole.train.fingerprint()
    for name, split in part.splits().items():
        if name == "train":
            continue
        rows = [texts.index(text) for text in split.texts[:][0]]
        assert [row // 5 for row in rows] == list(range(80)), "one of each five"
        full = whole.splits()[name]
        assert split.labels.tolist() == full.labels[rows].tolist()
        shares = [np.bincount(s.labels) / len(s) for s in (split, full)]
        np.testing.assert_allclose(*shares, atol=0.12)
    again = from_folder(small_task, eval_samples=80)
    assert again.fingerprint() == part.fingerprint()
    assert from_folder(small_task, eval_samples=400).fingerprint() == whole.fingerprint()


def test_a_pair_of_train_that_eval_samples_leave_out_is_refused_too(small_task, put_split):
    rows = [{**PAIR, "premise": f"row {i}", "label": "entailment"} for i in range(20)]
    put_split("train", [*labelled(*NLI), rows[7]])
    put_split("ood_hans", rows)
    for samples in (2, 3, 20):
        error_of(
            small_task, "1 of 20 samples", "ood_hans", "row 8", "share no sample", eval_samples=samples
        )


def test_one_text_of_a_pair_may_be_empty_not_both(small_task, put_split):
    train = labelled(*NLI, *NLI)
    train[1]["hypothesis"] = train[2]["premise"] = ""
    put_split("train", train)
    assert from_folder(small_task).train.texts[:][1][1] == ""
    train[1]["premise"] = " "
    put_split("train", train)
    error_of(small_task, "train.jsonl: row 2 has no text", "both are empty")
