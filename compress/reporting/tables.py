"""Tables for every place that shows one: Markdown, terminal, and HTML through `page.html.j2`.

Cells are text. In Markdown a cell is `markdown.cell` (an untrusted name, nothing in it is markup) or
`bold_cell` (may hold `**bold**`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Rows = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Table:
    """A caption, a header, rows of cells; without rows the caption stands alone."""

    caption: str
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """The table in Markdown, in which bold cells stay bold; empty without rows."""
        return markdown([self.header, *self.rows], bold_cell) if self.rows else ""


def markdown(rows: Rows, cell: Callable[[str], str], padded: bool = False) -> str:
    """A Markdown table; the first row is the header.

    padded: columns of one width, so that it can be read on a terminal too.
    """
    lines = [list(map(cell, row)) for row in rows]
    widths = [max(map(len, column)) if padded else 0 for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * (width or 3) for width in widths])
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)


def aligned(rows: Rows) -> list[str]:
    """The lines of a table for the terminal: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([r[0].ljust(widths[0]), *map(str.rjust, r[1:], widths[1:])]) for r in rows]


def bold_cell(text: str) -> str:
    """A cell's text in Markdown, on one line, without HTML."""
    return inert(" ".join(pipes(text.replace("\\", r"\\")).split("\n")))


def pipes(text: str) -> str:
    """The text with its vertical bars escaped, which would end a cell."""
    return text.replace("|", r"\|")


def inert(text: str) -> str:
    """A text for Markdown without HTML in it."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
