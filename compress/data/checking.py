"""Rows of a source become texts, label ids and subsets; messages name the source and the row.

A column is looked up by its exact name. Where another column could be meant as well (another accepted
name, or one that differs in blanks or case only) and the two disagree, that is an error.
"""

import ast
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from compress.configuration.task_schema import OodBlock
from compress.data import ids
from compress.data.reading import Row, check_texts, shown
from compress.data.tasks import ByteStrings, Task, WithGaps, columns, is_number, label_ids, spelling
from compress.data.texts import Lists
from compress.errors import UserError, nearest

NONE = "none"
"""The subset of a row whose cell is empty where the set has such cells."""
MEMBER = 0.5
"""Score from which on a row belongs to a subgroup, as in Borkan et al. 2019 and WILDS."""
YES_NO = {"true": 1, "false": 0}
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Checked:
    """N rows of a source.

    texts: a list [N] for each text; labels: class ids [N]; columns: subset column -> values [N];
    numbers: of the rows in the source [N]; ids: of the samples [N], empty where they have none;
    subgroups: column -> whether each row belongs to it [N].
    """

    texts: Lists
    labels: list[int] = field(default_factory=list)
    columns: dict[str, list[str]] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    subgroups: dict[str, list[bool]] = field(default_factory=dict)


@dataclass(frozen=True)
class Checker:
    """How the rows of a source are checked; the same for all of them, in any process.

    source: its name; names: the labels in id order; texts, label, subsets: the columns that are read;
    accepted: for texts and label, the names that the column could have, as `_plain` writes them;
    threshold: where labels are scores, that of the second label; gaps: whether a cell of a
    subset may be empty; id: the column of ids, None where the source has none;
    subgroups: the columns of scores that make subsets.
    """

    source: str
    names: tuple[str, ...]
    ids: Mapping[str, int]
    literal: bool
    texts: tuple[str, ...]
    label: str
    accepted: Mapping[str, frozenset[str]]
    subsets: tuple[str, ...]
    threshold: float | None = None
    gaps: bool = False
    id: str | None = None
    subgroups: tuple[str, ...] = ()

    @staticmethod
    def of(
        task: Task,
        names: Sequence[str],
        entry: OodBlock,
        source: str,
        row: Row,
        more: Collection[str] = (),
    ) -> "Checker":
        """By the columns of the first row; UserError for one that is missing.

        more: columns of rows after it, which may be those that a source need not have.
        """
        known = {*row, *more}
        possible = columns(task, entry)
        *texts, label = found = [_column(row, options, source) for options in possible]
        plain = [frozenset(map(_plain, options)) for options in possible]
        return Checker(
            source=source,
            names=tuple(names),
            ids=label_ids(task, names, entry.spellings),
            literal=isinstance(entry, ByteStrings),
            texts=tuple(texts),
            label=label,
            accepted=dict(zip(found, plain, strict=True)),
            subsets=_subsets(task, known, entry.subsets, source),
            threshold=task.threshold if entry.labels is None else None,
            gaps=isinstance(entry, WithGaps),
            id=task.id if task.id in known else None,
            subgroups=tuple(name for name in task.subgroups if name in known),
        )

    def check(self, rows: Iterable[tuple[int, Row]]) -> Checked:
        """Take columns and label ids out of the rows.

        Raises UserError for a missing cell, an ambiguous column, a text that is none, and an unknown
        label.
        """
        checked = Checked(
            tuple([] for _ in self.texts),
            columns={name: [] for name in self.subsets},
            subgroups={name: [] for name in self.subgroups},
        )
        needed = (*self.texts, self.label, *(() if self.gaps else self.subsets))
        rivals: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for number, row in rows:
            place = f"{self.source}: row {number}"
            for key in needed:
                if row.get(key) is None:
                    raise UserError(f"{place} has no '{key}'.")
            for cells, key in zip(checked.texts, self.texts, strict=True):
                text = text_of(row[key], place, key)
                cells.append(_unquoted(text) if self.literal else text)
            check_texts([cells[-1] for cells in checked.texts], place)
            label = self._label(row[self.label])
            if label is None:
                raise UserError(f"{place} {self._unknown(row[self.label])}")
            names = tuple(row)
            if names not in rivals:
                rivals[names] = self._rivals(names)
            self._check_rivals(row, rivals[names], place)
            checked.labels.append(label)
            checked.numbers.append(number)
            if self.id is not None:
                checked.ids.append(id_of(row.get(self.id), place, self.id))
            for name, members in checked.subgroups.items():
                members.append(belongs(row.get(name), place, name))
            for name, values in checked.columns.items():
                cell = row.get(name)
                values.append(
                    NONE if self.gaps and cell in (None, "") else text_of(str(cell), place, name)
                )
        return checked

    def _label(self, cell: object) -> int | None:
        """The class id of a label, or of a score where those are labels; None if it is neither."""
        if self.threshold is not None and (score := score_of(cell)) is not None:
            return int(score >= self.threshold)
        return label_id(cell, self.ids)

    def _unknown(self, cell: object) -> str:
        """What is wrong with a row whose label this is."""
        found = f"has the unknown label '{shown(cell)}'; known are {', '.join(self.names)}"
        if self.threshold is not None:
            return f"{found} and scores from 0 to 1."
        return f"{found}{self._known_ids()}{_other_task(cell)}."

    def _known_ids(self) -> str:
        """What to add to the names of the labels where class ids count as well."""
        written = [str(number) for number in range(len(self.names))]
        counts = all(self.ids.get(name) == number for number, name in enumerate(written))
        return f" and 0 to {written[-1]}" if counts and not any(map(is_number, self.names)) else ""

    def _rivals(self, names: tuple[str, ...]) -> list[tuple[str, str]]:
        """Columns that are read, each with another one of the row that could be meant."""
        return [
            (key, name)
            for name in names
            for key, accepted in self.accepted.items()
            if name not in self.accepted and _plain(name) in accepted
        ]

    def _check_rivals(self, row: Row, rivals: Iterable[tuple[str, str]], place: str) -> None:
        """Raise UserError if another column of the row could be meant and differs."""
        for key, rival in rivals:
            if key == self.label:
                other = self._label(row[rival])
                differ = other is not None and other != self._label(row[key])
            else:
                words = row[rival].split() if isinstance(row[rival], str) else []
                differ = bool(words) and words != row[key].split()
            if differ:
                raise UserError(
                    f"{place}: '{shown(key)}' and '{shown(rival)}' could both be the column that is "
                    "meant, and they differ; remove or rename one of them."
                )


def label_id(label: object, ids: Mapping[str, int]) -> int | None:
    """The class id of a label as it is written, a number by its value; None if it is no label."""
    return ids.get(spelling(label))


def id_of(cell: object, place: str, key: str) -> str:
    """A cell of a column of ids as text; UserError if it is none."""
    if (found := ids.written(cell)) is None:
        raise UserError(
            f"{place}: '{shown(key)}' is '{shown(cell)}', which is no id (a text or a whole number)."
        )
    return text_of(found, place, key)


def belongs(cell: object, place: str, key: str) -> bool:
    """Whether a cell of a subgroup's column says that the row belongs to it: a score of `MEMBER`.

    True and False count as 1 and 0, an empty cell as 0. Raises UserError for any other.
    """
    if cell is None or cell != cell or (isinstance(cell, str) and not cell.strip()):
        return False
    score = score_of(YES_NO.get(str(cell).strip().casefold(), cell))
    if score is None:
        raise UserError(f"{place}: '{shown(key)}' is '{shown(cell)}', but it must be from 0 to 1.")
    return score >= MEMBER


def score_of(cell: object) -> float | None:
    """A cell as a score from 0 to 1; None if it is none."""
    if isinstance(cell, bool) or not isinstance(cell, (int, float, str)):
        return None
    with suppress(ValueError):
        score = float(cell)
        return score if 0 <= score <= 1 else None
    return None


def _other_task(label: object) -> str:
    """What to add of a label that belongs to regression or to several classes at once."""
    try:
        fraction = float(spelling(label)) % 1  # NaN for what is not finite
    except ValueError:
        fraction = 0.0
    if 0 < fraction < 1:
        return "; numbers as targets (regression) are not supported, so cut them into classes"
    if isinstance(label, (list, tuple, dict)):
        return "; several labels of a sample are not supported, so keep one class each"
    return ""


def _plain(name: str) -> str:
    """A column's name without case, blanks around it and a byte-order mark."""
    return name.strip("\ufeff\u200b \t\r\n\u00a0").casefold()


def _column(row: Row, names: tuple[str, ...], source: str) -> str:
    """The first of the names under which the first row holds a column."""
    for name in names:
        if name in row:
            return name
    raise UserError(f"{source}: has no column '{names[0]}'{nearest(names[0], map(shown, row))}")


def _subsets(task: Task, known: Collection[str], names: Sequence[str], source: str) -> tuple[str, ...]:
    """Columns of the subsets; a shipped task's files may lack them, a defined one's may not."""
    for name in names:
        if task.defined and name not in known:
            raise UserError(f"{source}: has no column '{name}' of the 'subsets'{nearest(name, known)}")
    return tuple(name for name in names if name in known)


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
