"""Rows of a table from .jsonl, .csv, .tsv, .txt (tab-separated) or .parquet, each also gzip'ed.

Why own code: an error must name the file and the row, and a cell that says "NA" is a word, which
the data-frame readers do not guarantee.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from compress.errors import UserError

FORMATS = (".jsonl", ".csv", ".tsv", ".txt", ".parquet")
SUFFIXES = tuple(f + zipped for f in FORMATS for zipped in ("", ".gz"))
Row = dict[str, Any]


def check_pair(first: str, second: str, place: str) -> None:
    """Raise UserError if both texts of a pair are blank; one of them may be."""
    if not first.strip() and not second.strip():
        raise UserError(f"{place} has no text: both are empty.")


def find(folder: Path, stems: tuple[str, ...]) -> Path | None:
    """The one file in `folder` with one of the names and a known suffix; None if there is none.

    Raises UserError if there are two: which one is meant cannot be known.
    """
    found = [folder / (stem + suffix) for stem in stems for suffix in SUFFIXES]
    found = [file for file in found if file.is_file()]
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise UserError(f"{folder}: holds {names}; keep the one that is meant.")
    return found[0] if found else None


def rows(file: Path) -> Iterator[tuple[int, Row]]:
    """Yield (row number, row); the number is the line of the file, or the record of a parquet file.

    Raises UserError for a file that is corrupt, not UTF-8, or not a table.
    """
    name = file.name.removesuffix(".gz")
    reader = {".jsonl": _json_rows, ".parquet": _parquet_rows}.get(Path(name).suffix, _cell_rows)
    try:
        yield from reader(file)
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 text ({_bad_line(file, error)}).") from None
    except csv.Error as error:
        raise UserError(f"{file}: is not a table of cells ({error}).") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{file}: is not a complete gzip file ({error}).") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error}).") from None


def _bad_line(file: Path, error: UnicodeDecodeError) -> str:
    with suppress(OSError, zlib.error, EOFError):
        for number, line in enumerate(_open_bytes(file), start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return f"row {number}"
    return error.reason


def _open_bytes(file: Path) -> IO[bytes]:
    if file.suffix == ".gz":
        return cast(IO[bytes], gzip.open(file, "rb"))
    return file.open("rb")


def _open_text(file: Path, newline: str | None = None) -> IO[str]:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig", newline=newline)
    return file.open(encoding="utf-8-sig", newline=newline)


def _json_rows(file: Path) -> Iterator[tuple[int, Row]]:
    with _open_text(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                why = getattr(error, "msg", error)
                raise UserError(f"{file}: row {number} is not valid JSON ({why}).") from None
            if not isinstance(row, dict):
                raise UserError(f"{file}: row {number} is not a JSON object.")
            yield number, row


def _cell_rows(file: Path) -> Iterator[tuple[int, Row]]:
    comma = ".csv" in file.suffixes
    csv.field_size_limit(1 << 30)
    with _open_text(file, newline="") as lines:
        if comma:
            reader = csv.reader(lines, strict=True)
        else:
            reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = next(reader, None)
        if header is None:
            return
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{file}: row {reader.line_num} has {len(cells)} cells, the header {len(header)}."
                )
            yield reader.line_num, dict(zip(header, cells, strict=True))


def _parquet_rows(file: Path) -> Iterator[tuple[int, Row]]:
    try:
        with _open_bytes(file) as source:
            table = pq.read_table(pa.BufferReader(source.read()))
    except pa.ArrowException as error:
        raise UserError(f"{file}: is not a parquet file ({error}).") from None
    yield from enumerate(table.to_pylist(), start=1)
