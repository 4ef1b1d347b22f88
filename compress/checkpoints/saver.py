"""When the state of a training is saved, and that it costs little of the training's time.

Between two steps the state is copied, and written in a thread while the training goes on; at its end,
or at an interrupt, it is written at once.
"""

import time
from collections.abc import Callable
from typing import Any

from compress.checkpoints import folders
from compress.checkpoints.folders import Begun, Folder
from compress.checkpoints.pieces import Saved
from compress.configuration.robust_schema import CheckpointBlock
from compress.runtime import agreement, interrupts, memory, ranks, watchdog

SHARE = 0.02
"""Of the time of a training, at most, that it stands still for saving every so many minutes."""
SPARE = 0.5
"""Of the memory that a host has available, at most, for copies of the state."""
AT_END = 0.1
"""Of the time between two checkpoints: as old the last one may be when a training stops to score."""
SETTLED = 2
"""Exchanges after which the flags are of after the last begin."""
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
        self._step, self._age, self._needed = -1, SETTLED, 0
        self._begun: Begun | None = None
        self._state: State | None = None
        self.trained = False
        """Whether this run has taken a step of the training, so that its model is not the one read."""

    def bind(self, state: State) -> Saved | None:
        """Set the function that gives step and state; the newest checkpoint, if there is one."""
        self._state, self._last = state, time.monotonic()
        return None if self._folder is None else self._folder.newest()

    def check_space(self, needed: int) -> None:
        """UserError if the disk does not hold the checkpoints; needed: bytes of this rank's part."""
        if self._folder is not None:
            folders.check_space(self._folder.path, needed, self._settings.keep)
            self._needed = needed * ranks.on_this_host()

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
        """Save ahead of long work that trains nothing, unless the last checkpoint is fresh.

        Where a signal asks for the end too.
        """
        if self._folder is not None:
            self.complete()
            wishes = ranks.gathered(lambda: interrupts.wanted() or self.late(AT_END))
            if any(wish is True for wish in wishes):
                self.save_now()

    def save_now(self) -> None:
        """Save the state, unless it is the one that was saved last; a failure is said."""
        if self._folder is None or self._state is None:
            return
        with agreement.loop():
            self.complete()
            self._say(self._begin(self._folder, self._state, beside=False))
            self.complete()
        self._last = time.monotonic()

    def begin(self) -> None:
        """Begin to save the state; the training goes on meanwhile, where there is memory for a copy."""
        if self._folder is None or self._state is None:
            return
        began = time.monotonic()
        with agreement.loop():
            self.complete()
            self._say(self._begin(self._folder, self._state, beside=True))
        self._last = time.monotonic()
        self._cost = self._last - began

    def writing(self) -> bool:
        """Whether this rank is still writing."""
        return self._begun is not None and not self._begun.files.done()

    def after_exchange(self, late: bool, writing: bool) -> bool:
        """Whether to begin, by time; completes what was begun once all ranks have written; each step.

        late, writing: whether any rank was, at the call of `exchange` before.
        """
        self._age += 1
        self.trained = True
        if self._age < SETTLED:
            return False
        if not writing and self._begun is not None:
            began = time.monotonic()
            self.complete()
            self._cost += time.monotonic() - began
        return late

    def _begin(self, folder: Folder, state: State, beside: bool) -> str | None:
        """Begin to save the state; what prevents it. A failure of one rank is one of all."""
        made: list[tuple[int, dict[str, Any]]] = []
        self._age = 0

        def take() -> bool:
            made.append(state())
            return self._needed < SPARE * memory.available()

        fits, wrong = folders.attempt(take)
        if wrong is not None:
            return wrong
        step, values = made[0]
        if step == self._step and not values["pending"]:
            return None
        watchdog.beat()
        begun = folder.begin(step, values, beside and all(fits))
        if isinstance(begun, str):
            return begun
        self._begun = begun
        return None

    def complete(self) -> None:
        """Wait for what was begun, if anything was; a failure is said."""
        if self._folder is None or self._begun is None:
            return
        begun, self._begun = self._begun, None
        with agreement.loop():
            wrong = self._folder.complete(begun)
            if wrong is None:
                self._step = begun.step
                _, wrong = folders.attempt(self._saved, main_only=True)
        self._say(wrong)

    def _say(self, wrong: str | None) -> None:
        if wrong is not None:
            ranks.say(f"WARNING: no checkpoint is written here: {wrong}")

    def close(self) -> None:
        """Save no more: the engine is about to go. What is being written is given up."""
        self._state = None
        if self._begun is not None:
            self._begun.abandon()
            self._begun = None
