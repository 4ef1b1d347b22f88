"""What each rank has computed in a pass over the rows of a split, kept in blocks of batches.

A rank keeps its own, such as `rank-00003/000000120-000000240`: an artefact with the rows of batches 120
to 239. A pass goes on after the last block that all ranks have; with another number of ranks, or of
samples in a batch, it starts anew.
"""

import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.checkpoints import folders
from compress.checkpoints.due import Due
from compress.errors import UserError
from compress.files import artefacts, shared
from compress.runtime import agreement, ranks

NAME = re.compile(r"\d{9}-\d{9}")
"""Of a block: its first batch, and the one after its last."""
FILE = "rows.npy"
Block = NDArray[np.float32]


def nothing() -> None:
    """Do nothing."""


class Rows:
    """The rows of a rank; all ranks call the methods alike."""

    def __init__(
        self,
        folder: Path | None = None,
        minutes: float | None = None,
        first: Callable[[], None] = nothing,
    ) -> None:
        """folder: of this rank; None: nothing is kept; minutes: between two blocks; None: not by time.

        first: called before the first block is written, to save the model that computes the rows.
        """
        self._folder, self._first = folder, first
        self._due = Due(None if folder is None else minutes)
        self._kept: list[Block] = []
        self._new: list[Block] = []
        self._end = 0

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return self._end + len(self._new)

    @staticmethod
    def of(place: Path, batch_size: int, minutes: float | None, first: Callable[[], None]) -> "Rows":
        """Those of this rank in a pass with batches of so many samples of all ranks."""
        name = f"{ranks.world_size()}x{batch_size}"
        return Rows(place / name / f"rank-{ranks.rank():05}", minutes, first)

    def read(self) -> int:
        """Read what earlier runs have kept; of how many batches that is."""
        folder = self._folder
        if folder is None or not ranks.on_main(folder.parent.is_dir):
            return 0  # no rank looks for what is not there: its host would remember that
        shared.look_again(folder)
        own = _sound(folder)
        every = ranks.gathered(lambda: list(own))
        common = list(takewhile(lambda name: all(name in names for names in every), own))
        for path in folder.glob("*"):
            if path.name not in common:
                shutil.rmtree(path, ignore_errors=True)
        self._kept = [own[name] for name in common]
        self._end = _end(common[-1]) if common else 0
        return self._end

    def add(self, rows: Block) -> None:
        """Take the rows [R, ...] of the next batch."""
        self._new.append(rows)

    def all(self) -> Block:
        """The rows of all batches."""
        return np.concatenate([*self._kept, *self._new])

    def late(self) -> bool:
        """Whether a block is due, said once of each; False on all ranks but the main one."""
        return self._due.now()

    def save(self) -> None:
        """Keep the batches since the last block; a failure of one rank is one of all, and is said."""
        if self._folder is None or not self._new:
            return
        path = self._folder / f"{self._end:09}-{self.batches:09}"
        rows = np.concatenate(self._new)
        with agreement.loop():
            self._first()
            self._first = nothing
            _, wrong = folders.attempt(lambda: _write(path, rows))
        if wrong is None:
            self._kept, self._new, self._end = [*self._kept, rows], [], _end(path.name)
            return
        shutil.rmtree(path, ignore_errors=True)
        ranks.say(f"WARNING: what is scored is not kept here: {wrong}")


def _end(name: str) -> int:
    """The batch after the last one of a block."""
    return int(name.split("-")[1])


def _write(path: Path, rows: Block) -> None:
    with artefacts.writing(path, {"block": path.name}, time.perf_counter()) as folder:
        np.save(folder / FILE, rows)


def _sound(folder: Path) -> dict[str, Block]:
    """The rows of the blocks that follow each other from the first batch on, by name."""
    found: dict[str, Block] = {}
    for path in sorted(folder.glob("*-*")):
        begins = f"{_end(next(reversed(found))) if found else 0:09}-"
        if not NAME.fullmatch(path.name) or not path.name.startswith(begins):
            continue
        with suppress(OSError, UserError):  # what cannot be read is scored again
            if artefacts.completed(path, {"block": path.name}) is not None:
                found[path.name] = np.load(path / FILE)
    return found
