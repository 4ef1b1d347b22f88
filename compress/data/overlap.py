"""Pairs that are in two splits, or twice in train: found, listed, refused or dropped.

Pairs are compared without labels, case and blanks; for a symmetric task in either order of the texts.
An OOD pair that was trained on measures memory, so it is refused, or with `task.drop_overlap` left out
of train; the OOD set stays whole, comparable with published accuracies. A dev pair is only noted.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.data.checking import Checked
from compress.errors import UserError
from compress.files import artefacts
from compress.runtime import ranks

FILE = "overlap.jsonl"
"""In the output directory: one line for each OOD sample that train holds too."""
KEY = "robust_compression.task.drop_overlap"


@dataclass(frozen=True)
class Side:
    """The rows of a split, and the key of each pair [N] (`Split.pair_keys`)."""

    rows: Checked
    keys: Sequence[bytes]

    def __len__(self) -> int:
        """Number of samples N."""
        return len(self.keys)


def apart(
    train: Side, ood: Mapping[str, Side], drop: bool, output_dir: Path | None
) -> tuple[list[int], list[str]]:
    """The places of train whose pairs no OOD set holds, and notes on the others.

    The whole files are compared, before any drawing. The OOD samples concerned are written to `FILE` in
    the output directory, if that is given, by the main rank.
    Raises UserError if there are any and they are not to be dropped, or if none would be left.
    """
    wanted = {key for side in ood.values() for key in side.keys}
    first: dict[bytes, int] = {}
    for place, key in enumerate(train.keys):
        if key in wanted:
            first.setdefault(key, place)
    shared = [
        _record(name, side.rows, place, train.rows, first[key])
        for name, side in ood.items()
        for place, key in enumerate(side.keys)
        if key in first
    ]
    if output_dir is not None:
        ranks.on_main(lambda: _write(output_dir / FILE, shared))
    kept = [place for place, key in enumerate(train.keys) if key not in first]
    if not shared:
        return kept, [f"{KEY}: no OOD set holds a pair of train, so none was dropped."] if drop else []
    counts = Counter(record["set"] for record in shared)
    if not drop:
        sizes = {name: f"{len(ood[name]):,} samples of {ood[name].rows.source}" for name in counts}
        which = " and ".join(f"{count:,} of {sizes[name]}" for name, count in counts.items())
        where = f"; {output_dir / FILE} lists them all" if output_dir else ""
        raise UserError(_refusal(which, shared, train.rows.source, where))
    if not kept:
        raise UserError(f"{train.rows.source}: {KEY} leaves no sample, the OOD sets hold all of them.")
    each = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    where = f"; {FILE} lists them" if output_dir else ""
    return kept, [
        f"{len(train) - len(kept):,} of {len(train):,} samples of train were dropped, because OOD sets "
        f"hold them too ({each}){where}."
    ]


def notes(train: Sequence[bytes], classes: Sequence[int], dev: Sequence[bytes]) -> list[str]:
    """Sentences on repeated pairs.

    train, dev: keys of the samples that the run uses, after drawing; classes: labels of train.
    """
    labels: dict[bytes, int] = {}
    contrary = {
        key for key, label in zip(train, classes, strict=True) if labels.setdefault(key, label) != label
    }
    found = []
    if shared := sum(key in labels for key in dev):
        found.append(
            f"{shared:,} of {len(dev):,} samples of dev are in train too: dev accuracy may be too high."
        )
    if again := len(train) - len(labels):
        found.append(f"{again:,} of {len(train):,} samples of train repeat the pair of another one.")
    if contrary:
        found.append(f"{len(contrary):,} pairs of train have labels that contradict each other.")
    return found


def _record(name: str, rows: Checked, place: int, train: Checked, twin: int) -> dict[str, Any]:
    """A line of `FILE`: a sample of the OOD set `name`, and the first one of train with its pair."""
    return {
        "set": name,
        "row": rows.rows[place],
        "train_row": train.rows[twin],
        "label": rows.names[rows.labels[place]],
        "train_label": train.names[train.labels[twin]],
        "texts": [texts[place] for texts in rows.texts],
        "train_texts": [texts[twin] for texts in train.texts],
    }


def _refusal(which: str, shared: Sequence[Mapping[str, Any]], train: str, where: str) -> str:
    """One sentence: how many of which sets, an example, the list, and the key that drops them."""
    example, verb = shared[0], "is" if len(shared) == 1 else "are"
    pair = " / ".join(text[:60] for text in example["texts"])
    return (
        f"{which} {verb} in {train} too, such as row {example['row']} ('{pair}'), which is row "
        f"{example['train_row']} of train{where}; an OOD set must share no sample with train: remove "
        f"them there, or set {KEY} to true to leave them out of train."
    )


def _write(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """One line of JSON for each record, written whole; without records there is no file."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    try:
        file.unlink(missing_ok=True)
        if lines:
            with artefacts.replacing(file) as temporary:
                temporary.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror or error}).") from None
