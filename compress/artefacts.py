"""Artefacts of finished stages: written whole or not at all, reused only for the same inputs.

An artefact is a directory. It is written under a temporary name, flushed to the disk, marked with
`complete.json` (the inputs it was made from, its files with sizes and checksums) and renamed: a
directory that lacks the marker, whose inputs differ, or whose files are not those that were written is
never taken for complete.

A temporary name says which process writes it, so that what a dead one left is removed (`sweep`).
"""

import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from compress import disk, integrity, processes
from compress.integrity import MARKER

SUFFIX = ".tmp"
OUTDATED = 24 * 3600.0
"""Seconds without a change after which an unfinished file of an unknown process is removed."""
_numbers = itertools.count()


def key(inputs: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of the inputs."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def completed(path: Path, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The marker of an artefact made from exactly these inputs and still as it was made, else None."""
    marker = _marker(path, inputs)
    return marker if marker is not None and integrity.damage(path, marker) is None else None


def checked(path: Path, inputs: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """The marker as from `completed`, and what to say if the artefact was damaged.

    A damaged one is put aside. Raises UserError if the disk does not allow that.
    """
    marker = _marker(path, inputs)
    with suppress(FileNotFoundError):
        inode = path.stat().st_ino
        wrong = _marker_damage(path) if marker is None else integrity.damage(path, marker)
        if wrong is None:
            return marker, None
        with disk.writing(path):
            aside = integrity.put_aside(path, inode)
        if aside is not None:
            return None, f"damaged: {wrong}; '{path.name}' is put aside as {aside.name} and made again."
    return None, None


def _marker(path: Path, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The marker of an artefact of these inputs, whatever its files are like."""
    try:
        marker = read_json(path / MARKER)
    except (OSError, ValueError, RecursionError):
        return None
    timed = isinstance(marker.get("seconds"), (int, float))
    return marker if timed and marker.get("key") == key(inputs) else None


def _marker_damage(path: Path) -> str | None:
    """What is wrong with the marker of an artefact, None if it is one, if only of other inputs."""
    try:
        marker = read_json(path / MARKER)
    except NotADirectoryError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        return f"{path / MARKER} ({why})"
    sound = isinstance(marker.get("seconds"), (int, float)) and isinstance(marker.get("key"), str)
    return None if sound else f"{path / MARKER} (it says nothing of its inputs)"


def temporary_name(path: Path) -> Path:
    """A name beside `path` for what this process writes there, as `sweep` knows it."""
    owner, number = processes.this().label, next(_numbers)
    return path.with_name(f".{path.name[:40]}.{owner}.{number}{SUFFIX}")


def sweep(folders: Iterable[Path]) -> int:
    """Remove what processes that have ended left unfinished in these directories; how many there were.

    What a process of another machine or an earlier version left is removed a day after its last change.
    """
    found = 0
    for folder in folders:
        for path in sorted(folder.glob(f".*{SUFFIX}*")) if folder.is_dir() else ():
            with suppress(OSError):
                if path.name.removesuffix(".old").endswith(SUFFIX) and _abandoned(path):
                    _remove(path)
                    found += 1
    return found


def _abandoned(path: Path) -> bool:
    parts = path.name.removesuffix(".old").removesuffix(SUFFIX).split(".")
    owner = processes.of_label(".".join(parts[-4:-1]))
    ended = owner.ended if owner is not None else None
    if ended is not None:
        return ended
    newest = max(p.lstat().st_mtime for p in (path, *path.rglob("*")))
    return time.time() - newest > OUTDATED


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def writing(
    path: Path, inputs: Mapping[str, Any], began: float, origin: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """Context: yields a temporary directory that becomes `path`, marked complete, on success.

    began: `time.perf_counter()` at the start of the stage; the marker keeps the seconds since; origin:
    versions and so on of `provenance.now`. On an exception nothing remains. An older artefact at `path`
    is replaced, unless another process finished the same one with the same versions meanwhile.
    Everything is on the disk before it gets its name, which with the checksums takes about 2 s for a
    model of 440 MB. Raises UserError if the disk is full or cannot be written to.
    """
    temporary = temporary_name(path)
    try:
        with disk.writing(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            yield temporary
            marker = {"key": key(inputs), "inputs": inputs, "seconds": time.perf_counter() - began}
            marker |= {"origin": origin} if origin else {}
            disk.flush(temporary)
            write_json(temporary / MARKER, {**marker, "files": integrity.listing(temporary)})
            _move(temporary, path, marker)
            disk.flush_entry(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(temporary: Path, path: Path, marker: Mapping[str, Any]) -> None:
    """Rename into place, unless another process did so with the same inputs and versions meanwhile."""
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        temporary.rename(path)
    except OSError:
        other = completed(path, marker["inputs"])
        if other is not None and _versions(other) == _versions(marker):
            return
        path.rename(old)
        temporary.rename(path)
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _versions(marker: Mapping[str, Any]) -> object:
    return marker.get("origin", {}).get("versions")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of ours; ValueError or OSError if there is none."""
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError("it holds no JSON object")
    return values


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Context: yields a file name beside `path`; the file written there becomes `path` on success.

    On an exception nothing remains and an older file at `path` stays; it is on the disk before it gets
    its name. Raises UserError if the disk is full or cannot be written to.
    """
    temporary = temporary_name(path)
    try:
        with disk.writing(path, temporary):
            yield temporary
            disk.flush_entry(temporary)
            temporary.replace(path)
            disk.flush_entry(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all, flushed to the disk."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
