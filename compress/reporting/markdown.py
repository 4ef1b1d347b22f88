"""Markdown: untrusted names (labels, columns, tasks) stay text, whatever characters they have."""

import re
from collections.abc import Callable, Sequence

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


def bold_cell(name: str) -> str:
    """A cell on one line, without HTML, in which `**bold**` stays bold."""
    return without_html(" ".join(pipes(name.replace("\\", r"\\")).split("\n")))


def pipes(name: str) -> str:
    """The text with its vertical bars escaped, which would end a cell."""
    return name.replace("|", r"\|")


def without_html(name: str) -> str:
    """A text that may hold other markup, but no HTML."""
    return name.replace("&", "&amp;").replace("<", "&lt;")


def table(
    rows: Sequence[Sequence[str]], escape: Callable[[str], str] = cell, padded: bool = False
) -> str:
    """A table; the first row is the header.

    padded: columns of one width, so that it can be read on a terminal too.
    """
    lines = [list(map(escape, row)) for row in rows]
    widths = [max(map(len, column)) if padded else 0 for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * (width or 3) for width in widths])
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)
