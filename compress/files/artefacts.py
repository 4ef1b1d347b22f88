"""Artefacts of finished stages: written whole or not at all, reused only for the same inputs.

An artefact is a directory. It is written under a temporary name, flushed to the disk, marked with
`complete.json` (the inputs it was made from, its files with sizes and checksums) and renamed. The
temporary name names the process that writes, so that `sweep` can remove what a dead one has left.
"""

import hashlib
import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from compress.files import disk, integrity, processes
from compress.files.integrity import MARKER
from compress.runtime import provenance

SUFFIX = ".tmp"
OUTDATED = 24 * 3600.0
"""Seconds without a change after which an unfinished file of an unknown process is removed."""
NUMERICS = 1
"""Raised whenever a change of this program changes the numbers of some result."""
FIGURES = 3
"""Raised whenever a change makes other figures of the same models, or compares other models."""
_numbers = itertools.count()


def key(inputs: object) -> str:
    """SHA-256 over the canonical JSON of the inputs."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def content(marker: Mapping[str, Any]) -> str:
    """A hash of the files of an artefact, by name and checksum; the same wherever and whenever made."""
    return key({n: {"size": a["size"], "sha256": a["sha256"]} for n, a in marker["files"].items()})


def completed(path: Path, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The marker of an artefact made from exactly these inputs and still as it was made, else None.

    Raises UserError if a file may not be read.
    """
    with disk.reading(path):
        return _examined(path, inputs)[0]


def checked(path: Path, inputs: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """The marker as from `completed`, and a message if the artefact was damaged and is put aside.

    Raises UserError if the disk does not allow that, and if a file may not be read: that is no damage,
    and may be another user's.
    """
    with suppress(FileNotFoundError), disk.reading(path):
        inode = path.stat().st_ino
        marker, wrong = _examined(path, inputs)
        if wrong is None:
            return marker, None
        with disk.writing(path):
            aside = integrity.put_aside(path, inode)
        if aside is not None:
            return None, f"damaged: {wrong}; '{path.name}' is put aside as {aside.name} and made again."
    return None, None


def _examined(path: Path, inputs: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """The marker of a sound artefact of these inputs, else None; and the damage, if there is any."""
    try:
        marker = read_json(path / MARKER)
    except NotADirectoryError:
        return None, None
    except PermissionError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        return None, f"{path / MARKER} ({why})"
    if not isinstance(marker.get("key"), str):
        return None, f"{path / MARKER} (it does not name its inputs)"
    if marker["key"] != key(inputs):
        return None, None
    if (mistake := _mistake(marker)) is not None:
        return None, f"{path / MARKER} ({mistake})"
    damage = integrity.damage(path, marker)
    return (marker, None) if damage is None else (None, damage)


def _mistake(marker: Mapping[str, Any]) -> str | None:
    """What is wrong with the fields of a marker, or None; its files are examined elsewhere.

    "origin" and "made_from" may be absent.
    """
    seconds, made_from = marker.get("seconds"), marker.get("made_from", {})
    if key(marker.get("inputs")) != marker["key"]:
        return "it does not name its inputs"
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return "it does not say how long its making took"
    if "origin" in marker and not provenance.readable(marker["origin"]):
        return "it does not say how it was made"
    if not isinstance(made_from, dict) or not all(isinstance(v, str) for v in made_from.values()):
        return "it does not say what it was made from"
    return None


def temporary_name(path: Path) -> Path:
    """A name beside `path` that names this process, for what it is writing."""
    owner, number = processes.this().label, next(_numbers)
    return path.with_name(f".{path.name[:40]}.{owner}.{number}{SUFFIX}")


def sweep(folders: Iterable[Path], alone: bool = False) -> int:
    """Remove unfinished files of processes that have ended from these directories; how many there were.

    What is not called as `temporary_name` does is another program's and stays. Where it is not known
    whether the process has ended, because it is another host's: a day after the last change, by the
    clock of the file system; at once if `alone`, when a lock keeps every other process from writing.
    """
    found = 0
    for folder in folders:
        for path in sorted(folder.glob(f".*{SUFFIX}*")) if folder.is_dir() else ():
            with suppress(OSError):
                if path.name.removesuffix(".old").endswith(SUFFIX) and _abandoned(path, alone):
                    _remove(path)
                    found += 1
    return found


def _abandoned(path: Path, alone: bool) -> bool:
    parts = path.name.removesuffix(".old").removesuffix(SUFFIX).split(".")
    owner = processes.of_label(".".join(parts[-4:-1]))
    if owner is None:
        return False
    if owner.ended is not None:
        return owner.ended
    if alone:
        return True
    newest = max(p.lstat().st_mtime for p in (path, *path.rglob("*")))
    return now(path.parent) - newest > OUTDATED


def now(folder: Path) -> float:
    """The time by the clock of a directory's file system, which dates files; that of a host may differ.

    Raises OSError if nothing can be written there.
    """
    probe = temporary_name(folder / "time")
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def writing(
    path: Path, inputs: Mapping[str, Any], began: float, making: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """Context: yields a temporary directory that becomes `path`, marked complete, on success.

    began: `time.perf_counter()` at the start of the stage; the marker keeps the seconds since; making:
    entries of the marker that say how it is made, "origin" (of `provenance.now`) and "made_from"
    (`content` of each artefact that it read, by label). On an exception nothing remains. An older
    artefact at `path` is replaced, unless another process has made the same one alike meanwhile.
    Flushing and checksums take about 2 s for a model of 440 MB. Raises UserError if the disk is full
    or cannot be written to.
    """
    temporary = temporary_name(path)
    try:
        with disk.writing(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            yield temporary
            marker = {"key": key(inputs), "inputs": inputs, "seconds": time.perf_counter() - began}
            marker |= making or {}
            disk.flush(temporary)
            write_json(temporary / MARKER, {**marker, "files": integrity.listing(temporary)})
            _move(temporary, path, marker)
            disk.flush_entry(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(temporary: Path, path: Path, marker: Mapping[str, Any]) -> None:
    """Rename into place, unless another process did so with the same inputs, made alike, meanwhile."""
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        temporary.rename(path)
    except OSError:
        other = completed(path, marker["inputs"])
        if other is not None and _making(other) == _making(marker):
            return
        path.rename(old)
        temporary.rename(path)
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _making(marker: Mapping[str, Any]) -> object:
    """With which versions and from what an artefact was made."""
    return marker.get("origin", {}).get("versions"), marker.get("made_from", {})


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError or OSError if there is none."""
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


def create(path: Path, text: str) -> bool:
    """Make a file of this text if there is none, at once and by one process only."""
    temporary = temporary_name(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        with suppress(OSError):
            os.link(temporary, path)
            return True
        if temporary.stat().st_nlink == 2:  # the answer of a network file system was lost
            return True
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    with os.fdopen(handle, "w", encoding="utf-8") as target:
        target.write(text)
    return True
