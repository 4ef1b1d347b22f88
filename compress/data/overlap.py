"""Samples that are in two splits, or twice in train: found, listed, refused or dropped.

Their texts are compared without labels, case and blanks; for a symmetric task in either order.
An OOD sample that was trained on measures memory, so it is refused, or with `task.drop_overlap` left
out of train; the OOD set stays whole, comparable with published accuracies. One of dev is only noted.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from compress.data.rows import Rows
from compress.data.texts import Places, taken
from compress.errors import UserError
from compress.files import artefacts

Keys = NDArray[np.uint64]

FILE = "overlap.jsonl"
"""In the output directory: one line for each OOD sample that train holds too."""
KEY = "robust_compression.task.drop_overlap"


@dataclass(frozen=True)
class Shared:
    """Which rows of train an OOD set holds too.

    drop: their places [n], in order; records: for each OOD sample concerned a line of `FILE`; counts:
    how many samples of each set.
    """

    drop: Places
    records: list[dict[str, Any]]
    counts: dict[str, int]


def find(train: Rows, ood: Mapping[str, Rows]) -> Shared:
    """Compare the whole files, before any drawing: train is passed by the keys of the OOD sets."""
    wanted = {name: rows.column("key") for name, rows in ood.items()}
    every = pa.array(np.unique(np.concatenate([*wanted.values(), np.empty(0, np.uint64)])))
    column, drop, start = train.table.column("key"), [np.empty(0, np.int64)], 0
    for chunk in column.chunks:
        drop.append(start + np.flatnonzero(pc.is_in(chunk, every)))
        start += len(chunk)
    places = np.concatenate(drop)
    first: dict[int, int] = {}
    for place, key in zip(places.tolist(), taken(column, places), strict=True):
        first.setdefault(key, place)
    found = {
        name: [(place, key) for place, key in enumerate(keys.tolist()) if key in first]
        for name, keys in wanted.items()
    }
    records = [
        _record(name, ood[name], place, train, first[key])
        for name, samples in found.items()
        for place, key in samples
    ]
    return Shared(places, records, {name: len(samples) for name, samples in found.items() if samples})


def check(train: Rows, ood: Mapping[str, Rows], shared: Shared, drop: bool, file: Path) -> list[str]:
    """Notes on what is dropped; file: where the list is.

    Raises UserError if samples are shared and are not to be dropped, or if none would be left.
    """
    if not shared.records:
        return [f"{KEY}: no OOD set holds a sample of train, so none was dropped."] if drop else []
    if not drop:
        sizes = {name: f"{len(ood[name]):,} samples of {ood[name].name}" for name in shared.counts}
        which = " and ".join(f"{count:,} of {sizes[name]}" for name, count in shared.counts.items())
        raise UserError(_refusal(which, shared.records, train.name, f"; {file} lists them all"))
    if len(shared.drop) == len(train):
        raise UserError(f"{train.name}: {KEY} leaves no sample, the OOD sets hold all of them.")
    each = ", ".join(f"{name} {count:,}" for name, count in shared.counts.items())
    return [
        f"{len(shared.drop):,} of {len(train):,} samples of train were dropped, because OOD sets "
        f"hold them too ({each}); {FILE} lists them."
    ]


def notes(train: Keys, classes: Sequence[int] | NDArray[np.int64], dev: Keys) -> list[str]:
    """Sentences on repeated samples.

    train, dev: keys of the samples that the run uses, after drawing; classes: labels of train.
    """
    order = np.argsort(train, kind="stable")
    keys, labels = train[order], np.asarray(classes)[order]
    same = keys[1:] == keys[:-1]
    contrary = len(np.unique(keys[1:][same & (labels[1:] != labels[:-1])]))
    places = np.minimum(np.searchsorted(keys, dev), len(keys) - 1)
    found = []
    if shared := int((keys[places] == dev).sum()):
        found.append(
            f"{shared:,} of {len(dev):,} samples of dev are in train too: dev accuracy may be too high."
        )
    if again := int(same.sum()):
        found.append(f"{again:,} of {len(train):,} samples of train repeat the text of another one.")
    if contrary:
        found.append(f"{contrary:,} repeated texts of train have labels that contradict each other.")
    return found


def _record(name: str, rows: Rows, place: int, train: Rows, twin: int) -> dict[str, Any]:
    """A line of `FILE`: a sample of the OOD set `name`, and the first one of train with its texts."""
    number, label = (int(rows.table.column(c)[place].as_py()) for c in ("number", "label"))
    train_row, train_label = (int(train.table.column(c)[twin].as_py()) for c in ("number", "label"))
    return {
        "set": name,
        "row": number,
        "train_row": train_row,
        "label": rows.names[label],
        "train_label": train.names[train_label],
        "texts": rows.texts(place),
        "train_texts": train.texts(twin),
    }


def _refusal(which: str, shared: Sequence[Mapping[str, Any]], train: str, where: str) -> str:
    """One sentence: how many of which sets, an example, the list, and the key that drops them."""
    example, verb = shared[0], "is" if len(shared) == 1 else "are"
    texts = " / ".join(text[:60] for text in example["texts"])
    return (
        f"{which} {verb} in {train} too, such as row {example['row']} ('{texts}'), which is row "
        f"{example['train_row']} of train{where}; an OOD set must share no sample with train: remove "
        f"them there, or set {KEY} to true to leave them out of train."
    )


def write(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """One line of JSON for each record, written whole; without records there is no file."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    try:
        file.unlink(missing_ok=True)
        if lines:
            with artefacts.replacing(file) as temporary:
                temporary.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror or error}).") from None


def put(found: Path, file: Path) -> None:
    """Copy a list that `write` has written; without it the old one goes."""
    if not found.is_file():
        file.unlink(missing_ok=True)
        return
    with artefacts.replacing(file) as temporary:
        shutil.copyfile(found, temporary)
