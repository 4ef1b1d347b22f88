"""When the state of a training is saved, and that it costs little of the training's time."""

import time
from collections.abc import Callable
from typing import Any

from compress.checkpoints import folders
from compress.checkpoints.folders import Folder
from compress.checkpoints.pieces import Saved
from compress.configuration.robust_schema import CheckpointBlock
from compress.runtime import ranks

SHARE = 0.02
"""Of the time of a training, at most, for saving every so many minutes."""
AT_END = 0.1
"""Of the time between two checkpoints: as old the last one may be when a training stops to score."""
State = Callable[[], tuple[int, dict[str, Any]]]


class Saver:
    """The checkpoints of one training.

    Its methods are called by all ranks alike, but `late`, which only the main rank knows.
    """

    def __init__(
        self,
        settings: CheckpointBlock | None = None,
        folder: Folder | None = None,
        saved: Callable[[], None] = lambda: None,
    ) -> None:
        """folder: None if nothing is kept; saved: called on the main rank after each checkpoint."""
        self._settings, self._folder, self._saved = settings or CheckpointBlock(), folder, saved
        self._last, self._cost = time.monotonic(), 0.0
        self._step = -1
        self._state: State | None = None

    def bind(self, state: State) -> Saved | None:
        """Set the function that gives step and state; the newest checkpoint, if there is one."""
        self._state, self._last = state, time.monotonic()
        return None if self._folder is None else self._folder.newest()

    def check_space(self, needed: int) -> None:
        """UserError if the disk does not hold the checkpoints; needed: bytes of this rank's part."""
        if self._folder is not None:
            folders.check_space(self._folder.path, needed, self._settings.keep)

    def due(self, step: int) -> bool:
        """Whether a checkpoint is asked for at this step; alike on all ranks."""
        every = self._settings.every_steps
        return every is not None and step % every == 0

    def late(self, part: float = 1.0) -> bool:
        """Whether enough time has passed, or a part of it; False on all ranks but the main one."""
        minutes = self._settings.every_minutes
        if minutes is None or self._folder is None or not ranks.is_main():
            return False
        return time.monotonic() - self._last >= max(60 * minutes * part, self._cost / SHARE)

    def save_at_end(self) -> None:
        """Save ahead of long work that trains nothing, unless the last checkpoint is fresh."""
        if ranks.broadcast(self.late(AT_END)):
            self.save_now()

    def save_now(self) -> None:
        """Save the state, unless it is the one that was saved last; a failure is said."""
        if self._folder is None or self._state is None:
            return
        step, state = self._state()
        if step == self._step and not state.get("pending"):
            return
        began = time.monotonic()
        wrong = self._folder.save(step, state)
        if wrong is None:
            self._step = step
            ranks.on_main(self._saved)
        else:
            ranks.say(f"WARNING: no checkpoint at step {step}: {wrong}")
        self._last = time.monotonic()
        self._cost = self._last - began

    def close(self) -> None:
        """Save no more: the engine is about to go."""
        self._state = None
