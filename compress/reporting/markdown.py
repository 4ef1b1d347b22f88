"""Untrusted names in Markdown: labels, columns and tasks stay text, whatever characters they have."""

import re
from collections.abc import Sequence

from compress.reporting import tables
from compress.reporting.numbers import printable

_ACTIVE = re.compile(r"[\\`*\[\]|~$^]|(?<![^\W_])_|_(?![^\W_])|(?<=\w)(?=://)")
_FIRST = re.compile(r"^(?=[#+=-])|(?<=^\d)(?=[.)](?:\s|$))")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def text(name: str) -> str:
    """One line in which nothing is markup: no emphasis, link, list, code, HTML, table cell, formula."""
    return _FIRST.sub(r"\\", cell(name))


def cell(name: str) -> str:
    """The same inside a line, such as a cell of a table, where no list or heading can begin."""
    return _ACTIVE.sub(r"\\\g<0>", printable(name)).translate(_ENTITIES)


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of plain texts; the first row is the header."""
    return tables.markdown(rows, cell)
