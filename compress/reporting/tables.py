"""A table as a caption, a header and cells of text, whatever shows it: Markdown, HTML or a terminal."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from compress.reporting import markdown

T = TypeVar("T")
Column = tuple[str, Callable[[T], str]]
"""Its header, and the function from what a row is about to its cell."""


@dataclass(frozen=True)
class Table:
    """Without rows the caption stands alone."""

    caption: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()

    @classmethod
    def of(cls, caption: str, items: Iterable[T], columns: Iterable[Column[T]]) -> "Table":
        """A row for each item, a column for each pair of header and function."""
        header, cells = zip(*columns, strict=True)
        return cls(caption, list(header), [[cell(item) for cell in cells] for item in items])

    def markdown(self) -> str:
        """The table in Markdown, in which bold cells stay bold; empty without rows."""
        return markdown.table([self.header, *self.rows], markdown.bold_cell) if self.rows else ""


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table for the terminal: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([r[0].ljust(widths[0]), *map(str.rjust, r[1:], widths[1:])]) for r in rows]
