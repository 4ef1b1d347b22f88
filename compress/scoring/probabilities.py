"""Class probabilities of a teacher that were computed elsewhere: files, read and checked row by row.

A folder holds a file for each split, called as the split: `train`, `dev`, `ood_<name>`, in any format
of `compress.data.reading`; a file in its place is that of train. Column `row` is the number of a sample
in the split's own source, counted from 0, unless that has ids (`task.id`): then their column stands in
its place. Each class has a column called as its label. Loads no torch: other processes read with it.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.configuration.robust_schema import RobustCompression
from compress.data import checking, ids, reading
from compress.data.reading import Block, Row, shown
from compress.data.rows import index
from compress.data.splits import Split
from compress.errors import UserError, nearest
from compress.runtime import parallel

KEY = "robust_compression.teacher.probabilities"
IDS = "robust_compression.task.id"
ROW = "row"
TOLERANCE = 1e-3
"""How far the sum of a row may be from 1."""
Named = NDArray[Any]
"""What names the samples of n rows: their numbers in the source, int64, or the hashes of their ids."""
Part = tuple[NDArray[np.int64], Named, NDArray[np.float64]]
"""Of the n rows of a block: their numbers in the file, the samples that they are of, [n] each, and
their probabilities [n, C], each row of sum 1."""
Found = NDArray[np.float32] | NDArray[np.float64]


def needed(robust: RobustCompression, stage: str, splits: Collection[str]) -> list[str]:
    """Splits whose file a stage of `--stage` needs, in order; splits: of the task.

    train for a loss that uses the teacher, and for the stage teacher; the others for the report.
    """
    trains = robust.loss.uses("teacher") and stage in ("all", "student")
    train = ["train"] if trains or stage == "teacher" else []
    report = stage in ("all", "evaluate")
    return train + [name for name in splits if name != "train" and report]


def check(robust: RobustCompression, stage: str, splits: Collection[str]) -> None:
    """Raise UserError if the folder, or a file in it that the stage needs, is missing."""
    if robust.teacher.probabilities is None:
        return
    found = files(robust.teacher.probabilities, splits)
    for split in needed(robust, stage, splits):
        if split not in found:
            why = "the loss uses the teacher" if stage in ("all", "student") else f"--stage {stage}"
            why = why if split == "train" else "the report shows the teacher's"
            if Path(robust.teacher.probabilities).is_file():
                raise UserError(
                    f"{KEY}: '{robust.teacher.probabilities}' is one file, which is that of train, and "
                    f"{why}; name a folder with a file for each split."
                )
            raise UserError(
                f"{KEY}: '{robust.teacher.probabilities}' has no file {split} "
                f"({', '.join(reading.FORMATS)}, or those with .gz), and {why}."
            )


def files(name: str, splits: Collection[str]) -> dict[str, Path]:
    """The files of the folder of this name, by split; a file of this name is that of train.

    Raises UserError if there is neither, and for a file of another kind.
    """
    folder = Path(name)
    if reading.is_file(folder):
        if not name.endswith(reading.SUFFIXES):
            known = f"{', '.join(reading.FORMATS)}, or those with .gz"
            raise UserError(f"{KEY}: '{name}' is of no known kind ({known}).")
        return {"train": folder}
    if not folder.is_dir():
        why = "(with a file for each split, such as train.parquet), nor a file for train"
        raise UserError(f"{KEY}: '{name}' is neither a folder {why}.")
    found = {split: reading.find(folder, (split,)) for split in splits}
    return {split: file for split, file in found.items() if file is not None}


@dataclass(frozen=True)
class _Work:
    """What is done with a block of a file, by any process; column: that names the samples."""

    file: str
    labels: tuple[str, ...]
    column: str
    by_id: bool

    def __call__(self, block: Block) -> Part:
        numbers, names, cells = [], [], []
        for number, row in block.rows():
            names.append(self._id(row, number) if self.by_id else self._sample(row, number))
            cells.append([self._number(row, label, number) for label in self.labels])
            numbers.append(number)
        found = np.array(cells, np.float64).reshape(len(cells), len(self.labels))
        sums = found.sum(axis=1)
        for place in np.flatnonzero(~(np.abs(sums - 1) <= TOLERANCE))[:1]:
            percent = abs(sums[place] - 100) <= 100 * TOLERANCE
            advice = "divide percentages by 100" if percent else "not logits"
            raise UserError(
                f"{self.file}: the probabilities of row {numbers[place]} of the file sum to "
                f"{sums[place]:.6g}, not to 1; give probabilities of all classes, {advice}."
            )
        kind = ids.KIND if self.by_id else np.int64
        return np.array(numbers, np.int64), np.array(names, kind), found / sums[:, None]

    def _cell(self, row: Row, name: str) -> object:
        if name not in row:
            raise UserError(f"{self.file}: has no column '{name}'{nearest(name, map(shown, row))}")
        return row[name]

    def _float(self, row: Row, name: str, number: int) -> float:
        cell: Any = self._cell(row, name)
        try:
            return float(cell)
        except (TypeError, ValueError):
            text = shown(cell)
            raise UserError(f"{self.file}: '{name}' of row {number} is '{text}', no number.") from None

    def _id(self, row: Row, number: int) -> bytes:
        place = f"{self.file}: row {number}"
        return ids.keys([checking.id_of(self._cell(row, self.column), place, self.column)])[0]

    def _number(self, row: Row, label: str, number: int) -> float:
        """A probability; the upper bound is checked with the sum."""
        value = self._float(row, label, number)
        if not 0 <= value < np.inf:
            raise UserError(
                f"{self.file}: '{label}' of row {number} is {value:g}, which is no probability."
            )
        return value

    def _sample(self, row: Row, number: int) -> int:
        value = self._float(row, ROW, number)
        if not value.is_integer() or value < 0:
            raise UserError(
                f"{self.file}: '{ROW}' of row {number} is {value:g}; it is the number of a sample, "
                "counted from 0."
            )
        return int(value)


@dataclass(frozen=True)
class Wanted:
    """The samples of a split, which the rows of a file name by their numbers in the split's source.

    name: of the split; column: that names them.
    """

    name: str
    split: Split
    column: str = ROW

    @staticmethod
    def of(name: str, split: Split, column: str | None) -> "Wanted":
        """column: of ids; the rows name samples by it where the data have it.

        Raises UserError if two samples have one id.
        """
        if column is None or not split.ids:
            return Wanted(name, split)
        return WantedById(name, split, column, index=index(split.texts.table, column))

    def samples(self, file: Path, numbers: NDArray[np.int64], named: Named) -> NDArray[np.int64]:
        """The numbers [n] of the samples of some rows; UserError for one that the source lacks."""
        for place in np.flatnonzero(named >= self.split.set_size)[:1]:
            raise UserError(
                f"{file}: '{ROW}' of row {numbers[place]} is {named[place]}, but {self.name} has "
                f"{self.split.set_size:,} samples, counted from 0."
            )
        return named

    def shown(self, sample: int) -> str:
        """What names a sample."""
        return str(sample)


@dataclass(frozen=True)
class WantedById(Wanted):
    """The same where the rows name them by their ids; index: of the ids of the whole set."""

    index: ids.Index = field(kw_only=True)

    def samples(self, file: Path, numbers: NDArray[np.int64], named: Named) -> NDArray[np.int64]:
        """See `Wanted`."""
        found = self.index.places(named)
        for place in np.flatnonzero(found < 0)[:1]:
            row = next(row for number, row in reading.rows(file) if number == numbers[place])
            one = shown(row[self.column])
            raise UserError(
                f"{file}: '{self.column}' of row {numbers[place]} is '{one}', which no sample of "
                f"{self.name} has."
            )
        return found

    def shown(self, sample: int) -> str:
        """See `Wanted`."""
        return f"'{shown(self.split.texts.table.column('id')[sample].as_py())}'"


def read(
    file: Path,
    wanted: Wanted,
    labels: Sequence[str],
    out: Found,
    processes: int = 1,
    said: Callable[[int], None] = lambda count: None,
) -> None:
    """Fill `out` [N, C] with the probabilities of the N samples of a split, by blocks of the file.

    labels: the C classes; said: is told how many rows are read. The file may lack rows of samples that
    the run does not use. Raises UserError, naming the row, for one that is no distribution, of a sample
    that the source lacks or that has a row already, and for a missing one.
    """
    split, column = wanted.split, wanted.column
    if column in labels:
        raise UserError(f"{file}: '{column}' is a class and names the samples too; rename one of them.")
    given, places, count = np.zeros(split.set_size, bool), split.texts.places, 0
    work = _Work(str(file), tuple(labels), column, isinstance(wanted, WantedById))
    for numbers, named, found in parallel.in_order(work, reading.blocks(file), processes):
        samples = wanted.samples(file, numbers, named)
        _check_once(file, wanted, numbers, samples, given)
        given[samples] = True
        where = samples if places is None else np.searchsorted(places, samples)
        if places is not None:
            used = places[np.minimum(where, len(places) - 1)] == samples
            where, found = where[used], found[used]
        out[where] = found
        said(count := count + len(numbers))
    lacking = np.flatnonzero(~(given if places is None else given[places]))
    if len(lacking):
        first = wanted.shown(int(lacking[0] if places is None else places[lacking[0]]))
        raise UserError(
            f"{file}: has no row with '{column}' {first}, which is a sample of {wanted.name} that the "
            f"run uses ({len(lacking):,} of {len(split):,} are missing)."
        )


def _check_once(
    file: Path,
    wanted: Wanted,
    numbers: NDArray[np.int64],
    samples: NDArray[np.int64],
    given: NDArray[np.bool_],
) -> None:
    """Raise UserError for the first row of a block whose sample has a row already."""
    again = given[samples]
    again[np.setdiff1d(np.arange(len(samples)), np.unique(samples, return_index=True)[1])] = True
    if again.any():
        place = int(again.argmax())
        raise UserError(
            f"{file}: row {numbers[place]} is the second with '{wanted.column}' "
            f"{wanted.shown(int(samples[place]))}; keep one a sample."
        )
