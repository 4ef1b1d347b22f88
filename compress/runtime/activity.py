"""Whether this process goes on, by the processor time that its threads and its child processes take.

How long the work of one rank takes is not known beforehand, and a library does not say how far it is.
But what waits for a disk or a server that does not answer takes no processor time.
"""

import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

SHARE, LEAST = 3e-4, 0.05
"""Of a core, and seconds: what threads take that only look at a clock now and then stays below."""
STORE = "pt_tcpstore"
"""Beginning of the name of torch's threads that answer other ranks."""
LOOKS = 20
"""How often the time is read before a process counts as still."""


class Activity:
    """What this process does while a thread looks at it."""

    def __init__(self, seconds: float) -> None:
        """seconds: after which a process that does nothing is still."""
        self._seconds = seconds
        self._since = self._looked = time.monotonic()
        self._used = _used()

    def still(self, beat: float) -> bool:
        """Whether it has done nothing for so long.

        beat: `time.monotonic()` when it is known to have done something.
        """
        now = time.monotonic()
        if now - self._looked < self._seconds / LOOKS:
            return False
        self._looked, used = now, _used()
        if abs(used - self._used) > LEAST + SHARE * (now - self._since):
            self._since, self._used = now, used
        return now - max(self._since, beat) > self._seconds


def _used() -> float:
    """Seconds of processor time of all threads but the calling one and the store's, and of children."""
    here, own = psutil.Process(), threading.get_native_id()
    threads = (t for t in here.threads() if t.id != own and not _name(t.id).startswith(STORE))
    total: float = sum(thread.user_time + thread.system_time for thread in threads)
    for child in here.children(recursive=True):
        with suppress(psutil.Error):
            times = child.cpu_times()
            total += times.user + times.system
    return total


def _name(thread: int) -> str:
    """Of a thread of this process, as far as the system tells."""
    with suppress(OSError):
        return Path(f"/proc/self/task/{thread}/comm").read_text(errors="replace")
    return ""
