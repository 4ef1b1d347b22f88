"""Ctrl-C ends a program in one line, with exit code 130 and no traceback, on every rank.

The signal wakes a thread (`signal.set_wakeup_fd`), because Python runs no handler while the main thread
is inside an import or waits for other ranks. SIGTERM, which the launcher sends right after Ctrl-C, is
watched too, so that it does not cut off the line. Nothing is unwound: unfinished files have temporary
names.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

from compress.errors import UserError, fail

RANK_VARIABLES = (
    "RANK",
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
    "PMIX_RANK",
    "MV2_COMM_WORLD_RANK",
    "SLURM_PROCID",
)
"""Where launchers write the rank of a process: deepspeed's, mpirun's, srun's."""
PATIENCE = 1.0
_message: list[Callable[[], str]] = [lambda: "interrupted"]
_before_end: list[Callable[[], None]] = []


def watch() -> None:
    """End this process from now on in one line at Ctrl-C; to be called once, in the main thread.

    A process that was started to ignore Ctrl-C (in the background) goes on ignoring it, unless it is a
    rank of a launcher, which passes Ctrl-C on.
    """
    reading, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(reading, wakes), daemon=True, name="interrupts").start()
    watched = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN or "LOCAL_RANK" in os.environ:
        watched.append(signal.SIGINT)
    for number in watched:
        signal.signal(number, lambda *_: None)


def run(main: Callable[[], None]) -> None:
    """Run a command: Ctrl-C and a UserError end it in one line."""
    watch()
    try:
        main()
    except UserError as error:
        fail(error)


def set_message(line: Callable[[], str]) -> None:
    """Set the function that gives the main rank's line at Ctrl-C; it is called in another thread."""
    _message[0] = line


def before_end(act: Callable[[], None]) -> None:
    """Add a function that is called, in another thread, before the process ends."""
    _before_end.append(act)


def _wait(reading: socket.socket, wakes: socket.socket) -> None:
    """Wait for a signal and end the process; `wakes` is held so that it stays open."""
    while received := reading.recv(64):
        if signal.SIGINT in received:
            _end(130, f"{_message[0]()}\n")
        elif signal.SIGTERM in received:
            _end(128 + signal.SIGTERM, "")
    wakes.close()


def _end(code: int, line: str) -> None:
    """Write the line if this is the main rank, and what is waiting in the streams; end at once.

    A stream that another thread holds may block: then the process ends after `PATIENCE` seconds.
    """
    late = threading.Timer(PATIENCE, os._exit, (code,))
    late.daemon = True
    late.start()
    for act in _before_end:
        act()
    if line and all(os.environ.get(name, "0") == "0" for name in RANK_VARIABLES):
        sys.stdout.flush()
        sys.stderr.write(line)
    sys.stderr.flush()
    os._exit(code)
