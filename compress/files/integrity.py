"""Whether the files of a finished artefact are still those that were written.

The marker of an artefact lists each file with its size and SHA-256. Sizes are compared whenever the
artefact is looked for, checksums once a process and file (about 2 s a GB). A file of `LARGE` bytes is
as it was if its time of change is too: data of 40 million rows are not read at every start.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

MARKER = "complete.json"
LOOSE = {MARKER, "README.md", "heads.json"}
"""Files that may change afterwards: the evaluation rewrites the model card, a person may edit the list
of heads; no later stage reads them."""
ASIDE = ".damaged-"
LARGE = 1 << 26

_known: dict[tuple[int, int, int, int], str] = {}
"""Checksums by device, inode, size and time of change, so that a file is read once a process."""


def listing(folder: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of each file below a directory, by its path there; less `LOOSE`.

    Of a large file the time of its last change too, in nanoseconds.
    """
    return {
        name: _about(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and (name := file.relative_to(folder).as_posix()) and _counts(name)
    }


def _about(file: Path) -> dict[str, Any]:
    stat = file.stat()
    about = {"size": stat.st_size, "sha256": digest(file)}
    return about | ({"time": stat.st_mtime_ns} if stat.st_size >= LARGE else {})


def _counts(name: str) -> bool:
    parts = Path(name).parts
    return parts[-1] not in LOOSE and not any(part.endswith(".tmp") for part in parts)


def digest(file: Path) -> str:
    """SHA-256 of a file in hexadecimal digits; read once a process while it does not change."""
    about = file.stat()
    place = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
    if place not in _known:
        with file.open("rb") as source:
            _known[place] = hashlib.file_digest(source, "sha256").hexdigest()
    return _known[place]


def damage(folder: Path, marker: Mapping[str, Any]) -> str | None:
    """The first damaged file of an artefact, and why; None if all are sound.

    Files that the marker does not list are left out of account. PermissionError for one that may not be
    read.
    """
    files = marker.get("files")
    if not isinstance(files, dict) or not all(isinstance(about, dict) for about in files.values()):
        return f"{folder / MARKER} (its list of files cannot be read)"
    return lacking(folder, marker) or _first(_content_differs, folder, files)


def lacking(folder: Path, marker: Mapping[str, Any]) -> str | None:
    """The first file of an artefact that is not there in its size, and why; None if all are."""
    return _first(_size_differs, folder, marker["files"])


def _first(
    compare: Callable[[Path, Mapping[str, Any]], str | None],
    folder: Path,
    files: Mapping[str, Mapping[str, Any]],
) -> str | None:
    """What a comparison finds in the first file where it finds anything."""
    for name, about in files.items():
        try:
            why = compare(folder / name, about)
        except (FileNotFoundError, ValueError):  # no file has a name with a null character
            why = "is missing"
        except PermissionError:
            raise
        except OSError as error:
            why = f"cannot be read: {error.strerror}"
        if why is not None:
            return f"{folder / name} ({why})"
    return None


def _size_differs(file: Path, about: Mapping[str, Any]) -> str | None:
    size, expected = file.stat().st_size, about.get("size")
    return None if size == expected else f"has {size} bytes, {expected} were written"


def _content_differs(file: Path, about: Mapping[str, Any]) -> str | None:
    same = file.stat().st_mtime_ns == about.get("time") or digest(file) == about.get("sha256")
    return None if same else "its checksum is not that of what was written"


def put_aside(path: Path, inode: int) -> Path | None:
    """Rename a damaged artefact to `<name>.damaged-<time>`, in place of one put aside before.

    inode: of the directory that was found damaged; None if another process has replaced it since.
    """
    aside = path.with_name(f"{path.name}{ASIDE}{time.strftime('%Y%m%d-%H%M%S')}")
    for other in path.parent.iterdir():
        if other.name.startswith(f"{path.name}{ASIDE}"):
            shutil.rmtree(other, ignore_errors=True)
    with suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            return path.rename(aside)
    return None
