"""Whether two runs of the same configuration gave the same: files, figures, events."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

OF_TIME = {"seconds", "artefacts", "latency", "reused", "stamp"}
"""Keys of metrics.json that tell of time, of files' dates and of how the artefacts were made."""


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two directories, each with `run/` and `shared/`; empty: all is equal."""
    return [
        *_files(one, other, "model.safetensors", _weights),
        *_files(one, other, "*.parquet", pq.read_table),
        *_files(one, other, "probabilities.npy", np.load),
        *_files(one, other, "scores/*.npy", np.load),
        *_compared("metrics.json", _metrics(one), _metrics(other)),
        *_compared("events", _events(one), _events(other)),
        *(f"{path} is left" for path in sorted(other.rglob("*.unfinished"))),
        *(f"{path} is left" for path in sorted(other.rglob(".*.tmp"))),
    ]


def _files(one: Path, other: Path, pattern: str, read: Any) -> Iterator[str]:
    found = [{f.relative_to(top) for f in top.rglob(pattern)} for top in (one, other)]
    yield from (f"{name} is in one alone" for name in sorted(found[0] ^ found[1]))
    for name in sorted(found[0] & found[1]):
        values = [read(top / name) for top in (one, other)]
        same = np.array_equal(*values) if isinstance(values[0], np.ndarray) else values[0] == values[1]
        if not same:
            yield f"{name} differs"


def _weights(file: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in load_file(file).items()}


def _metrics(top: Path) -> dict[str, Any]:
    return _timeless(json.loads((top / "run/metrics.json").read_text()))


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(v) for key, v in value.items() if key not in OF_TIME}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def _events(top: Path) -> dict[str, Any]:
    """Steps and values of each curve; of measured times the steps alone."""
    curves: dict[str, Any] = {}
    for folder in sorted({file.parent for file in (top / "run").rglob("events.out*")}):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            timed = "second" in tag or "latency" in tag
            curves[tag] = [(e.step, None if timed else e.value) for e in events.Scalars(tag)]
    for file in sorted((top / "run").rglob("*.csv")):
        rows = [line.split(",") for line in file.read_text().splitlines()]
        curves[file.name] = [row[:1] if "second" in file.name else row for row in rows]
    return curves


def _compared(name: str, one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for key in sorted(one.keys() | other.keys()):
        if one.get(key) != other.get(key):
            yield f"{name}: {key}: {str(one.get(key))[:200]} / {str(other.get(key))[:200]}"
