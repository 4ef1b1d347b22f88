"""When it is time to keep again what a pass over a split has computed."""

import time

from compress.runtime import ranks


class Due:
    """Minutes since the last time."""

    def __init__(self, minutes: float | None) -> None:
        """minutes: between two times; None: it is never time."""
        self._minutes, self._last = minutes, time.monotonic()

    def now(self) -> bool:
        """Whether it is time, said once of each; False on all ranks but the main one."""
        if self._minutes is None or not ranks.is_main():
            return False
        now = time.monotonic()
        due = now - self._last >= 60 * self._minutes
        self._last = now if due else self._last
        return due
