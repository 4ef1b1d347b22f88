"""Sentence pairs of a task: read, checked, tokenised once, memory-mapped.

`read` gives the raw splits (from `sources`) with their content fingerprint; `encode` tokenises them
once into an Arrow folder of the cache, which every rank maps into memory. Truncation cuts the longer
text first, so both keep tokens; a task may say which text is cut last.
"""

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from compress.configuration.robust_schema import RobustCompression
from compress.data import reading, sources, tokens
from compress.data.reading import Row
from compress.data.tasks import OodSet, Task, columns, groups, label_ids, of, ood_set, spelling
from compress.errors import UserError, nearest


@dataclass(frozen=True)
class Split:
    """One split of raw pairs; N samples.

    texts: two lists [N]; labels: ids [N] into `names`; groups: for each class id of the model the id
    in `names` that it counts as; subsets: column -> values [N] by which the report splits; whole:
    samples of the set that this is a part of, None if it is all of it.
    """

    texts: tuple[list[str], list[str]]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    groups: tuple[int, ...]
    subsets: Mapping[str, list[str]] = field(default_factory=dict)
    whole: int | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.labels)

    @property
    def set_size(self) -> int:
        """Samples of the whole set."""
        return self.whole or len(self)

    def part(self, rows: Sequence[int]) -> "Split":
        """These samples only, in this order; `whole` stays the size of the set."""
        first, second = ([texts[row] for row in rows] for texts in self.texts)
        subsets = {name: [values[row] for row in rows] for name, values in self.subsets.items()}
        labels = self.labels[list(rows)]
        return replace(self, texts=(first, second), labels=labels, subsets=subsets, whole=self.set_size)

    def fingerprint(self) -> str:
        """SHA-256 of texts, labels and label names, in order."""
        return self._digest

    def pair_keys(self) -> list[bytes]:
        """A hash of each pair of texts [N], without regard to case and blanks."""
        return [
            hashlib.sha256(repr([" ".join(t.casefold().split()) for t in pair]).encode()).digest()
            for pair in zip(*self.texts, strict=True)
        ]

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(repr((self.names, self.groups)).encode())
        for first, second, label in zip(*self.texts, self.labels, strict=True):
            digest.update(json.dumps([first, second, int(label)]).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class TaskData:
    """The splits of a task: train, dev, and the OOD sets by name; class names of the model."""

    task: Task
    labels: tuple[str, ...]
    train: Split
    dev: Split
    ood: Mapping[str, Split]

    def splits(self) -> dict[str, Split]:
        """All splits by the name under which they are stored."""
        return {
            "train": self.train,
            "dev": self.dev,
            **{f"ood_{n}": s for n, s in self.ood.items()},
        }

    def fingerprint(self, *names: str) -> str:
        """Content hash of the named splits (all without names)."""
        chosen = names or tuple(self.splits())
        parts = [self.splits()[name].fingerprint() for name in chosen]
        return hashlib.sha256(repr((self.labels, parts)).encode()).hexdigest()


def read(config: RobustCompression) -> TaskData:
    """Read and check all splits that the configuration names.

    Raises UserError for a missing file or column, an unknown label, an empty or one-class split, an OOD
    set that holds a pair of train.
    """
    block, task = config.task, of(config.task)
    own = OodSet(subsets=task.subsets)
    train_rows = _check(task, task.labels, sources.find(block, task, "train"), own)
    labels = _labels(task, train_rows)
    limit = block.train_samples
    if limit is not None and limit > len(train_rows.labels):
        raise UserError(
            f"robust_compression.task.train_samples is {limit}, "
            f"but train has {len(train_rows.labels)} samples."
        )
    every = _split(task, labels, train_rows, own)
    known = {key: number for number, key in enumerate(every.pair_keys(), start=1)}
    train = every.part(_drawn(len(every), limit))
    dev_rows = _check(task, labels, sources.find(block, task, "dev"), own)
    dev = _split(task, labels, dev_rows, own)
    dev = dev.part(_drawn(len(dev), block.eval_samples))
    for name, split in (("train", train), ("dev", dev)):
        if len(np.unique(split.labels)) < 2:
            raise UserError(f"{name}: all {len(split)} samples have the same label.")
    ood = {}
    for name in sources.ood_names(config, task):
        entry = ood_set(task, name)
        rows = _check(task, entry.labels or labels, sources.find(block, task, f"ood_{name}"), entry)
        whole = _split(task, labels, rows, entry)
        _check_apart(known, whole, train_rows.source, rows)
        ood[name] = whole.part(_drawn(len(whole), block.eval_samples))
    return TaskData(task, labels, train, dev, ood)


@dataclass(frozen=True)
class _Checked:
    source: str
    texts: tuple[list[str], list[str]]
    labels: list[int]
    names: tuple[str, ...]
    columns: dict[str, list[str]]


def _column(row: Row, names: tuple[str, ...], source: str) -> str:
    """The first of the names under which the first row holds a column."""
    for name in names:
        if name in row:
            return name
    raise UserError(f"{source}: has no column '{names[0]}'{nearest(names[0], row)}")


def _subsets(task: Task, row: Row, names: tuple[str, ...], source: str) -> dict[str, list[str]]:
    """Empty columns for the subsets; a set of our own may lack them, one in JSON must have them."""
    for name in names:
        if task.defined and name not in row:
            raise UserError(f"{source}: has no column '{name}' of the 'subsets'{nearest(name, row)}")
    return {name: [] for name in names if name in row}


def _check(task: Task, names: tuple[str, ...], source: sources.Source, entry: OodSet) -> _Checked:
    """Take columns and label ids out of the rows; the sentence names source and row."""
    ids = label_ids(task, names, entry.spellings)
    texts: tuple[list[str], list[str]] = ([], [])
    labels: list[int] = []
    subsets: dict[str, list[str]] = {}
    keys: tuple[str, str, str] | None = None
    for number, row in source.rows:
        if keys is None:
            first, second, label = (
                _column(row, possible, source.name) for possible in columns(task, entry)
            )
            keys = (first, second, label)
            subsets = _subsets(task, row, entry.subsets, source.name)
        for key in (*keys, *subsets):
            if row.get(key) is None:
                raise UserError(f"{source.name}: row {number} has no '{key}'.")
        for cells, key in zip(texts, keys[:2], strict=True):
            if not isinstance(row[key], str):
                raise UserError(f"{source.name}: row {number}, '{key}' is not a text.")
            if any("\ud800" <= c <= "\udfff" for c in row[key]):
                raise UserError(f"{source.name}: row {number}, '{key}' is not valid Unicode.")
            cells.append(_unquoted(row[key]) if entry.byte_strings else row[key])
        reading.check_pair(texts[0][-1], texts[1][-1], f"{source.name}: row {number}")
        word = spelling(row[keys[2]])
        if word not in ids:
            raise UserError(
                f"{source.name}: row {number} has the unknown label '{row[keys[2]]}'; "
                f"known are {', '.join(names)} and 0 to {len(names) - 1}."
            )
        labels.append(ids[word])
        for name, values in subsets.items():
            values.append(str(row[name]))
    if not labels:
        raise UserError(f"{source.name}: holds no sample.")
    return _Checked(source.name, texts, labels, names, subsets)


def _unquoted(cell: str) -> str:
    """A cell that holds the literal of a byte string, as in the published PAWS-QQP, as plain text."""
    with suppress(ValueError, SyntaxError):
        value = ast.literal_eval(cell) if cell.startswith(("b'", 'b"')) else cell
        return value.decode() if isinstance(value, bytes) else cell
    return cell


def _check_apart(known: Mapping[bytes, int], ood: Split, train_source: str, rows: _Checked) -> None:
    """Raise UserError if an OOD set holds a pair of train, whatever the labels, case and blanks.

    known: key of each pair of train's file, drawn or not -> its place, from 1.
    """
    for number, key in enumerate(ood.pair_keys(), start=1):
        if key in known:
            pair = " / ".join(texts[number - 1][:60] for texts in rows.texts)
            raise UserError(
                f"{rows.source}: sample {number} ('{pair}') is sample {known[key]} of "
                f"{train_source} too; an OOD set must share no sample with train."
            )


def _labels(task: Task, train: _Checked) -> tuple[str, ...]:
    """Class names of the model: the task's, less optional ones of which train has no sample."""
    present = set(train.labels)
    kept = []
    for number, name in enumerate(task.labels):
        if number in present:
            kept.append(name)
        elif name not in task.optional_labels:
            raise UserError(f"{train.source}: has no sample with the label '{name}'.")
    return tuple(kept)


def _split(task: Task, labels: tuple[str, ...], rows: _Checked, entry: OodSet) -> Split:
    return Split(
        texts=rows.texts,
        labels=np.array(rows.labels, dtype=np.int64),
        names=entry.labels or labels,
        groups=groups(task, entry, labels),
        subsets=rows.columns,
    )


def _drawn(size: int, limit: int | None) -> Sequence[int]:
    """At most `limit` of `size` places: a random one of each of as many equal stretches.

    Files are sorted by source, subset or label, or alternate between labels; no share may change.
    """
    if limit is None or limit >= size:
        return range(size)
    ends = np.arange(limit + 1) * size // limit
    places: list[int] = np.random.default_rng(0).integers(ends[:-1], ends[1:]).tolist()
    return places


def encode(
    split: Split,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    folder: Path,
    keep: int | None = None,
) -> None:
    """Tokenise a split into the Arrow folder: input_ids, token_type_ids where used, length, label.

    keep: the text that is cut last (0 or 1); without it the longer one is cut first.
    """

    def tokenise(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        out = tokens.of_pairs(tokenizer, batch["first"], batch["second"], max_length, keep)
        return {**out, "length": [len(ids) for ids in out["input_ids"]]}

    table = datasets.Dataset.from_dict(
        {"first": split.texts[0], "second": split.texts[1], "label": split.labels}
    )
    encoded = table.map(
        tokenise, batched=True, remove_columns=["first", "second"], load_from_cache_file=False
    )
    encoded.save_to_disk(folder)
