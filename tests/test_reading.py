"""Reading tables: every format gives the same rows, and every error names the file and the row."""

import gzip
import json
from random import Random

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.data import reading
from compress.errors import UserError

PLAIN = (
    *("NA", "N/A", "null", "None", "nan", "NaN", "", " ", "  two  blanks  ", "-", "#", "1.0", "True"),
    *('"quoted" word', '"', '""', "it's", "'", 'open "quote', "a, b; c", "back\\slash \\n \\t"),
    *("line\u2028separator", "paragraph\u2029separator", "next\u0085line", "form\x0cfeed\x0b\x1c\x1d"),
    *("é ß 你好 🙂 e\u0301", "non\u00a0breaking", "zero\u200bwidth"),
)
WITH_TABS_AND_LINES = ("tab\there", "\t", "new\nline", "carriage\r\nreturn", "lone\rreturn", "\n")
TABBED = {".tsv", ".txt"}


def numbered(file):
    return list(reading.rows(file))


def content(file):
    return [row for _, row in reading.rows(file)]


def error_of(file):
    with pytest.raises(UserError) as caught:
        numbered(file)
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message
    return message


def table(texts):
    return [{"premise": t, "hypothesis": f"{t}!", "label": str(n)} for n, t in enumerate(texts)]


@pytest.mark.parametrize("suffix", reading.SUFFIXES)
def test_every_format_gives_the_same_rows(tmp_path, write_table, suffix):
    rows = table(PLAIN if suffix.removesuffix(".gz") in TABBED else (*PLAIN, *WITH_TABS_AND_LINES))
    file = write_table(tmp_path / f"train{suffix}", rows)
    assert content(file) == rows
    assert reading.find(tmp_path, ("train",)) == file


def test_all_ten_suffixes_are_known():
    formats = {".jsonl", ".csv", ".tsv", ".txt", ".parquet"}
    assert set(reading.SUFFIXES) == formats | {f + ".gz" for f in formats}
    assert len(reading.SUFFIXES) == 10


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5))
def test_any_text_survives(tmp_path, write_table, pairs):
    rows = [{"a": first, "b": second, "c": "0"} for first, second in pairs]
    for suffix in (".jsonl", ".csv.gz", ".parquet"):
        assert content(write_table(tmp_path / f"train{suffix}", rows)) == rows


def test_types_of_json_and_parquet_are_kept(tmp_path, write_table):
    rows = [{"a": "x", "b": 1, "c": None}, {"a": "y", "b": 2, "c": "z"}]
    assert content(write_table(tmp_path / "x.jsonl", rows)) == rows
    assert content(write_table(tmp_path / "x.parquet", rows)) == rows


def test_row_numbers_are_lines_or_records(tmp_path, write_table):
    rows = table(("x", "y"))
    assert [n for n, _ in numbered(write_table(tmp_path / "x.jsonl", rows))] == [1, 2]
    assert [n for n, _ in numbered(write_table(tmp_path / "x.parquet", rows))] == [1, 2]
    assert [n for n, _ in numbered(write_table(tmp_path / "x.csv", rows))] == [2, 3]
    assert [n for n, _ in numbered(write_table(tmp_path / "x.tsv", rows))] == [2, 3]


def test_blank_lines_are_left_out_but_counted(tmp_path):
    lines, cells = tmp_path / "x.jsonl", tmp_path / "x.csv"
    lines.write_text('\n{"a": "x"}\n   \n{"a": "y"}\n\n')
    cells.write_text("a,b\n\nx,y\n\n")
    assert numbered(lines) == [(2, {"a": "x"}), (4, {"a": "y"})]
    assert numbered(cells) == [(3, {"a": "x", "b": "y"})]


def test_last_line_needs_no_line_break(tmp_path):
    lines, cells = tmp_path / "x.jsonl", tmp_path / "x.tsv"
    lines.write_text('{"a": "x"}')
    cells.write_text("a\tb\nx\ty")
    assert content(lines) == [{"a": "x"}]
    assert content(cells) == [{"a": "x", "b": "y"}]


def test_windows_line_ends(tmp_path):
    lines, cells, commas = tmp_path / "x.jsonl", tmp_path / "x.tsv", tmp_path / "x.csv"
    lines.write_bytes(b'{"a": "x", "b": "y"}\r\n')
    cells.write_bytes(b"a\tb\r\nx\ty\r\n")
    commas.write_bytes(b"a,b\r\nx,y\r\n")
    assert content(lines) == content(cells) == content(commas) == [{"a": "x", "b": "y"}]


def test_csv_of_a_spreadsheet_with_byte_order_mark(tmp_path):
    file = tmp_path / "x.csv"
    file.write_bytes("\ufeffa,b\nx,y\n".encode())
    assert content(file) == [{"a": "x", "b": "y"}]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".txt.gz"])
def test_an_empty_text_file_has_no_rows(tmp_path, suffix):
    file = tmp_path / f"x{suffix}"
    file.write_bytes(gzip.compress(b"") if suffix.endswith(".gz") else b"")
    assert numbered(file) == []


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ("{'a': 1}", "not valid JSON"),
        ('{"a": "x"', "not valid JSON"),
        ('{"a": "x"} trailing', "not valid JSON"),
        ("[1, 2]", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ("null", "not a JSON object"),
        ('{"a": ' + "[" * 100_000, "row 3"),
        ('{"a": ' + "9" * 5000 + "}", "row 3"),
    ],
    ids=["quotes", "open", "trailing", "list", "string", "null", "too deep", "too many digits"],
)
def test_a_bad_json_row_is_named(tmp_path, suffix, bad, what):
    file = tmp_path / f"x.jsonl{suffix}"
    text = f'{{"a": 1}}\n\n{bad}\n{{"a": 2}}\n'.encode()
    file.write_bytes(gzip.compress(text) if suffix else text)
    message = error_of(file)
    assert what in message
    assert "row 3" in message
    assert len(message) < 500


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t"), (".txt", "\t")])
@pytest.mark.parametrize("cells", [1, 2, 4])
def test_a_ragged_row_is_named(tmp_path, suffix, separator, cells):
    file = tmp_path / f"x{suffix}"
    ragged = separator.join("xyzw"[:cells])
    full = separator.join("xyz")
    file.write_text(f"{separator.join('abc')}\n{full}\n{ragged}\n{full}\n")
    message = error_of(file)
    assert "row 3" in message
    assert f"{cells} cells" in message
    assert "header 3" in message


def test_a_row_number_counts_the_lines_inside_quotes(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text('a,b\n"one\ntwo",x\nragged\n')
    assert "row 4" in error_of(file)


def test_an_unbalanced_quote_does_not_swallow_rows(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text('premise,hypothesis,label\n"a,b,0\nc,d,1\n"e",f,0\n')
    assert "rows 2 to 4 cannot" in error_of(file)


@pytest.mark.parametrize(
    ("bad", "where"),
    [('"say \\"hi\\"",1', "row 4"), ('"open,1\nx,2', "rows 4 to 5"), ('"a"b,1\nx,2', "row 4")],
    ids=["backslash", "open", "letter"],
)
def test_wrong_quoting_is_named_with_its_row_and_usual_cause(tmp_path, bad, where):
    file = tmp_path / "x.csv"
    file.write_text(f'text,label\n"fine ""here""",0\n\n{bad}\n')
    message = error_of(file)
    assert f"{file}: {where} cannot be split into cells (" in message
    assert message.endswith('; a quote inside a quoted cell is written "", not \\".')
    file.write_text(f"{bad}\n")
    assert where.translate({ord("4"): "1", ord("5"): "2"}) in error_of(file)


@pytest.mark.parametrize(
    ("name", "text", "row"),
    [
        ("x.jsonl", b'{"a": "x"}\n{"a": "\xff"}\n', 2),
        ("x.csv", b"a,b\nx,y\nx,\xe9\n", 3),
        ("x.tsv", b"a\tb\n\xe9\ty\n", 2),
        ("x.txt.gz", b"a\tb\n" + b"x\ty\n" * 9000 + b"\xff\ty\n", 9002),
    ],
)
def test_text_that_is_not_utf8_is_named_with_its_row(tmp_path, name, text, row):
    file = tmp_path / name
    file.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    message = error_of(file)
    assert "UTF-8" in message
    assert f"row {row})" in message


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".csv.gz", ".tsv.gz", ".parquet.gz"])
def test_a_truncated_gzip_file(tmp_path, write_table, suffix):
    file = write_table(tmp_path / f"x{suffix}", table(PLAIN))
    packed = file.read_bytes()
    for end in (5, 15, len(packed) // 2, len(packed) - 9, len(packed) - 1):
        file.write_bytes(packed[:end])
        assert "gzip" in error_of(file)


def test_a_gzip_file_that_is_none(tmp_path):
    file = tmp_path / "x.jsonl.gz"
    file.write_text('{"a": "x"}\n')
    assert "gzip" in error_of(file)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".tsv.gz", ".parquet.gz"])
def test_a_flipped_byte_in_a_gzip_file_is_never_wrong_rows(tmp_path, write_table, suffix):
    rows = table(PLAIN)
    file = write_table(tmp_path / f"x{suffix}", rows)
    packed = file.read_bytes()
    refused = 0
    for place in range(0, len(packed), max(1, len(packed) // 120)):
        for mask in (0x01, 0x80, 0xFF):
            flipped = bytearray(packed)
            flipped[place] ^= mask
            file.write_bytes(flipped)
            try:
                assert content(file) == rows
            except UserError as error:
                refused += 1
                assert str(file) in str(error)
    assert refused > 200


def test_a_gzip_file_that_is_both_not_utf8_and_truncated(tmp_path):
    file = tmp_path / "x.jsonl.gz"
    noise = bytes(byte | 0x80 for byte in Random(0).randbytes(60_000))
    packed = gzip.compress(b'{"a": "' + noise + b'"}\n')
    assert len(packed) > 40_000
    file.write_bytes(packed[:-5000])
    error_of(file)


@pytest.mark.parametrize("suffix", [".parquet", ".parquet.gz"])
@pytest.mark.parametrize("text", [b"", b"PAR1", b"premise,hypothesis\n" * 9])
def test_what_is_not_parquet(tmp_path, suffix, text):
    file = tmp_path / f"x{suffix}"
    file.write_bytes(gzip.compress(text) if suffix.endswith(".gz") else text)
    assert "not a parquet file" in error_of(file)


def test_a_truncated_parquet_file(tmp_path, write_table):
    file = write_table(tmp_path / "x.parquet", table(PLAIN))
    file.write_bytes(file.read_bytes()[:-20])
    assert "not a parquet file" in error_of(file)


def test_a_parquet_file_beyond_the_library_ends_in_a_sentence(tmp_path, write_table, monkeypatch):
    """A flipped byte of the schema raises this: an error of Arrow that is not ArrowInvalid."""

    def refuse(*_args, **_options):
        raise pa.ArrowNotImplementedError("Integers with less than 8 bits not implemented")

    file = write_table(tmp_path / "x.parquet", [{"a": "x"}])
    monkeypatch.setattr(reading.pq, "ParquetFile", refuse)
    error_of(file)


def test_a_missing_file(tmp_path):
    assert "No such file" in error_of(tmp_path / "x.jsonl")
    assert "No such file" in error_of(tmp_path / "x.parquet")


def test_a_folder_instead_of_a_file(tmp_path):
    (tmp_path / "x.jsonl").mkdir()
    assert "cannot be read" in error_of(tmp_path / "x.jsonl")
    assert reading.find(tmp_path, ("x",)) is None


def test_find_takes_any_of_the_names(tmp_path):
    file = tmp_path / "published.txt"
    file.touch()
    (tmp_path / "train.json").touch()
    assert reading.find(tmp_path, ("train",)) is None
    assert reading.find(tmp_path, ("train", "published")) == file
    assert reading.find(tmp_path / "none", ("train",)) is None


@pytest.mark.parametrize("names", [("train.csv", "train.jsonl"), ("train.csv", "published.txt.gz")])
def test_two_files_for_one_split(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(UserError) as caught:
        reading.find(tmp_path, ("train", "published"))
    for name in (str(tmp_path), *names):
        assert name in str(caught.value)


def test_rows_are_given_one_at_a_time(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps({"a": "good"}) + "\nbad\n")
    assert next(reading.rows(file)) == (1, {"a": "good"})


def test_another_separator_is_named(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("text;label\nwell, yes;good\n")
    assert "separated by semicolons" in error_of(file)
