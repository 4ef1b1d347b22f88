"""The splits of a task: which rows of its sources are used, what they are called, where they lie.

`select` takes them from the rows of the sources, `save` and `load` keep what that gave. A split holds
no text: those are mapped from the files of the rows.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.configuration.task_schema import OodBlock, TaskBlock
from compress.data import draw, overlap, quoting
from compress.data.rows import Rows
from compress.data.tasks import Task, groups, ood_set
from compress.data.texts import Lists, Places, Texts, digests
from compress.errors import UserError

TABLE = "splits.json"


@dataclass(frozen=True)
class Split:
    """One split, N samples.

    texts: one or two a sample; labels: ids [N] into `names`; groups: for each class id of the model the
    id in `names` that it counts as; subsets: column -> values [N] by which the report splits;
    subgroups: column -> whether each sample belongs to it [N], by one column at a time; whole: size of
    the set that this is a part of, None if it is all of it; content: hash of texts, labels and names,
    in order; ids: hash of the ids of the whole set, empty where the data have none.
    """

    texts: Texts
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    groups: tuple[int, ...]
    subsets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    subgroups: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    whole: int | None = None
    content: str = ""
    ids: str = ""

    @staticmethod
    def of(
        texts: Lists,
        labels: NDArray[np.int64],
        names: tuple[str, ...],
        groups: tuple[int, ...],
        **more: Any,  # noqa: ANN401  further fields
    ) -> "Split":
        """Of one or two lists of texts [N], in memory."""
        content = _content(names, groups, digests(texts, np.asarray(labels).tolist()))
        return Split(Texts.of(*texts), labels, names, groups, **{"content": content, **more})

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.labels)

    @property
    def set_size(self) -> int:
        """Samples of the whole set."""
        return self.whole or len(self)

    def fingerprint(self) -> str:
        """SHA-256 of texts, labels and label names, in order."""
        return self.content


def _content(names: Sequence[str], groups: Sequence[int], parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256(repr((tuple(names), tuple(groups))).encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


@dataclass(frozen=True)
class TaskData:
    """The splits of a task: train, dev, and the OOD sets by name; class names of the model.

    notes: sentences on the data that a reader must know, such as how many dev samples are in train.
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


def class_names(task: Task, train: Rows) -> tuple[str, ...]:
    """Class names of the model: the task's, less optional ones of which train has no sample.

    Raises UserError for another one of which train has none.
    """
    present = {task.labels[number] for number in np.unique(train.column("label"))}
    for name in task.labels:
        if name not in present and name not in task.optional_labels:
            raise UserError(f"{train.name}: has no sample with the label '{name}'.")
    return tuple(name for name in task.labels if name in present)


def entry_of(task: Task, split: str) -> OodBlock:
    """What the task says of the columns and labels of a split, by the name of its source."""
    if split.startswith("ood_"):
        return ood_set(task, split.removeprefix("ood_"))
    return OodBlock(subsets=[] if task.defined and split == "train" else task.subsets)


def select(task: Task, block: TaskBlock, rows: Mapping[str, Rows], listing: Path) -> TaskData:
    """The splits that a run uses, of all rows of the sources, by their names.

    listing: where samples that an OOD set shares with train are listed.
    Raises UserError for a split of one class, an OOD set that holds a sample of train, fewer samples
    than asked for.
    """
    train, labels = rows["train"], class_names(task, rows["train"])
    _check_subgroups(task, rows["dev"])
    _check_enough(block.train_samples, len(train))
    ood = {n.removeprefix("ood_"): found for n, found in rows.items() if n.startswith("ood_")}
    shared = overlap.find(train, ood)
    overlap.write(listing, shared.records)
    notes = overlap.check(train, ood, shared, block.drop_overlap, listing)
    places = {name: _drawn(len(found), block.eval_samples) for name, found in rows.items()}
    places["train"] = _kept(labels, train, shared.drop, block.train_samples)
    splits = {name: _split(task, labels, name, rows[name], places[name]) for name in rows}
    for name in ("train", "dev"):
        if len(np.unique(splits[name].labels)) < 2:
            raise UserError(f"{name}: all {len(splits[name])} samples have the same label.")
    keys = [_of(rows[name].column("key"), places[name]) for name in ("train", "dev")]
    notes += overlap.notes(keys[0], splits["train"].labels, keys[1]) + quoting.notes(rows.values())
    return _data(task, labels, splits, notes)


def _data(
    task: Task, labels: Iterable[str], splits: Mapping[str, Split], notes: Iterable[str]
) -> TaskData:
    ood = {n.removeprefix("ood_"): split for n, split in splits.items() if n.startswith("ood_")}
    return TaskData(task, tuple(labels), splits["train"], splits["dev"], ood, tuple(notes))


def _kept(labels: Sequence[str], train: Rows, drop: Places, limit: int | None) -> Places | None:
    """Places of the rows of train that are used, after dropping and drawing; None: all."""
    if not len(drop):
        return _drawn(len(train), limit)
    after = f" after {overlap.KEY}"
    kept = np.delete(np.arange(len(train)), drop)
    _check_enough(limit, len(kept), after)
    counts = np.bincount(train.column("label")[kept], minlength=len(labels))
    for label, count in zip(labels, counts, strict=True):
        if not count:
            raise UserError(f"{train.name}: has no sample with the label '{label}'{after}.")
    drawn = _drawn(len(kept), limit)
    return kept if drawn is None else kept[drawn]


def _check_subgroups(task: Task, dev: Rows) -> None:
    """Raise UserError for a column of subgroups that dev lacks, or to which no row belongs."""
    found = dev.subgroups(None)
    for name in task.subgroups:
        if name not in found:
            raise UserError(f"{dev.name}: has no column '{name}' of robust_compression.task.subgroups.")
        if not found[name].any():
            raise UserError(
                f"{dev.name}: no row has 0.5 or more in '{name}', so it is no subset; take it out of "
                "robust_compression.task.subgroups."
            )


def _check_enough(limit: int | None, samples: int, after: str = "") -> None:
    """Raise UserError if train_samples is more than train has."""
    if limit is not None and limit > samples:
        raise UserError(
            f"robust_compression.task.train_samples is {limit}, but train has {samples} samples{after}."
        )


def _of(values: NDArray[Any], places: Places | None) -> NDArray[Any]:
    return values if places is None else values[places]


def _split(task: Task, labels: tuple[str, ...], name: str, rows: Rows, places: Places | None) -> Split:
    entry = entry_of(task, name)
    names, counts_as = tuple(entry.labels or labels), groups(entry, labels)
    return Split(
        texts=Texts(rows.table, places),
        labels=_of(rows.column("label"), places).astype(np.int64),
        names=names,
        groups=counts_as,
        subsets=rows.subsets(places),
        subgroups=rows.subgroups(places),
        whole=len(rows),
        content=_content(names, counts_as, rows.digests(places)),
        ids=rows.ids(),
    )


def _drawn(size: int, limit: int | None) -> Places | None:
    """At most `limit` of `size` places, as `draw.evenly` chooses them; None: all."""
    return None if limit is None or limit >= size else draw.evenly(size, limit)


def save(data: TaskData, folder: Path) -> None:
    """Write what `load` reads, beside the rows."""
    about: dict[str, Any] = {"labels": data.labels, "notes": data.notes, "splits": {}}
    for name, split in data.splits().items():
        about["splits"][name] = {
            "names": split.names,
            "groups": split.groups,
            "whole": split.whole,
            "content": split.content,
            "ids": split.ids,
        }
        np.save(folder / f"{name}.labels.npy", split.labels)
        if split.texts.places is not None:
            np.save(folder / f"{name}.places.npy", split.texts.places)
    (folder / TABLE).write_text(json.dumps(about), encoding="utf-8")


def load(task: Task, folder: Path, rows: Mapping[str, Rows]) -> TaskData:
    """What `save` has written; labels and places are mapped. rows: of the sources, as for `select`."""
    about = json.loads((folder / TABLE).read_text(encoding="utf-8"))
    splits = {}
    for name, known in about["splits"].items():
        file = folder / f"{name}.places.npy"
        places = np.load(file, mmap_mode="r") if file.is_file() else None
        splits[name] = Split(
            texts=Texts(rows[name].table, places),
            labels=np.asarray(np.load(folder / f"{name}.labels.npy", mmap_mode="r")),
            subsets=rows[name].subsets(places),
            subgroups=rows[name].subgroups(places),
            names=tuple(known["names"]),
            groups=tuple(known["groups"]),
            whole=known["whole"],
            content=known["content"],
            ids=known.get("ids", ""),
        )
    return _data(task, about["labels"], splits, about["notes"])
