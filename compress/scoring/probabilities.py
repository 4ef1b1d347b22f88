"""Class probabilities of a teacher that were computed elsewhere: files, read and checked row by row.

A folder holds a file for each split, called as the split: `train`, `dev`, `ood_<name>`, in any format
of `compress.data.reading`. Column `row` is the number of a sample in the split's own source, counted
from 0; each class has a column called as its label. Loads no torch: other processes read with it.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.configuration.robust_schema import RobustCompression
from compress.data import reading
from compress.data.reading import Block, Row, shown
from compress.data.splits import Split
from compress.errors import UserError, nearest
from compress.runtime import parallel

KEY = "robust_compression.teacher.probabilities"
ROW = "row"
TOLERANCE = 1e-3
"""How far the sum of a row may be from 1."""
Part = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
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
            raise UserError(
                f"{KEY}: '{robust.teacher.probabilities}' has no file {split} "
                f"({', '.join(reading.FORMATS)}, or those with .gz), and {why}."
            )


def files(name: str, splits: Collection[str]) -> dict[str, Path]:
    """The files of the folder of this name, by split; UserError if there is no such folder."""
    folder = Path(name)
    if not folder.is_dir():
        why = "is a file; name the folder that it is in" if folder.exists() else "is not a folder"
        raise UserError(f"{KEY}: '{name}' {why} (with a file for each split, such as train.parquet).")
    found = {split: reading.find(folder, (split,)) for split in splits}
    return {split: file for split, file in found.items() if file is not None}


@dataclass(frozen=True)
class _Work:
    """What is done with a block of a file, by any process."""

    file: str
    labels: tuple[str, ...]

    def __call__(self, block: Block) -> Part:
        numbers, samples, cells = [], [], []
        for number, row in block.rows():
            samples.append(self._sample(row, number))
            cells.append([self._number(row, label, number) for label in self.labels])
            numbers.append(number)
        found = np.array(cells, np.float64).reshape(len(cells), len(self.labels))
        sums = found.sum(axis=1)
        for place in np.flatnonzero(~(np.abs(sums - 1) <= TOLERANCE))[:1]:
            raise UserError(
                f"{self.file}: the probabilities of row {numbers[place]} sum to {sums[place]:.6g}, not "
                "to 1; give probabilities of all classes, not logits."
            )
        return np.array(numbers, np.int64), np.array(samples, np.int64), found / sums[:, None]

    def _cell(self, row: Row, name: str, number: int) -> float:
        if name not in row:
            raise UserError(f"{self.file}: has no column '{name}'{nearest(name, map(shown, row))}")
        try:
            return float(row[name])
        except (TypeError, ValueError):
            text = shown(row[name])
            raise UserError(f"{self.file}: '{name}' of row {number} is '{text}', no number.") from None

    def _number(self, row: Row, label: str, number: int) -> float:
        """A probability; the upper bound is checked with the sum."""
        value = self._cell(row, label, number)
        if not 0 <= value < np.inf:
            raise UserError(
                f"{self.file}: '{label}' of row {number} is {value:g}, which is no probability."
            )
        return value

    def _sample(self, row: Row, number: int) -> int:
        value = self._cell(row, ROW, number)
        if not value.is_integer() or value < 0:
            raise UserError(
                f"{self.file}: '{ROW}' of row {number} is {value:g}; it is the number of a sample, "
                "counted from 0."
            )
        return int(value)


def read(
    file: Path,
    name: str,
    split: Split,
    labels: Sequence[str],
    out: Found,
    processes: int = 1,
    said: Callable[[int], None] = lambda count: None,
) -> None:
    """Fill `out` [N, C] with the probabilities of the N samples of a split, by blocks of the file.

    name: of the split; labels: the C classes; said: is told how many rows are read. The file may lack
    rows of samples that the run does not use. Raises UserError, naming the row, for one that is no
    distribution, of a sample that the source lacks or that has a row already, and for a missing one.
    """
    given, places, count = np.zeros(split.set_size, bool), split.texts.places, 0
    work = _Work(str(file), tuple(labels))
    for numbers, samples, found in parallel.in_order(work, reading.blocks(file), processes):
        _check_samples(file, name, numbers, samples, given)
        given[samples] = True
        where = samples if places is None else np.searchsorted(places, samples)
        if places is not None:
            used = places[np.minimum(where, len(places) - 1)] == samples
            where, found = where[used], found[used]
        out[where] = found
        said(count := count + len(numbers))
    lacking = np.flatnonzero(~(given if places is None else given[places]))
    if len(lacking):
        first = int(lacking[0] if places is None else places[lacking[0]])
        raise UserError(
            f"{file}: has no row with '{ROW}' {first}, which is a sample of {name} that the run uses "
            f"({len(lacking):,} of {len(split):,} are missing)."
        )


def _check_samples(
    file: Path,
    name: str,
    numbers: NDArray[np.int64],
    samples: NDArray[np.int64],
    given: NDArray[np.bool_],
) -> None:
    """Raise UserError for the first row of a block whose sample is unknown or has a row already."""
    beyond = np.flatnonzero(samples >= len(given))
    if len(beyond):
        raise UserError(
            f"{file}: '{ROW}' of row {numbers[beyond[0]]} is {samples[beyond[0]]}, but {name} has "
            f"{len(given):,} samples, counted from 0."
        )
    again = given[samples]
    again[np.setdiff1d(np.arange(len(samples)), np.unique(samples, return_index=True)[1])] = True
    if again.any():
        place = int(again.argmax())
        raise UserError(
            f"{file}: row {numbers[place]} is the second with '{ROW}' {samples[place]}; keep one a "
            "sample."
        )
