"""Rows of a source become texts, label ids and subsets; messages name the source and the row.

A column is looked up by its exact name. Where another column could be meant as well (another accepted
name, or one that differs in blanks or case only) and the two disagree, that is an error.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from compress.configuration.task_schema import OodBlock
from compress.data import sources
from compress.data.reading import Row, check_pair, shown
from compress.data.tasks import ByteStrings, Task, columns, label_ids, spelling
from compress.errors import UserError, nearest

SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Checked:
    """N rows of a source.

    texts: two lists [N]; labels: ids [N] into `names`; columns: subset column -> values [N]; rows: row
    numbers in the source [N].
    """

    source: str
    names: Sequence[str]
    texts: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    labels: list[int] = field(default_factory=list)
    columns: dict[str, list[str]] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)


def check(task: Task, names: Sequence[str], source: sources.Source, entry: OodBlock) -> Checked:
    """Take columns and label ids out of the rows.

    names: the labels in id order. Raises UserError for a missing or ambiguous column, a missing cell, a
    text that is none, an unknown label, and a source without rows.
    """
    ids = label_ids(task, names, entry.spellings)
    checked = Checked(source.name, names)
    reader: _Reader | None = None
    for number, row in source.rows:
        if reader is None:
            reader = _Reader.of(task, entry, row, source.name)
            checked.columns.update(_subsets(task, row, entry.subsets, source.name))
        place = f"{source.name}: row {number}"
        for key in (*reader.texts, reader.label, *checked.columns):
            if row.get(key) is None:
                raise UserError(f"{place} has no '{key}'.")
        for cells, key in zip(checked.texts, reader.texts, strict=True):
            text = text_of(row[key], place, key)
            cells.append(_unquoted(text) if isinstance(entry, ByteStrings) else text)
        check_pair(checked.texts[0][-1], checked.texts[1][-1], place)
        label = label_id(row[reader.label], ids)
        if label is None:
            raise UserError(
                f"{place} has the unknown label '{shown(row[reader.label])}'; "
                f"known are {', '.join(names)} and 0 to {len(names) - 1}."
            )
        reader.check_rivals(row, ids, place)
        checked.labels.append(label)
        checked.rows.append(number)
        for name, values in checked.columns.items():
            values.append(str(row[name]))
    if not checked.labels:
        raise UserError(f"{source.name}: holds no sample.")
    return checked


def label_id(label: object, ids: Mapping[str, int]) -> int | None:
    """The class id of a label as it is written; None if it is no label.

    A whole number written as a float ("1.0", in tables with empty cells) is the same id.
    """
    name = spelling(label)
    number, point, zeros = name.partition(".")
    if name not in ids and point and number.isdecimal() and set(zeros) == {"0"}:
        name = number
    return ids.get(name)


@dataclass(frozen=True)
class _Reader:
    """The columns that are read, and for each the names that it could have, as `_plain` writes them."""

    texts: tuple[str, str]
    label: str
    accepted: Mapping[str, frozenset[str]]
    known: dict[tuple[str, ...], list[tuple[str, str]]] = field(default_factory=dict)

    @staticmethod
    def of(task: Task, entry: OodBlock, row: Row, source: str) -> "_Reader":
        possible = columns(task, entry)
        first, second, label = found = [_column(row, names, source) for names in possible]
        plain = [frozenset(map(_plain, names)) for names in possible]
        return _Reader((first, second), label, dict(zip(found, plain, strict=True)))

    def check_rivals(self, row: Row, ids: Mapping[str, int], place: str) -> None:
        """Raise UserError if another column of the row could be meant and differs."""
        names = tuple(row)
        if names not in self.known:
            self.known[names] = [
                (key, name)
                for name in names
                for key, accepted in self.accepted.items()
                if name not in self.accepted and _plain(name) in accepted
            ]
        for key, rival in self.known[names]:
            if key == self.label:
                other = label_id(row[rival], ids)
                differ = other is not None and other != label_id(row[key], ids)
            else:
                words = row[rival].split() if isinstance(row[rival], str) else []
                differ = bool(words) and words != row[key].split()
            if differ:
                raise UserError(
                    f"{place}: '{shown(key)}' and '{shown(rival)}' could both be the column that is "
                    "meant, and they differ; remove or rename one of them."
                )


def _plain(name: str) -> str:
    """A column's name without case, blanks around it and a byte-order mark."""
    return name.strip("\ufeff\u200b \t\r\n\u00a0").casefold()


def _column(row: Row, names: tuple[str, ...], source: str) -> str:
    """The first of the names under which the first row holds a column."""
    for name in names:
        if name in row:
            return name
    raise UserError(f"{source}: has no column '{names[0]}'{nearest(names[0], map(shown, row))}")


def _subsets(task: Task, row: Row, names: Sequence[str], source: str) -> dict[str, list[str]]:
    """Empty columns for the subsets; a shipped task's files may lack them, a defined one's may not."""
    for name in names:
        if task.defined and name not in row:
            raise UserError(f"{source}: has no column '{name}' of the 'subsets'{nearest(name, row)}")
    return {name: [] for name in names if name in row}


def text_of(cell: object, place: str, key: str) -> str:
    """The cell as a text; UserError if it is none, or holds half of a surrogate pair."""
    if not isinstance(cell, str):
        raise UserError(f"{place}, '{key}' is not a text.")
    if not cell.isascii() and SURROGATE.search(cell):
        raise UserError(f"{place}, '{key}' is not valid Unicode.")
    return cell


def _unquoted(cell: str) -> str:
    """A cell that holds the literal of a byte string, as in the published PAWS-QQP, as plain text."""
    with suppress(ValueError, SyntaxError):
        value = ast.literal_eval(cell) if cell.startswith(("b'", 'b"')) else cell
        return value.decode() if isinstance(value, bytes) else cell
    return cell
