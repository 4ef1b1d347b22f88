"""All rows of a source, checked once and kept in an Arrow file, which is mapped: nothing is held.

Columns: the texts (`texts.COLUMNS`, or the first alone), `label` (class id), `number` (of the row in
the source), `key` (`texts.keys`), `digest` (`texts.digests`), one for each column of subsets, after
`SUBSET`, and of subgroups, after `SUBGROUP`, and where samples have ids `id` and `id_key` (`ids.keys`).
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compress.configuration.task_schema import OodBlock
from compress.data import ids, texts
from compress.data.checking import Checker
from compress.data.reading import Block, shown
from compress.data.sources import Source
from compress.data.tasks import Task
from compress.data.texts import Places, Texts, chunks_of, taken
from compress.errors import UserError
from compress.runtime import parallel

READING = 2
"""Raised where a source is read otherwise than before, so that its rows are made again."""
SUBSET = "subset "
SUBGROUP = "subgroup "
ABOUT = b"about"
TOGETHER = 50
"""Batches that become one of the file."""
PIECE = 1 << 18
"""Digests that are gathered at once."""


@dataclass(frozen=True)
class Rows:
    """The rows of a source, N; name: of the source; names: of its labels, in the order of their ids."""

    name: str
    names: tuple[str, ...]
    table: pa.Table

    @staticmethod
    def open(file: Path) -> "Rows":
        """Map what `write` has written."""
        with pa.memory_map(str(file)) as source:
            table = pa.ipc.open_file(source).read_all()
        about = json.loads(table.schema.metadata[ABOUT])
        return Rows(about["name"], tuple(about["names"]), table)

    def __len__(self) -> int:
        """Number of rows N."""
        return len(self.table)

    def column(self, name: str) -> NDArray[Any]:
        """`label`, `number` or `key` of all rows [N]."""
        return self.table.column(name).to_numpy()

    def subsets(self, places: Places | None) -> dict[str, list[str]]:
        """The columns of subsets of some rows, None: of all."""
        names = [name for name in self.table.column_names if name.startswith(SUBSET)]
        columns = {name.removeprefix(SUBSET): self.table.column(name) for name in names}
        return {n: c.to_pylist() if places is None else taken(c, places) for n, c in columns.items()}

    def subgroups(self, places: Places | None) -> dict[str, NDArray[np.bool_]]:
        """For each column of subgroups, whether some rows belong to it, None: all."""
        names = [name for name in self.table.column_names if name.startswith(SUBGROUP)]
        found = {name.removeprefix(SUBGROUP): self.table.column(name).to_numpy() for name in names}
        return {n: members if places is None else members[places] for n, members in found.items()}

    def digests(self, places: Places | None) -> Iterator[bytes]:
        """The digests of some rows in ascending order, None: of all, one after another, in pieces."""
        column = self.table.column("digest")
        if places is None:
            yield from (_digests(chunk).tobytes() for chunk in column.chunks)
            return
        for start in range(0, len(places), PIECE):
            for chunk, _, here in chunks_of(column, places[start : start + PIECE]):
                yield _digests(chunk)[here].tobytes()

    def ids(self) -> str:
        """A hash of the ids of all rows, in order; empty where they have none."""
        if "id_key" not in self.table.column_names:
            return ""
        digest = hashlib.sha256()
        for chunk in self.table.column("id_key").chunks:
            digest.update(_digests(chunk).tobytes())
        return digest.hexdigest()

    def texts(self, place: int) -> list[str]:
        """The texts of a row."""
        return [column[0] for column in Texts(self.table)[place : place + 1]]


def index(table: pa.Table, column: str) -> ids.Index:
    """Where each id of the rows stands; column: what the source calls it.

    Raises UserError if two rows have one.
    """
    found = np.concatenate([_digests(chunk) for chunk in table.column("id_key").chunks])
    made = ids.Index.of(found.reshape(-1).view(ids.KIND))
    if (places := made.twice()) is not None:
        first, second = (table.column("number")[place].as_py() for place in places)
        name = json.loads(table.schema.metadata[ABOUT])["name"]
        one = table.column("id")[places[0]].as_py()
        raise UserError(
            f"{name}: rows {first} and {second} have the same '{shown(column)}', '{shown(one)}', so it "
            "is no id (robust_compression.task.id)."
        )
    return made


def _digests(chunk: pa.Array) -> NDArray[np.uint8]:
    """A chunk of digests [n, bytes]."""
    whole = np.frombuffer(chunk.buffers()[1], np.uint8).reshape(-1, texts.DIGEST)
    return whole[chunk.offset : chunk.offset + len(chunk)]


@dataclass(frozen=True)
class _Work:
    """What is done with a block of rows, by any process."""

    checker: Checker
    symmetric: bool

    def __call__(self, block: Block) -> pa.RecordBatch:
        checked = self.checker.check(block.rows())
        columns = texts.columns_of(checked.texts)
        columns |= {
            "label": pa.array(checked.labels, pa.int16()),
            "number": pa.array(checked.numbers, pa.int64()),
            "key": pa.array(texts.keys(checked.texts, self.symmetric)),
            "digest": pa.array(texts.digests(checked.texts, checked.labels), pa.binary(texts.DIGEST)),
        }
        columns |= {f"{SUBSET}{name}": pa.array(v, pa.string()) for name, v in checked.columns.items()}
        members = checked.subgroups.items()
        columns |= {f"{SUBGROUP}{name}": pa.array(found, pa.bool_()) for name, found in members}
        if checked.ids:
            columns["id"] = pa.array(checked.ids, pa.string())
            columns["id_key"] = pa.array(ids.keys(checked.ids), pa.binary(texts.DIGEST))
        return pa.RecordBatch.from_pydict(columns)


def batches(
    task: Task, names: Sequence[str], source: Source, entry: OodBlock, processes: int
) -> Iterator[pa.RecordBatch]:
    """Check all rows of a source; names: the labels in id order.

    Raises UserError for a source that cannot be read, has no row, or has one that is no sample.
    """
    blocks, first = source.blocks(), []
    for block in blocks:
        first.append(block)
        if (row := next(block.rows(), None)) is not None:
            checker = Checker.of(task, names, entry, source.name, row[1], _columns(block))
            work = _Work(checker, task.symmetric)
            yield from parallel.in_order(work, chain(first, blocks), processes)
            return
    raise UserError(f"{source.name}: holds no sample.")


def _columns(block: Block) -> dict[str, None]:
    """The columns of its rows up to one that is wrong, which is told when it is checked."""
    found: dict[str, None] = {}
    with suppress(UserError):
        for _, row in block.rows():
            found |= dict.fromkeys(row)
    return found


def about(source: Source, names: Sequence[str]) -> dict[bytes, bytes]:
    """What a table says of itself."""
    return {ABOUT: json.dumps({"name": source.name, "names": list(names)}).encode()}


def write(
    file: Path, found: Iterator[pa.RecordBatch], meta: dict[bytes, bytes], said: Callable[[int], None]
) -> None:
    """Write what `batches` gives; meta: of `about`; said: is told now and then how many rows it has."""
    count, waiting = 0, [next(found)]
    schema = waiting[0].schema.with_metadata(meta)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:

        def put() -> None:
            writer.write_table(pa.Table.from_batches(waiting).combine_chunks())
            waiting.clear()

        for batch in found:
            if len(waiting) == TOGETHER:
                count += sum(map(len, waiting))
                said(count)
                put()
            waiting.append(batch)
        put()
