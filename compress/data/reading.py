"""Rows of a table from .jsonl, .csv, .tsv, .txt (tab-separated) or .parquet, each also gzip'ed.

Data-frame readers do not serve: an error must name file and row, and a cell "NA" is a word.
"""

import csv
import gzip
import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from compress.errors import UserError, first_line

FORMATS = (".jsonl", ".csv", ".tsv", ".txt", ".parquet")
SUFFIXES = tuple(f + zipped for f in FORMATS for zipped in ("", ".gz"))
Row = dict[str, Any]


def check_pair(first: str, second: str, place: str) -> None:
    """Raise UserError if both texts of a pair are blank; one of them may be."""
    if not first.strip() and not second.strip():
        raise UserError(f"{place} has no text: both are empty.")


def find(folder: Path, stems: tuple[str, ...]) -> Path | None:
    """The one file in `folder` with one of the names and a known suffix; None if there is none.

    Raises UserError if there are two, since which one is meant cannot be known, for a link to nothing,
    and for a file that may not be read.
    """
    found = [path for path in named(folder, stems) if is_file(path) or path.is_symlink()]
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise UserError(f"{folder}: holds {names}; keep the one that is meant.")
    if not found:
        return None
    if not found[0].exists():
        raise UserError(f"{found[0]}: is a link to '{found[0].readlink()}', which is not there.")
    if not os.access(found[0], os.R_OK):
        raise UserError(f"{found[0]}: cannot be read (Permission denied).")
    return found[0] if is_file(found[0]) else None


def is_file(path: Path) -> bool:
    """Whether this is a file; unlike `Path.is_file`, False for a name that no file can have."""
    with suppress(OSError):
        return path.is_file()
    return False


def without_suffix(name: str) -> str:
    """The name of a file without its longest known suffix; the same for a name without one."""
    return name.removesuffix(max(filter(name.endswith, SUFFIXES), key=len, default=""))


def named(folder: Path, stems: tuple[str, ...]) -> list[Path]:
    """What lies in `folder` under one of the names with a known suffix, be it a file or not."""
    possible = [folder / (stem + suffix) for stem in stems for suffix in SUFFIXES]
    return [path for path in possible if os.path.lexists(path)]


def shown(value: object, longest: int = 60) -> str:
    """A name or cell as an error message shows it: on one line, cut where it is long."""
    text = str(value)
    text = text if len(text) <= longest else f"{text[:longest]}..."
    return text if text.isprintable() else repr(text)[1:-1]


def rows(file: Path) -> Iterator[tuple[int, Row]]:
    """Yield (row number, row); the number is the line of the file, or the record of a parquet file.

    A cell of CSV or TSV whose header is blank is left out.
    Raises UserError for a file that is corrupt, not UTF-8, or not a table, and for a column named
    twice, of which any reader would silently take one.
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
    return cast(IO[bytes], gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb"))


def _open_text(file: Path, newline: str | None = None) -> IO[str]:
    return io.TextIOWrapper(_open_bytes(file), encoding="utf-8-sig", newline=newline)


def _check_names(place: str, names: Sequence[str]) -> None:
    """Raise UserError if two columns have one name; place: the file, with the row for JSON."""
    if len(set(names)) < len(names):
        name, count = Counter(names).most_common(1)[0]
        raise UserError(
            f"{place} has {count} columns named '{shown(name)}'; rename or remove all but one."
        )


def _json_rows(file: Path) -> Iterator[tuple[int, Row]]:
    names: list[str] = []

    def keep_names(pairs: list[tuple[str, Any]]) -> Row:
        """Called for each object of a line, the outermost last; names inside a value may repeat."""
        names[:] = [name for name, _ in pairs]
        return dict(pairs)

    with _open_text(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=keep_names)
            except (ValueError, RecursionError) as error:
                why = getattr(error, "msg", error)
                raise UserError(f"{file}: row {number} is not valid JSON ({why}).") from None
            if not isinstance(row, dict):
                raise UserError(f"{file}: row {number} is not a JSON object.")
            _check_names(f"{file}: row {number}", names)
            yield number, row


def _cell_rows(file: Path) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(1 << 30)
    with _open_text(file, newline="") as lines:
        if ".csv" in file.suffixes:
            reader = csv.reader(lines, strict=True)
        else:
            reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = next((cells for cells in reader if cells), None)
        if header is None:
            return
        columns = [(place, name) for place, name in enumerate(header) if name.strip()]
        _check_names(f"{file}: the header", [name for _, name in columns])
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{file}: row {reader.line_num} has {len(cells)} cells, the header {len(header)}."
                )
            yield reader.line_num, {name: cells[place] for place, name in columns}


def _parquet_rows(file: Path) -> Iterator[tuple[int, Row]]:
    try:
        with _open_bytes(file) as source:
            whole = pa.BufferReader(source.read())
        _check_names(f"{file}: the table", pq.ParquetFile(whole).schema_arrow.names)
        table = pq.read_table(whole)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{file}: is not a parquet file ({first_line(error)}).") from None
    cells = [_parquet_cells(file, name, table.column(name)) for name in table.column_names]
    for number, values in enumerate(zip(*cells, strict=True), start=1):
        yield number, dict(zip(table.column_names, values, strict=True))


def _parquet_cells(file: Path, name: str, column: pa.ChunkedArray) -> list[Any]:
    try:
        return column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise UserError(
            f"{file}: column '{shown(name)}' holds a cell that cannot be read ({first_line(error)})."
        ) from None
