"""How far a pass over a split has come that writes what it computes into a file of all ranks.

The samples are counted in the order of the pass, so that another number of ranks can go on too.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from compress.checkpoints import folders
from compress.checkpoints.due import Due
from compress.files import artefacts, disk
from compress.runtime import agreement, ranks

SUFFIX = ".passed.json"


class Passed:
    """The samples that are in the file; all ranks call the methods alike."""

    def __init__(self, file: Path, minutes: float | None, kept: bool) -> None:
        """minutes: between two times; None: not by time; kept: whether it is kept at all."""
        self._file, self._kept = file, kept
        self._mark = file.with_name(file.name + SUFFIX)
        self._due = Due(minutes if kept else None)

    def read(self) -> int:
        """Of how many samples the file has the rows; if of none, it is removed."""
        return ranks.on_main(self._read)

    def _read(self) -> int:
        found = 0
        with suppress(OSError, ValueError, LookupError, TypeError):
            found = int(artefacts.read_json(self._mark)["samples"])
        if self._kept and found and self._file.exists():
            return found
        for path in (self._mark, self._file):
            with disk.writing(path):
                path.unlink(missing_ok=True)
        return 0

    def late(self) -> bool:
        """Whether it is time to `save`; False on all ranks but the main one."""
        return self._due.now()

    def save(self, samples: int, flush: Callable[[], None]) -> None:
        """Keep that so many are in the file.

        flush: brings those of this rank to the disk, or raises UserError.
        """
        if not self._kept:
            return
        with agreement.loop():
            _, wrong = folders.attempt(flush)
            if wrong is None:
                mark = {"samples": samples}
                _, wrong = folders.attempt(
                    lambda: artefacts.write_json(self._mark, mark), main_only=True
                )
        if wrong is not None:
            ranks.say(f"WARNING: how far {self._file.name} has come is not kept: {wrong}")
