"""Rows of a table from .jsonl, .csv, .tsv, .txt (tab-separated) or .parquet, each also gzip'ed.

A file is read once, from its beginning, in blocks of `AT_ONCE` records; what is costly to read of a
block is read by `Block.rows`, which another process may do. Data-frame readers do not serve: an error
must name file and row, and a cell "NA" is a word.
"""

import csv
import gzip
import io
import json
import os
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from compress.errors import UserError, first_line

FORMATS = (".jsonl", ".csv", ".tsv", ".txt", ".parquet")
SUFFIXES = tuple(f + zipped for f in FORMATS for zipped in ("", ".gz"))
AT_ONCE = 1000
Row = dict[str, Any]
T = TypeVar("T")


class Block(ABC):
    """Some consecutive records of a table, as they stand there."""

    @abstractmethod
    def rows(self) -> Iterator[tuple[int, Row]]:
        """Yield (row number, row); UserError for a record that is no row."""


def check_texts(texts: Sequence[str], place: str) -> None:
    """Raise UserError if all texts of a sample are blank; one of a pair may be."""
    if not any(text.strip() for text in texts):
        raise UserError(f"{place} has no text: {'it is' if len(texts) == 1 else 'both are'} empty.")


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
    if not readable(found[0]):
        raise UserError(f"{found[0]}: cannot be read (Permission denied).")
    return found[0] if is_file(found[0]) else None


def is_file(path: Path) -> bool:
    """Whether this is a file; unlike `Path.is_file`, False for a name that no file can have."""
    with suppress(OSError):
        return path.is_file()
    return False


def place(name: str, key: str) -> Path:
    """The folder of this name: a path, or a URL of any file system that fsspec knows, such as s3://.

    key: of the configuration, for messages. Raises UserError for a file system that is not installed.
    """
    if "://" not in name:
        return Path(name)
    with explained(f"{key}: '{name}'"):
        path = UPath(name).absolute()
        _ = path.fs  # made only now
    return cast(Path, path)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Context around a file system that is not local: its errors have no common base."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  fsspec raises any
        raise UserError(f"{name} cannot be read ({first_line(error)}).") from None


def readable(path: Path, mode: int = os.R_OK) -> bool:
    """Whether the path may be read, as far as that is known without trying."""
    return not isinstance(path, Path) or os.access(path, mode)


def without_suffix(name: str) -> str:
    """The name of a file without its longest known suffix; the same for a name without one."""
    return name.removesuffix(max(filter(name.endswith, SUFFIXES), key=len, default=""))


def named(folder: Path, stems: tuple[str, ...]) -> list[Path]:
    """What lies in `folder` under one of the names with a known suffix, be it a file or not."""
    possible = [folder / (stem + suffix) for stem in stems for suffix in SUFFIXES]
    return [path for path in possible if _there(path)]


def _there(path: Path) -> bool:
    """Whether there is something of this name, be it a link to nothing."""
    return os.path.lexists(path) if isinstance(path, Path) else path.exists()


def shown(value: object, longest: int = 60) -> str:
    """A name or cell as an error message shows it: on one line, cut where it is long."""
    text = str(value)
    text = text if len(text) <= longest else f"{text[:longest]}..."
    return text if text.isprintable() else repr(text)[1:-1]


def rows(file: Path) -> Iterator[tuple[int, Row]]:
    """Yield (row number, row) of a whole file; see `blocks`."""
    for block in blocks(file):
        yield from block.rows()


def blocks(file: Path) -> Iterator[Block]:
    """Yield the records of a file; the number of a row is its line, or its record in a parquet file.

    A cell of CSV or TSV whose header is blank is left out.
    Raises UserError for a file that is corrupt, not UTF-8, or not a table, and for a column named
    twice, of which any reader would silently take one; some of it when the rows of a block are read.
    """
    name = file.name.removesuffix(".gz")
    reader = {".jsonl": _json_lines, ".parquet": _parquet}.get(Path(name).suffix, _cells)
    try:
        if isinstance(file, Path):
            yield from reader(file)
        else:
            with explained(str(file)):
                yield from reader(file)
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 text ({_bad_line(file, error)}).") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{file}: is not a complete gzip file ({error}).") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error}).") from None


def grouped(items: Iterable[T]) -> Iterator[list[T]]:
    """Lists of `AT_ONCE` items; those before an error come before it."""
    group: list[T] = []
    failure: Exception | None = None
    source = iter(items)
    while failure is None:
        try:
            group.append(next(source))
        except StopIteration:
            break
        except Exception as error:  # noqa: BLE001  raised again after what was read before it
            failure = error
        if len(group) == AT_ONCE:
            yield group
            group = []
    if group:
        yield group
    if failure is not None:
        raise failure


def _bad_line(file: Path, error: UnicodeDecodeError) -> str:
    with suppress(OSError, zlib.error, EOFError):
        for number, line in enumerate(_open_bytes(file), start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return f"row {number}"
    return error.reason


def _open_bytes(file: Path) -> IO[bytes]:
    if file.suffix != ".gz":
        return file.open("rb")
    return cast(IO[bytes], gzip.open(file if isinstance(file, Path) else file.open("rb"), "rb"))


def _open_text(file: Path, newline: str | None = None) -> IO[str]:
    return io.TextIOWrapper(_open_bytes(file), encoding="utf-8-sig", newline=newline)


def _check_names(place: str, names: Sequence[str]) -> None:
    """Raise UserError if two columns have one name; place: the file, with the row for JSON."""
    if len(set(names)) < len(names):
        name, count = Counter(names).most_common(1)[0]
        raise UserError(
            f"{place} has {count} columns named '{shown(name)}'; rename or remove all but one."
        )


@dataclass(frozen=True)
class _Lines(Block):
    """Lines of JSON with their numbers."""

    file: str
    lines: Sequence[tuple[int, str]]

    def rows(self) -> Iterator[tuple[int, Row]]:
        """See `Block`."""
        names: list[str] = []

        def keep_names(pairs: list[tuple[str, Any]]) -> Row:
            """Called for each object of a line, the outermost last; names inside a value may repeat."""
            names[:] = [name for name, _ in pairs]
            return dict(pairs)

        for number, line in self.lines:
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=keep_names)
            except (ValueError, RecursionError) as error:
                why = getattr(error, "msg", error)
                raise UserError(f"{self.file}: row {number} is not valid JSON ({why}).") from None
            if not isinstance(row, dict):
                raise UserError(f"{self.file}: row {number} is not a JSON object.")
            _check_names(f"{self.file}: row {number}", names)
            yield number, row


def _json_lines(file: Path) -> Iterator[Block]:
    with _open_text(file) as lines:
        for group in grouped(enumerate(lines, start=1)):
            yield _Lines(str(file), group)


@dataclass(frozen=True)
class _Cells(Block):
    """Records of cells with their line numbers; columns: place and name of those that are read."""

    columns: Sequence[tuple[int, str]]
    records: Sequence[tuple[int, list[str]]]

    def rows(self) -> Iterator[tuple[int, Row]]:
        """See `Block`."""
        for number, cells in self.records:
            yield number, {name: cells[place] for place, name in self.columns}


def _cells(file: Path) -> Iterator[Block]:
    csv.field_size_limit(1 << 30)
    with _open_text(file, newline="") as lines:
        if any(suffix == ".csv" for suffix in file.suffixes):
            reader = csv.reader(lines, strict=True)
        else:
            reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        parsed = _parsed(file, reader)
        header = next((cells for cells in parsed if cells), None)
        if header is None:
            return
        columns = [(place, name) for place, name in enumerate(header) if name.strip()]
        _check_names(f"{file}: the header", [name for _, name in columns])
        for group in grouped(_records(file, reader, parsed, len(header))):
            yield _Cells(columns, group)


def _other_separator(file: Path, width: int) -> str:
    """What to do about a file whose header is one cell that holds another separator; else nothing."""
    with _open_text(file) as source:
        header = source.readline()
    known = {";": "semicolons: separate them by commas", "\t": "tabs: name it .tsv"}
    found = [advice for sign, advice in known.items() if sign in header]
    return f"; its columns seem to be separated by {found[0]}" if width == 1 and found else ""


def _parsed(file: Path, reader: Any) -> Iterator[list[str]]:  # noqa: ANN401  of csv
    """The records of a csv reader; UserError for one that cannot be read."""
    first = 1
    try:
        for cells in reader:
            yield cells
            first = reader.line_num + 1
    except csv.Error as error:
        last = max(first, reader.line_num)
        where = f"row {first}" if first == last else f"rows {first} to {last}"
        cause = (
            '; a quote inside a quoted cell is written "", not \\"' if "expected" in str(error) else ""
        )
        raise UserError(f"{file}: {where} cannot be split into cells ({error}){cause}.") from None


def _records(
    file: Path,
    reader: Any,  # noqa: ANN401  of csv
    parsed: Iterator[list[str]],
    width: int,
) -> Iterator[tuple[int, list[str]]]:
    """The parsed records of a csv reader that are not blank; width: cells of each."""
    for cells in parsed:
        if cells and len(cells) != width:
            raise UserError(
                f"{file}: row {reader.line_num} has {len(cells)} cells, the header {width}"
                f"{_other_separator(file, width)}."
            )
        if cells:
            yield reader.line_num, cells


@dataclass(frozen=True)
class Records(Block):
    """Records of an Arrow table, counted from `first`.

    source: for messages; classes: names of the classes of a column that holds their ids.
    """

    source: str
    first: int
    table: pa.Table
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """See `Block`; a class id that is negative is left as it is."""
        names = self.table.column_names
        columns = [self._values(name) for name in names]
        for number, values in enumerate(zip(*columns, strict=True), start=self.first):
            yield number, dict(zip(names, values, strict=True))

    def _values(self, name: str) -> list[Any]:
        try:
            values = self.table.column(name).to_pylist()
        except (pa.ArrowException, ValueError, OverflowError) as error:
            why = first_line(error)
            raise UserError(
                f"{self.source}: column '{shown(name)}' holds a cell that cannot be read ({why})."
            ) from None
        if (known := self.classes.get(name)) is None:
            return values
        return [v if v is None or v < 0 else known[v] for v in values]


def compact(table: pa.Table) -> pa.Table:
    """A table that holds nothing but its rows: no dictionaries, no buffers that other rows share."""
    for number, column in enumerate(table.schema):
        if pa.types.is_dictionary(column.type):
            values = table.column(number).cast(column.type.value_type)
            table = table.set_column(number, column.name, values)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


def _parquet(file: Path) -> Iterator[Block]:
    """By row groups, so that no more than one of them is in memory."""
    first = 1
    try:
        with _open_bytes(file) as source:
            whole = pa.BufferReader(source.read()) if file.suffix == ".gz" else source
            table = pq.ParquetFile(whole)
            _check_names(f"{file}: the table", table.schema_arrow.names)
            for batch in table.iter_batches(AT_ONCE):
                yield Records(str(file), first, compact(pa.Table.from_batches([batch])))
                first += len(batch)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{file}: is not a parquet file ({first_line(error)}).") from None
