"""Sentence pairs of a task: read, checked, tokenised once, memory-mapped.

`read` gives the raw splits (from `sources`) with their content fingerprint; `encode` tokenises them
once into flat files of the cache, which every rank maps into memory.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from compress.configuration.robust_schema import RobustCompression
from compress.configuration.task_schema import OodBlock
from compress.data import columns, overlap, sources, tokens
from compress.data.checking import Checked, check
from compress.data.tasks import Task, groups, of, ood_set
from compress.errors import UserError

AT_ONCE = 1000
"""Pairs that are tokenised at once."""
UNSEEN = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
"""Characters without width, which two copies of a text may differ in."""


@dataclass(frozen=True)
class Split:
    """One split of raw pairs; N samples.

    texts: two lists [N]; labels: ids [N] into `names`; groups: for each class id of the model the id
    in `names` that it counts as; subsets: column -> values [N] by which the report splits; whole: size
    of the set that this is a part of, None if it is all of it.
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

    def pair_keys(self, symmetric: bool) -> list[bytes]:
        """A hash of each pair of texts [N], without regard to case, blanks, and form of Unicode.

        symmetric: nor to the order of the texts.
        """
        pairs = ([_comparable(text) for text in pair] for pair in zip(*self.texts, strict=True))
        if symmetric:
            pairs = (sorted(pair) for pair in pairs)
        return [hashlib.sha256(repr(pair).encode()).digest() for pair in pairs]

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(repr((self.names, self.groups)).encode())
        for first, second, label in zip(*self.texts, self.labels, strict=True):
            digest.update(json.dumps([first, second, int(label)]).encode())
        return digest.hexdigest()


def _comparable(text: str) -> str:
    """A text without case, repeated blanks and characters without width, in one form of Unicode."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(UNSEEN)
    return " ".join(text.casefold().split())


@dataclass(frozen=True)
class TaskData:
    """The splits of a task: train, dev, and the OOD sets by name; class names of the model.

    notes: sentences on the data that a reader must know, such as how many dev pairs are in train.
    """

    task: Task
    labels: tuple[str, ...]
    train: Split
    dev: Split
    ood: Mapping[str, Split]
    notes: tuple[str, ...] = ()

    def splits(self) -> dict[str, Split]:
        """All splits by the name under which they are stored."""
        ood = {f"ood_{name}": split for name, split in self.ood.items()}
        return {"train": self.train, "dev": self.dev, **ood}

    def fingerprint(self, *names: str) -> str:
        """Content hash of the named splits (all without names)."""
        splits = self.splits()
        parts = [splits[name].fingerprint() for name in names or splits]
        return hashlib.sha256(repr((self.labels, parts)).encode()).hexdigest()


def read(config: RobustCompression, output_dir: Path | None = None) -> TaskData:
    """Read and check all splits that the configuration names.

    output_dir: where samples that an OOD set shares with train are listed.
    Raises UserError for a missing file (before the first one is read) or column, an unknown label, an
    empty or one-class split, an OOD set that holds a pair of train.
    """
    block, task = config.task, of(config.task)
    places = sources.every(config, task)
    own = OodBlock(subsets=task.subsets)
    train_rows = check(task, task.labels, places.pop("train"), own)
    labels = _labels(task, train_rows)
    _check_enough(block.train_samples, len(train_rows.labels))
    train = _split(labels, train_rows, own)
    dev = _split(labels, check(task, labels, places.pop("dev"), own), own)
    ood, sides = {}, {}
    for split, place in places.items():
        name = split.removeprefix("ood_")
        entry = ood_set(task, name)
        rows = check(task, entry.labels or labels, place, entry)
        ood[name] = _split(labels, rows, entry)
        sides[name] = overlap.Side(rows, ood[name].pair_keys(task.symmetric))
    keys = train.pair_keys(task.symmetric)
    whole = overlap.Side(train_rows, keys)
    kept, notes = overlap.apart(whole, sides, block.drop_overlap, output_dir)
    after = f" after {overlap.KEY}"
    _check_enough(block.train_samples, len(kept), after)
    counts = np.bincount(train.labels[kept], minlength=len(labels))
    for label, count in zip(labels, counts, strict=True):
        if not count:
            raise UserError(f"{train_rows.source}: has no sample with the label '{label}'{after}.")
    used = [kept[place] for place in _drawn(len(kept), block.train_samples)]
    train, dev = train.part(used), dev.part(_drawn(len(dev), block.eval_samples))
    for name, split_used in (("train", train), ("dev", dev)):
        if len(np.unique(split_used.labels)) < 2:
            raise UserError(f"{name}: all {len(split_used)} samples have the same label.")
    classes = train.labels.tolist()
    notes += overlap.notes([keys[i] for i in used], classes, dev.pair_keys(task.symmetric))
    ood = {name: rows.part(_drawn(len(rows), block.eval_samples)) for name, rows in ood.items()}
    return TaskData(task, labels, train, dev, ood, tuple(notes))


def _check_enough(limit: int | None, samples: int, after: str = "") -> None:
    """Raise UserError if train_samples is more than train has."""
    if limit is not None and limit > samples:
        raise UserError(
            f"robust_compression.task.train_samples is {limit}, but train has {samples} samples{after}."
        )


def _labels(task: Task, train: Checked) -> tuple[str, ...]:
    """Class names of the model: the task's, less optional ones of which train has no sample."""
    present = {task.labels[number] for number in set(train.labels)}
    for name in task.labels:
        if name not in present and name not in task.optional_labels:
            raise UserError(f"{train.source}: has no sample with the label '{name}'.")
    return tuple(name for name in task.labels if name in present)


def _split(labels: tuple[str, ...], rows: Checked, entry: OodBlock) -> Split:
    return Split(
        texts=rows.texts,
        labels=np.array(rows.labels, dtype=np.int64),
        names=tuple(entry.labels or labels),
        groups=groups(entry, labels),
        subsets=rows.columns,
    )


def _drawn(size: int, limit: int | None) -> Sequence[int]:
    """At most `limit` of `size` places: a random one of each of `limit` equal intervals.

    So no share changes, though files are sorted by source, subset or label, or alternate in labels.
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
    """Tokenise a split into a folder that `Columns.open` maps.

    keep: the text that is cut last (0 or 1); without it the longer one is cut first.
    """

    def parts() -> Iterator[columns.Part]:
        for start in range(0, len(split), AT_ONCE):
            place = slice(start, start + AT_ONCE)
            first, second = (list(texts[place]) for texts in split.texts)
            yield tokens.of_pairs(tokenizer, first, second, max_length, keep), split.labels[place]

    columns.write(folder, parts(), max(tokenizer.get_vocab().values()))
