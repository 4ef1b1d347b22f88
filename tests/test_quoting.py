"""Tab-separated files whose texts are quoted as in CSV are read as they stand, and the run says so."""

import csv
import io

import pytest
from folders import from_folder, labelled

from compress.data import quoting

TEXTS = (
    *(
        'he said "hi" twice',
        '"',
        '""',
        '"""',
        'open "',
        '" both "',
        "plain",
        "",
        '"a"',
        '"a" and ""b""',
    ),
    *('quoted ""only"" inside', '"a"" and "b"', 'ends ""'),
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_looks_quoted_if_and_only_if_csv_would_have_written_it_so(text):
    """Quotes around a text that holds none are left alone."""
    (read,) = next(csv.reader(io.StringIO(text), delimiter="\t"), [""])
    written = io.StringIO()
    csv.writer(written, delimiter="\t", lineterminator="").writerow([read])
    assert quoting.looks_quoted(text) == (text == written.getvalue() and '"' in read)
    assert quoting.looks_quoted(written.getvalue()) == ('"' in read)


@pytest.mark.parametrize("suffix", [".tsv", ".txt.gz", ".jsonl"])
def test_a_file_with_such_texts_is_named(small_task, put_split, suffix):
    texts = ['"he said ""hi"" twice"', 'he said "hi" twice']
    rows = [{**row, "premise": text} for row, text in zip(labelled(0, 1), texts, strict=True)]
    file = put_split("dev", [*labelled(2, start=5), *rows], suffix)
    data = from_folder(small_task)
    assert data.dev.texts[:][0][1:] == texts
    found = [note for note in data.notes if "look quoted" in note]
    row = f"1 texts of {file} look quoted as in CSV, the first in row 3,"
    assert [row in note for note in found] == [True] * (suffix != ".jsonl")
