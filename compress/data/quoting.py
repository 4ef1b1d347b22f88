"""Texts of tab-separated files that look quoted as in CSV; they are read as they stand, with a note.

Published files of this kind are written without quoting, and a text of theirs may happen to look so.
"""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from compress.data.rows import Rows
from compress.data.texts import COLUMNS

TABBED = (".tsv", ".txt", ".tsv.gz", ".txt.gz")


def looks_quoted(text: str) -> bool:
    """Whether a text is enclosed in quotes and holds others, all of them doubled."""
    inner = text[1:-1]
    enclosed = len(text) > 3 and text[0] == text[-1] == '"'
    return enclosed and '""' in inner and '"' not in inner.replace('""', "")


def notes(sources: Iterable[Rows]) -> list[str]:
    """A sentence on each tab-separated file with such texts."""
    return [note for rows in sources if (note := _note(rows)) is not None]


def _note(rows: Rows) -> str | None:
    if not rows.name.endswith(TABBED):
        return None
    names = [name for name in COLUMNS if name in rows.table.column_names]
    found = [place for name in names for place in _places(rows.table.column(name))]
    if not found:
        return None
    row = rows.table.column("number")[min(found)].as_py()
    which = f"{len(found):,} texts of {rows.name} look quoted as in CSV, the first in row {row}"
    return (
        f"{which}, and are read with these quotes: name it .csv and separate its columns by commas, or "
        "write them unquoted."
    )


def _places(column: pa.ChunkedArray) -> list[int]:
    """The rows of a column whose text looks quoted; looks closely at those with doubled quotes only."""
    found, start = list[int](), 0
    for chunk in column.chunks:
        (candidates,) = pc.match_substring(chunk, '""').to_numpy(zero_copy_only=False).nonzero()
        found += [start + n for n in candidates.tolist() if looks_quoted(chunk[n].as_py())]
        start += len(chunk)
    return found
