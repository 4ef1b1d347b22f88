"""A column that is named twice, or of which two could be meant, is never read silently."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from folders import NLI, error_of, from_folder, labelled

from compress.data import reading
from compress.errors import UserError


def table(suffix, names, cells):
    """A file of one row in the format of the suffix; names may repeat."""
    if suffix == ".parquet":
        target = io.BytesIO()
        pq.write_table(pa.table([[cell] for cell in cells], names=list(names)), target)
        return target.getvalue()
    if suffix == ".jsonl":
        pairs = (f"{json.dumps(n)}: {json.dumps(c)}" for n, c in zip(names, cells, strict=True))
        return b'{"a": "x"}\n{' + ", ".join(pairs).encode() + b"}\n"
    separator = "," if suffix == ".csv" else "\t"
    return "".join(separator.join(cells) + "\n" for cells in (names, cells)).encode()


@pytest.mark.parametrize("suffix", reading.SUFFIXES)
@pytest.mark.parametrize("names", ["aab", "aba", "baa", "aaa"])
def test_a_column_named_twice(tmp_path, suffix, names):
    file, content = tmp_path / f"x{suffix}", table(suffix.removesuffix(".gz"), names, "xyz")
    file.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    with pytest.raises(UserError) as error:
        list(reading.rows(file))
    sentence = str(error.value)
    assert sentence.startswith(str(file)) and "\n" not in sentence
    assert f"has {names.count('a')} columns named 'a'" in sentence
    assert ("row 2" in sentence) == (".jsonl" in suffix)


@pytest.mark.parametrize("split", ["train", "dev", "ood_hans"])
def test_it_is_an_error_of_every_split(small_task, split):
    (small_task / f"{split}.jsonl").unlink()
    (small_task / f"{split}.csv").write_text("premise,hypothesis,label,label\na,b,0,1\n")
    error_of(small_task, f"{split}.csv", "2 columns named 'label'")


def test_equal_cells_do_not_excuse_it_and_a_mark_does_not_hide_it(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text("\ufeffa,a\nx,x\n", encoding="utf-8")
    with pytest.raises(UserError, match="2 columns named 'a'"):
        list(reading.rows(file))


def test_a_name_that_repeats_inside_a_value_is_no_column(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"a": "x", "more": {"a": 1, "a": 2}, "list": [{"b": 1, "b": 2}]}\n')
    assert list(reading.rows(file)) == [(1, {"a": "x", "more": {"a": 2}, "list": [{"b": 2}]})]
    file.write_text('{"more": {"b": 1}, "a": "x", "a": "y"}\n')
    with pytest.raises(UserError, match="row 1 has 2 columns named 'a'"):
        list(reading.rows(file))


@pytest.mark.parametrize("header", [",a,b", "a,b,,", " ,a,b,\t", "\n\na,b"])
def test_cells_without_a_name_are_left_out(tmp_path, header):
    """As a data frame's index, or the empty columns of a spreadsheet."""
    names = header.strip("\n").split(",")
    file = tmp_path / "x.csv"
    cells = ["x" if name == "a" else "y" if name == "b" else "9" for name in names]
    file.write_text(f"{header}\n{','.join(cells)}\n")
    assert [row for _, row in reading.rows(file)] == [{"a": "x", "b": "y"}]


TWO = [
    ("premise", "sentence1"),
    ("hypothesis", "Hypothesis"),
    ("premise", " premise "),
    ("label", "gold_label"),
]


@pytest.mark.parametrize("split", ["train", "dev", "ood_hans"])
@pytest.mark.parametrize(("column", "other"), [*TWO, ("label", "LABEL"), ("label", "\ufefflabel")])
def test_two_columns_that_could_be_meant_and_differ(small_task, put_split, split, column, other):
    rows = labelled(*NLI[:1] * 3, start=60)
    same = [{**row, other: row[column]} for row in rows]
    file = put_split(
        split, [*same[:2], {**same[2], other: "not_entailment" if "hans" in split else "neutral"}]
    )
    error_of(small_task, f"{file}: row 3: '{column}' and ", "differ", "rename")


@pytest.mark.parametrize(("column", "other"), TWO)
@pytest.mark.parametrize("fill", ["same", None, "-", 7])
def test_they_may_say_the_same_or_nothing(small_task, put_split, column, other, fill):
    rows = labelled(*NLI, start=60)
    if fill == "-" and column != "label":
        fill = "  "
    plain = from_folder(small_task).train.fingerprint()
    put_split("dev", [{**row, other: row[column] if fill == "same" else fill} for row in rows])
    read = from_folder(small_task)
    assert read.dev.texts[:][0] == [row["premise"] for row in rows]
    assert read.dev.labels.tolist() == [0, 1, 2]
    assert read.train.fingerprint() == plain


def test_labels_of_the_hubs_fever_stand_there_twice(tmp_path, write_table):
    """Its rows have both `label` and `fever_gold_label`, in other words; they agree."""
    for split, start in (("train", 0), ("dev", 10), ("ood_sym1", 20)):
        rows = [
            {"premise": f"c{start + n}", "hypothesis": "e", "fever_gold_label": fever, "label": nli}
            for n, (fever, nli) in enumerate([("SUPPORTS", "entailment"), ("REFUTES", "contradiction")])
        ]
        write_table(tmp_path / f"{split}.jsonl", rows)
    assert from_folder(tmp_path, "fever").dev.labels.tolist() == [0, 1]


def test_columns_that_the_first_line_of_json_lacks(small_task, put_split):
    """They were left out for all rows."""
    first, *others = labelled(*NLI, start=60)
    put_split("dev", [first, *({**row, "male": 1, "pair": n} for n, row in enumerate(others))])
    found = from_folder(small_task, subgroups=["male"]).dev.subgroups["male"]
    assert found.tolist() == [False, True, True]
    error_of(small_task, "dev.jsonl: row 1: 'pair' is 'None', which is no id", id="pair")


def test_the_first_mistake_is_told_where_the_columns_are_looked_for(small_task, put_split):
    file = put_split("dev", [*labelled("x"), *labelled(*NLI, start=60)])
    file.write_text(file.read_text() + "no json\n")
    error_of(small_task, f"{file}: row 1 has the unknown label 'x'")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_ids_written_as_floats(small_task, put_split, suffix):
    put_split("dev", labelled(2.0, 0.0, 1.0), suffix)
    assert from_folder(small_task).dev.labels.tolist() == [2, 0, 1]


def numbered(folder, write_table, labels, cells, suffix):
    """Labels that are read of cells, for a task whose labels are numbers."""
    write_table(folder / f"train{suffix}", labelled(*cells))
    write_table(folder / "dev.jsonl", labelled(*labels, start=60))
    definition = {"texts": ["premise", "hypothesis"], "labels": labels}
    return from_folder(folder, "mine", definition=definition).train.labels.tolist()


HALVES = [str(number / 2) for number in range(1, 11)]


@pytest.mark.parametrize(
    ("labels", "cells", "expected"),
    [
        (HALVES, [*HALVES, 2, "2", "1"], [*range(10), 3, 3, 1]),
        (["-1", "0", "1"], [-1.0, 0.0, 1.0, -1, "1"], [0, 1, 2, 0, 2]),
        (["0", "1"], ["0", "1", 0, 1, 0.0, 1.0, "-0.0"], [0, 1, 0, 1, 0, 1, 0]),
        (["false", "true"], [False, True, "True", 0, 1.0], [0, 1, 1, 0, 1]),
        (["01", "02"], ["01", "02", 2], [0, 1, 1]),
    ],
    ids=["halves", "signed", "ids", "booleans", "zeros before"],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_labels_that_are_numbers_are_read_by_value(
    tmp_path, write_table, labels, cells, expected, suffix
):
    assert numbered(tmp_path, write_table, labels, cells, suffix) == expected


@pytest.mark.parametrize("cell", [0, 0.0, 5.5, "0.75"])
def test_ids_do_not_count_beside_labels_that_are_numbers(tmp_path, write_table, cell):
    with pytest.raises(UserError) as error:
        numbered(tmp_path, write_table, HALVES, [*HALVES, cell], ".jsonl")
    assert f"row 11 has the unknown label '{cell}'; known are {', '.join(HALVES)}" in str(error.value)
    assert "0 to" not in str(error.value)


@pytest.mark.parametrize("label", [3.0, -1.0, float("nan"), 0.5])
def test_floats_that_are_no_ids(small_task, put_split, label):
    file = put_split("dev", [*labelled(0.0), *labelled(label)])
    error_of(small_task, f"{file}: row 2", "unknown label")


@pytest.mark.parametrize(
    ("label", "advice"),
    [
        (0.5, "regression) are not supported"),
        ("4.22", "regression) are not supported"),
        (["a", "b"], "several labels of a sample are not supported"),
        ([], "several labels of a sample are not supported"),
    ],
)
def test_labels_of_regression_and_of_several_classes(small_task, put_split, label, advice):
    file = put_split("dev", labelled(label))
    error_of(small_task, f"{file}: row 1", "unknown label", advice)


def test_a_long_or_broken_cell_stays_one_short_sentence(small_task, put_split):
    put_split("dev", labelled("neutral", "a\nb" + "x" * 5000))
    assert len(error_of(small_task, "row 2", "a\\nbxx")) < 400


def test_a_parquet_cell_that_cannot_be_read_is_named(tmp_path):
    broken = pa.array([b"fine", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"a": ["x", "y"], "b": broken}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"x\.parquet: column 'b' "):
        list(reading.rows(tmp_path / "x.parquet"))
