"""Pairs that stand in two splits, or twice in train: found, listed, refused or dropped, and told.

Pairs are compared without regard to labels, case and blanks; for a symmetric task a pair whose texts
are exchanged is the same pair. An OOD pair that was trained on measures memory, so it is refused, or
with `task.drop_overlap` left out of train: then the OOD set stays whole and its accuracy can be
compared with published ones. A dev pair in train is only told, because published sets hold some.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compress import artefacts, ranks
from compress.data.checking import Checked
from compress.errors import UserError

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
    """The places of train that no OOD set holds, and what is to be told of the others.

    The whole files are compared, drawn from or not. The samples concerned are written to `FILE` in the
    output directory, if that is given, by the main rank.
    Raises UserError if there are any and they are not to be dropped, or if none would be left.
    """
    wanted = {key for side in ood.values() for key in side.keys}
    known: dict[bytes, int] = {}
    for place, key in enumerate(train.keys):
        if key in wanted:
            known.setdefault(key, place)
    shared = {
        name: [(place, known[key]) for place, key in enumerate(side.keys) if key in known]
        for name, side in ood.items()
    }
    shared = {name: places for name, places in shared.items() if places}
    every = list(range(len(train)))
    listed = _listed(output_dir, train, ood, shared)
    if not shared:
        return every, [f"{KEY}: no OOD set holds a pair of train, so none was dropped."] if drop else []
    if not drop:
        raise UserError(_refusal(train, ood, shared, listed))
    lost = {key for name in shared for key in ood[name].keys}
    kept = [place for place in every if train.keys[place] not in lost]
    if not kept:
        raise UserError(f"{train.rows.source}: {KEY} leaves no sample, the OOD sets hold all of them.")
    each = ", ".join(f"{name} {len(places):,}" for name, places in shared.items())
    where = f"; {listed.name} lists them" if listed else ""
    return kept, [
        f"{len(train) - len(kept):,} of {len(train):,} samples of train were dropped, because OOD sets "
        f"hold them too ({each}){where}."
    ]


def notes(train: Sequence[bytes], classes: Sequence[int], dev: Sequence[bytes]) -> list[str]:
    """What a reader must know of repeated pairs.

    train, dev: keys of the samples that the run uses, after drawing; classes: labels of train.
    """
    labels: dict[bytes, int] = {}
    contrary = {
        key for key, label in zip(train, classes, strict=True) if labels.setdefault(key, label) != label
    }
    told = []
    if both := sum(key in labels for key in dev):
        told.append(
            f"{both:,} of {len(dev):,} samples of dev are in train too: dev accuracy may be too high."
        )
    if again := len(train) - len(labels):
        told.append(f"{again:,} of {len(train):,} samples of train repeat the pair of another one.")
    if contrary:
        told.append(
            f"{len(contrary):,} pairs of train stand there with labels that contradict each other."
        )
    return told


def _refusal(
    train: Side,
    ood: Mapping[str, Side],
    shared: Mapping[str, list[tuple[int, int]]],
    listed: Path | None,
) -> str:
    """One sentence: how many of which sets, an example, the list, and the key that drops them."""
    counts = " and ".join(
        f"{len(places):,} of {len(ood[name]):,} samples of {ood[name].rows.source}"
        for name, places in shared.items()
    )
    name, ((place, twin), *_) = next(iter(shared.items()))
    rows = ood[name].rows
    pair = " / ".join(texts[place][:60] for texts in rows.texts)
    where = f"; {listed} lists them all" if listed else ""
    verb = "is" if sum(map(len, shared.values())) == 1 else "are"
    return (
        f"{counts} {verb} in {train.rows.source} too, such as row {rows.rows[place]} ('{pair}'), which "
        f"is row {train.rows.rows[twin]} of train{where}; an OOD set must share no sample with train: "
        f"remove them there, or set {KEY} to true to leave them out of train."
    )


def _listed(
    output_dir: Path | None,
    train: Side,
    ood: Mapping[str, Side],
    shared: Mapping[str, list[tuple[int, int]]],
) -> Path | None:
    """The list of shared samples, written whole by the main rank; one of an earlier run is removed."""
    if output_dir is None:
        return None
    file = output_dir / FILE
    ranks.on_main(lambda: _write(file, train, ood, shared))
    return file if shared else None


def _write(
    file: Path,
    train: Side,
    ood: Mapping[str, Side],
    shared: Mapping[str, list[tuple[int, int]]],
) -> None:
    """One line of JSON for each shared sample; without any there is no file."""
    lines = []
    for name, places in shared.items():
        rows = ood[name].rows
        for place, twin in places:
            line = {
                "set": name,
                "row": rows.rows[place],
                "train_row": train.rows.rows[twin],
                "label": rows.names[rows.labels[place]],
                "train_label": train.rows.names[train.rows.labels[twin]],
                "texts": [texts[place] for texts in rows.texts],
                "train_texts": [texts[twin] for texts in train.rows.texts],
            }
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    try:
        file.unlink(missing_ok=True)
        if lines:
            with artefacts.replacing(file) as temporary:
                temporary.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror or error}).") from None
