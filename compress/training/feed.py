"""What the steps of a training need, made ahead of them by a thread."""

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
AHEAD = 2
"""Steps that are made ahead."""


class Feed(Generic[T]):
    """Gives what `make(step)` returns, step by step; goes on elsewhere if another step is asked for."""

    def __init__(self, make: Callable[[int], T], end: int) -> None:
        """make: called in the thread, in the order of the steps; end: number of steps."""
        self._make, self._end = make, end
        self._next = -1
        self._stop = threading.Event()
        self._ready: queue.Queue[T | Exception] = queue.Queue(AHEAD)

    def step(self, number: int) -> T:
        """What was made for a step; an error of `make` is raised here."""
        if number != self._next:
            self._start(number)
        self._next = number + 1
        found = self._ready.get()
        if isinstance(found, Exception):
            raise found
        return found

    def _start(self, number: int) -> None:
        self.close()
        self._stop, self._ready = threading.Event(), queue.Queue(AHEAD)
        work = (number, self._stop, self._ready)
        threading.Thread(target=self._run, args=work, daemon=True, name="feed").start()

    def _run(self, number: int, stop: threading.Event, ready: "queue.Queue[T | Exception]") -> None:
        """Fill the queue until the end, an error or `stop`."""
        for step in range(number, self._end):
            made: T | Exception
            try:
                made = self._make(step)
            except Exception as error:  # noqa: BLE001  raised where the step is asked for
                made = error
            while not stop.is_set():
                try:
                    ready.put(made, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if stop.is_set() or isinstance(made, Exception):
                return

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
