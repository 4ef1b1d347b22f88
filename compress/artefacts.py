"""Artefacts of finished stages: written whole or not at all, reused only for the same inputs.

An artefact is a directory. It is written under a temporary name, marked with `complete.json` (the
inputs it was made from) and renamed: a directory that lacks the marker, or whose inputs differ, is
never taken for complete.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MARKER = "complete.json"


def key(inputs: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of the inputs."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def completed(path: Path, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The marker of an artefact made from exactly these inputs, else None."""
    try:
        marker = json.loads((path / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    complete = isinstance(marker, dict) and marker.get("key") == key(inputs)
    return marker if complete else None


@contextmanager
def writing(path: Path, inputs: Mapping[str, Any], began: float) -> Iterator[Path]:
    """Context: yields a temporary directory that becomes `path`, marked complete, on success.

    began: `time.perf_counter()` at the start of the stage; the marker keeps the seconds since. On an
    exception nothing remains. An older artefact at `path` is replaced, unless another process finished
    the same one meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        marker = {"key": key(inputs), "inputs": inputs, "seconds": time.perf_counter() - began}
        write_json(temporary / MARKER, marker)
        _move(temporary, path, inputs)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(temporary: Path, path: Path, inputs: Mapping[str, Any]) -> None:
    """Rename into place, unless another process did so with the same inputs meanwhile."""
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        temporary.rename(path)
    except OSError:
        if completed(path, inputs) is not None:
            return
        path.rename(old)
        temporary.rename(path)
    finally:
        shutil.rmtree(old, ignore_errors=True)


def place(cache_dir: Path, kind: str, inputs: Mapping[str, Any]) -> Path:
    """Where the cache keeps an artefact of a kind that was made from these inputs."""
    return cache_dir / kind / key(inputs)[:16]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of ours; ValueError or OSError if there is none."""
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError("it holds no JSON object")
    return values


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Context: yields a file name beside `path`; the file written there becomes `path` on success.

    On an exception nothing remains and an older file at `path` stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all, flushed to the disk."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as target:
        target.write(text)
        target.flush()
        os.fsync(target.fileno())
