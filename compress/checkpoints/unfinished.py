"""What an unfinished stage has done so far: results of its parts, checkpoints of its trainings, scores.

It lies beside the place of the stage's artefact, under a hash of the artefact's key and of the content
of those that it reads, and goes once that is there. So another configuration never continues it, and
the same command does.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.checkpoints.folders import Folder
from compress.checkpoints.passed import Passed
from compress.checkpoints.rows import Rows
from compress.checkpoints.saver import Saver
from compress.configuration.robust_schema import CheckpointBlock
from compress.errors import Interrupted, UserError
from compress.files import artefacts, disk, shared
from compress.files.lock import Lock
from compress.runtime import interrupts, provenance, ranks, watchdog

SUFFIX = ".unfinished"
SECONDS, LOCK, VALUES = "seconds.json", "making.lock", "values.npy"
OTHER = "the unfinished work of another configuration, or with other versions or inputs,"
PAUSE = 2.0
"""Seconds between two looks at what another run makes."""
Values = NDArray[np.float64]


@dataclass
class Unfinished:
    """The work on one artefact; every method is called by all ranks alike.

    path: its directory; None: nothing is kept; shared: whether other runs may want the artefact; began:
    `time.perf_counter()` at the start of the stage; earlier: seconds that earlier runs spent on it,
    known to the main rank.
    """

    settings: CheckpointBlock = field(default_factory=CheckpointBlock)
    path: Path | None = None
    shared: bool = False
    began: float = field(default_factory=time.perf_counter)
    earlier: float = 0.0
    _training: Saver | None = None
    _rows: Path | None = None

    @staticmethod
    def of(
        settings: CheckpointBlock, place: Path, inputs: Mapping[str, Any], shared: bool
    ) -> "Unfinished":
        """The work on the artefact at `place`, with the installed versions; nothing is read yet.

        inputs: what it is made from, as JSON: the key of the artefact, and the content of those it
        reads, which may come out otherwise under the same key.
        """
        known = {**inputs, "versions": provenance.decisive()}
        return Unfinished(settings, _folder(place) / artefacts.key(known)[:16], shared)

    @property
    def kept(self) -> Path | None:
        """Where something is kept; None if nothing is."""
        return self.path if self.settings.enabled else None

    @property
    def seconds(self) -> float:
        """Spent on the stage, by earlier runs too; on the main rank."""
        return self.earlier + time.perf_counter() - self.began

    @contextmanager
    def alone(self, label: str, there: Callable[[], bool]) -> Iterator[None]:
        """Context in which no other run makes the same artefact: one makes it, the others wait.

        In it the work of another key or of other versions is gone. there: whether the artefact has
        appeared, so that nothing is waited for; asked on the main rank.
        """
        if self.path is None or not self.shared:
            self._begin(label)
            yield
            return
        folder = self.path.parent
        lock = Lock(folder, LOCK)

        def wait() -> None:
            said = ""
            while not there():
                with suppress(FileNotFoundError):  # the other run has removed the directory
                    folder.mkdir(parents=True, exist_ok=True)
                    holder = lock.holder()
                    if holder is None:
                        return
                    if holder != said:
                        ranks.say(f"{label}: another run makes it ({holder}); this one waits")
                    said = holder
                watchdog.beat()
                time.sleep(PAUSE)

        interrupts.before_end(lock.release)
        ranks.on_main(wait)
        self._begin(label)
        try:
            yield
        finally:
            lock.release()
            if ranks.is_main():
                with suppress(OSError):  # it stays if there is something to continue
                    folder.rmdir()

    def _begin(self, label: str) -> None:
        """Go on with what earlier runs of this very work have done; say what of other work is lost."""
        self.began = time.perf_counter()
        if self.path is None or not ranks.is_main():
            return
        with suppress(OSError):
            for other in self.path.parent.iterdir():
                if other != self.path and other.is_dir():
                    if spent := _seconds(other):
                        ranks.say(f"{label}: {OTHER} is deleted ({spent:.0f} s of it were done)")
                    shutil.rmtree(other, ignore_errors=True)
        self.earlier = _seconds(self.path)

    def _part(self, name: str) -> tuple[Path, dict[str, str]]:
        """Place and inputs of a part."""
        assert self.kept is not None, "parts are kept"
        return self.kept / "parts" / name.replace(" ", "_"), {"part": name}

    def place(self, name: str) -> Path:
        """Where the main rank may write what belongs to the artefact before it is complete."""
        assert self.path is not None, "a stage that is obtained has a place for unfinished work"
        return self.path / name

    def file(self, name: str, write: Callable[[Path], None]) -> Path:
        """The .npy file of a part, kept at once; one that an earlier run has kept is not written again.

        write: called by all ranks, fills a new file on the main rank. If it is interrupted, the
        training that the part belongs to is saved.
        """
        new = self.place(f"{name.replace(' ', '_')}.npy")
        if self.kept is None:
            write(new)
            return new
        if (known := self.known(name)) is not None:
            return known
        path, inputs = self._part(name)
        began = time.perf_counter()
        with self._making(path):
            write(new)

        def keep() -> None:
            with artefacts.writing(path, inputs, began) as folder:
                new.rename(folder / VALUES)
            self._made(path)

        ranks.on_main(keep)
        return path / VALUES

    def known(self, name: str) -> Path | None:
        """The .npy file of a part that an earlier run has kept; None if there is none."""
        if self.kept is None:
            return None
        path, inputs = self._part(name)
        marker = ranks.on_main(lambda: artefacts.completed(path, inputs))
        if marker is None:
            return None
        shared.await_everywhere(path, marker)
        return path / VALUES

    def mapped(self, name: str, make: Callable[[], Values]) -> Values:
        """An array that the main rank makes alone, from a file which every rank maps and none holds."""
        file = self.place(f"{name}.npy")

        def write() -> None:
            with disk.writing(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                np.save(file, make())

        ranks.on_main(write)
        return shared.mapped(file)

    @contextmanager
    def _making(self, path: Path) -> Iterator[None]:
        """Context of the making of a part: it has `rows`; interrupted, its training is saved."""
        self._rows = path.with_name(f"{path.name}.rows")
        try:
            yield
        except Interrupted:
            self._save_training()
            raise
        finally:
            self._rows = None

    def _made(self, path: Path) -> None:
        """A part is kept, so that its rows need not be; on the main rank."""
        shutil.rmtree(path.with_name(f"{path.name}.rows"), ignore_errors=True)
        self._record()

    def _save_training(self) -> None:
        """Save the training that a part belongs to, if there is one."""
        if self._training is not None:
            self._training.save_now()

    def rows(self, batch_size: int) -> Rows:
        """The rows that this rank computes for the part that is being made; else they are not kept.

        batch_size: samples of all ranks. What earlier runs have kept counts only if the model is the
        one that was saved with it, and not one that has been trained to the same step again.
        """
        if self._rows is None:
            return Rows()
        if self._training is not None and self._training.trained and ranks.is_main():
            shutil.rmtree(self._rows, ignore_errors=True)  # of a model that was not kept
        return Rows.of(self._rows, batch_size, self.settings.every_minutes, self._save_training)

    def passed(self, file: Path) -> Passed:
        """How far a pass has come that writes into a file at a `place`."""
        return Passed(file, self.settings.every_minutes, self.kept is not None)

    def has(self, *names: str) -> bool:
        """Whether these parts are kept."""
        if self.kept is None:
            return False
        parts = [self._part(name) for name in names]
        return ranks.on_main(lambda: all(artefacts.completed(*part) is not None for part in parts))

    def training(self, name: str, saved: bool = True) -> Saver:
        """The checkpoints of a training of the stage, of which there is one at a time.

        saved: whether there are any.
        """
        folder = None
        if self.kept is not None and saved:
            folder = Folder(self.kept / name.replace(" ", "_"), self.settings.keep)
        self._training = Saver(self.settings, folder, self._record)
        return self._training

    def forget(self, training: str) -> None:
        """Delete the checkpoints of a training whose results are kept as parts."""
        if self.kept is not None and ranks.is_main():
            shutil.rmtree(self.kept / training.replace(" ", "_"), ignore_errors=True)

    def remove(self) -> None:
        """Delete it all: the artefact is there; within `alone`."""
        if self.path is not None and ranks.is_main():
            shutil.rmtree(self.path, ignore_errors=True)
            with suppress(OSError):  # the lock is in it
                self.path.parent.rmdir()

    def _record(self) -> None:
        """Keep how long it has taken; on the main rank."""
        if self.kept is not None and ranks.is_main():
            artefacts.write_json(self.kept / SECONDS, {"seconds": self.seconds})


def _folder(place: Path) -> Path:
    """Where the unfinished work on the artefact at `place` lies, of every key."""
    return place.with_name(place.name + SUFFIX)


def _seconds(path: Path) -> float:
    with suppress(OSError, ValueError, LookupError, TypeError):
        return float(json.loads((path / SECONDS).read_text(encoding="utf-8"))["seconds"])
    return 0.0


def clear(place: Path) -> None:
    """Remove what a run that was killed has left beside a finished artefact; on the main rank."""
    folder = _folder(place)
    if not folder.is_dir():
        return
    lock = Lock(folder, LOCK)
    with suppress(OSError, UserError):
        if lock.holder() is None:
            shutil.rmtree(folder, ignore_errors=True)
    lock.release()
