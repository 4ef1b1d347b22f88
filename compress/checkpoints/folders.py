"""The checkpoints of one training: each complete or not there, the newest sound one is used.

A checkpoint is a directory `step-000000120`. All ranks write their files under a temporary name,
flushed to the disk, each in a thread beside the training if that is asked; the main rank then writes
`complete.json`, with size and SHA-256 of each file, and renames it. Every function is called by all
ranks alike.
"""

import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar, cast

import numpy as np
from safetensors import SafetensorError

from compress.checkpoints import pieces
from compress.checkpoints.pieces import Packed, Saved
from compress.errors import UserError
from compress.files import artefacts, disk, integrity, shared
from compress.files.integrity import MARKER
from compress.runtime import ranks

T = TypeVar("T")
Files = dict[str, dict[str, Any]]
EARLIER = "-earlier"
"""What the name of a checkpoint ends with while another one of its step takes its place."""
NAME = re.compile(rf"step-(\d{{9,}})({EARLIER})?")
NEW = 4
"""Directories above a checkpoint that its saving may have made."""


@dataclass(frozen=True)
class Begun:
    """A checkpoint that is being written; files: size and checksum of each file of this rank."""

    step: int
    target: Path
    temporary: Path
    files: "Future[Files]"

    def abandon(self) -> None:
        """Write it no further; each rank by itself."""
        wait([self.files])
        self.remove()

    def remove(self) -> None:
        """Delete what has not been renamed; the main rank does."""
        if ranks.is_main():
            shutil.rmtree(self.temporary, ignore_errors=True)


@dataclass(frozen=True)
class Folder:
    """The checkpoints in a directory; keep: how many complete ones stay."""

    path: Path
    keep: int

    def begin(self, step: int, state: Mapping[str, Any], beside: bool) -> "Begun | str":
        """Begin to write the state of all ranks at a step; the reason if that is not possible.

        beside: copy this rank's part and write the copy while the caller goes on.
        """
        target = self.path / f"step-{step:09}"
        temporary = ranks.broadcast(artefacts.temporary_name(target))
        _, wrong = attempt(lambda: _open(temporary), main_only=True)
        if wrong is not None:
            return wrong
        files = Future[Files]()

        def start() -> None:
            shared.look_again(temporary)
            packed = pieces.pack(state, copied=beside)
            words = (partial(_write, temporary, target, packed), files)
            thread = Thread(target=_run, args=words, daemon=True, name="checkpoint")
            thread.start()
            if not beside:
                thread.join()

        _, wrong = attempt(start)
        begun = Begun(step, target, temporary, files)
        if wrong is not None:
            begun.remove()
        return wrong or begun

    def complete(self, begun: "Begun") -> str | None:
        """Wait until all ranks have written; why there is no checkpoint, None if there is one."""
        written, wrong = attempt(begun.files.result)
        if wrong is None:
            files = {name: about for part in written for name, about in part.items()}
            finish = partial(self._finish, begun.temporary, begun.target, files)
            _, wrong = attempt(finish, main_only=True)
        begun.remove()
        return wrong

    def _finish(self, temporary: Path, target: Path, files: Mapping[str, Any]) -> None:
        """Mark and rename; then remove the oldest."""
        marker = {"ranks": ranks.world_size(), "files": dict(files)}
        with disk.writing(target, temporary):
            artefacts.write_json(temporary / MARKER, marker)
            disk.flush_entry(temporary)
            earlier = target.with_name(f"{target.name}{EARLIER}")
            if target.exists():
                _remove(earlier)
                target.rename(earlier)
            temporary.rename(target)
            disk.flush_entry(self.path)
            _remove(earlier)
        for old in self._complete()[self.keep :]:
            if old != target:
                _remove(old)

    def _complete(self) -> list[Path]:
        """Complete checkpoints, the newest first."""
        there = self.path.iterdir() if self.path.is_dir() else ()
        found = [path for path in there if NAME.fullmatch(path.name) and (path / MARKER).is_file()]
        return sorted(found, key=_age)

    def newest(self) -> Saved | None:
        """The newest sound checkpoint; says of each damaged one that it is passed over."""
        ranks.on_main(lambda: artefacts.sweep([self.path], alone=True))
        for path in ranks.on_main(self._complete):
            marker, wrong = ranks.on_main(partial(_marker, path))
            if wrong is None:
                shared.await_everywhere(path, marker)
                _, wrong = attempt(partial(_damage, path, marker))
            if wrong is None:
                return Saved(path, marker["ranks"], ranks.rank())
            ranks.say(f"passed over a damaged checkpoint: {wrong}")
            ranks.on_main(partial(_put_aside, path))
        return None


def attempt(work: Callable[[], T], main_only: bool = False) -> tuple[list[T], str | None]:
    """What `work` returns on each rank, and the first error of one, of memory and threads too."""

    def tried() -> T:
        try:
            return work()
        except (RuntimeError, MemoryError, ValueError, SafetensorError) as error:
            raise UserError(f"{type(error).__name__}: {error}") from error

    idle = main_only and not ranks.is_main()
    found = ranks.gathered((lambda: None) if idle else tried)
    wrong = next((text for text in found if isinstance(text, str)), None)
    return cast("list[T]", found), wrong


def _open(temporary: Path) -> None:
    with disk.writing(temporary.parent):
        temporary.mkdir(parents=True)
        for folder in list(temporary.parents)[:NEW]:
            disk.flush_entry(folder)


def _run(write: Callable[[], Files], files: "Future[Files]") -> None:
    """Call `write`; what it returns or raises is the future's."""
    try:
        files.set_result(write())
    except Exception as error:  # noqa: BLE001  raised where the result is asked for
        files.set_exception(error)


def _age(path: Path) -> tuple[int, bool]:
    """What sorts checkpoints by their age, the newest first."""
    found = NAME.fullmatch(path.name)
    assert found is not None, "names of checkpoints alone"
    return -int(found[1]), found[2] is not None


def _remove(path: Path) -> None:
    """Delete a directory, if it is there, in a thread, under a name that `artefacts.sweep` knows."""
    aside = artefacts.temporary_name(path)
    with suppress(OSError):
        path.rename(aside)
        Thread(target=shutil.rmtree, args=(aside, True), daemon=True).start()


def _write(temporary: Path, target: Path, packed: Packed) -> Files:
    """Write the files of this rank; size and checksum of each."""
    with disk.writing(target, temporary):
        names = pieces.write(temporary, ranks.rank(), packed)
        for name in names:
            disk.flush_entry(temporary / name)
        return {name: _about(temporary / name) for name in names}


def _about(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": integrity.digest(file)}


def _put_aside(path: Path) -> None:
    """Rename a damaged checkpoint, so that it counts no more; it goes with the others."""
    with suppress(OSError):
        path.rename(path.with_name(f"damaged-{path.name}"))


def _marker(path: Path) -> tuple[dict[str, Any], str | None]:
    """The marker of a checkpoint, and what is wrong with it."""
    try:
        marker = artefacts.read_json(path / MARKER)
        count, files = marker["ranks"], marker["files"]
        expected = {name for rank in range(count) for name in pieces.names(rank)}
        if files.keys() != expected:
            return marker, f"{path / MARKER} (it does not list the files of {count} ranks)"
        if (wrong := integrity.lacking(path, marker)) is not None:
            return marker, wrong
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return {}, f"{path / MARKER} (cannot be read: {error})"
    return marker, None


def _damage(path: Path, marker: Mapping[str, Any]) -> str | None:
    """The first damaged file among this rank's share of them."""
    count, world = marker["ranks"], ranks.world_size()
    own = [name for rank in range(ranks.rank(), count, world) for name in pieces.names(rank)]
    return integrity.damage(path, {"files": {name: marker["files"][name] for name in own}})


def check_space(path: Path, needed: int, keep: int) -> None:
    """Raise UserError on all ranks if the disk does not hold so many checkpoints and the next one.

    needed: bytes of this rank's part of one.
    """
    total = int(ranks.all_sum(np.array([float(needed)]))[0]) * (keep + 1)

    def look() -> None:
        free = disk.free(path)
        there = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else 0
        if free is not None and free + there < total:
            raise UserError(
                f"{path}: its disk has {disk.size(free)} free, and {keep} checkpoints and the next one "
                f"take {disk.size(total)}; free some, lower robust_compression.checkpoint.keep, or set "
                "checkpoint.enabled to false to go without."
            )

    ranks.on_main(look)
