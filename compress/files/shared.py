"""A file system that several hosts share, on which one sees late what another has written.

A network file system remembers for a while that a name was not there (NFS by its defaults up to a
minute), and so a host that has looked for a directory before another made it does not see it.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import UserError
from compress.files import integrity
from compress.runtime import ranks

APPEARING = 60.0
"""Seconds in which files that another host has written appear here: NFS looks a name that was not there
up again after that time, by its defaults."""


def look_again(folder: Path) -> None:
    """Make this host see a directory that another one has made.

    Asks the file server to make it, and those above: which says of each that it is there, and that
    counts for more than what this host remembers. Nothing is left of one that was really not there.
    """
    if folder.is_dir():
        return
    for place in reversed((folder, *folder.parents)):
        if place.is_dir():
            continue
        try:
            place.mkdir()
        except FileExistsError:
            continue
        except OSError:
            return
        with suppress(OSError):
            place.rmdir()
        return


def await_files(path: Path, marker: Mapping[str, Any], seconds: float) -> str | None:
    """Wait until an artefact that another host has found is to be seen here too, whole.

    What is lacking after `seconds`, None if nothing. The file server is asked in between, and
    directories are listed, which makes a network file system ask again.
    """
    until, pause = time.monotonic() + seconds, 0.05
    while (lacking := integrity.lacking(path, marker)) is not None and time.monotonic() < until:
        folders = {path, *((path / name).parent for name in marker["files"])}
        for folder in sorted(folders):
            look_again(folder)
        if integrity.lacking(path, marker) is None:
            return None
        time.sleep(min(pause, max(0.0, until - time.monotonic())))
        pause = min(2 * pause, 2.0)
        for folder in {path.parent, *folders}:
            with suppress(OSError):
                list(folder.iterdir())
    return lacking


def await_everywhere(path: Path, marker: Mapping[str, Any]) -> None:
    """Wait until every rank sees an artefact that the main rank has found; called by all alike.

    Raises UserError on all ranks if one does not: its host has another file system.
    """
    lacking = None if ranks.is_main() else await_files(path, marker, APPEARING)
    if ranks.all_sum(np.array([lacking is not None])).any():
        here = "" if lacking is None else f" (here: {lacking})"
        raise UserError(
            f"{path}: is not to be seen on every host {APPEARING:.0f} s after it was written{here}; "
            "--output_dir, the cache and robust_compression.cache_dir must be on a file system that "
            "all hosts share."
        )


def mapped(file: Path) -> NDArray[Any]:
    """The array in a .npy file that the main rank has written, mapped on every rank."""
    size = ranks.on_main(lambda: file.stat().st_size)
    await_everywhere(file.parent, {"files": {file.name: {"size": size}}})
    found: NDArray[Any] = np.load(file, mmap_mode="r")
    return found
