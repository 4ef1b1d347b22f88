"""Ctrl-C ends a program in one line, with exit code 130 and no traceback, on every rank.

The signal itself wakes a thread (`signal.set_wakeup_fd`), because the main thread may be inside an
import or wait for other ranks, where Python runs no handler. SIGTERM is watched beside it, since the
launcher sends it to every rank right after Ctrl-C and would cut the line short; it ends the process as
it does by default, silently. Nothing is unwound: what is half-written lies under a temporary name.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

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
_words: list[Callable[[], str]] = [lambda: "interrupted"]
_last: list[Callable[[], None]] = []


def watch() -> None:
    """End this process from now on in one line at Ctrl-C; to be called once, in the main thread.

    A process that was started to ignore Ctrl-C (in the background) goes on ignoring it, unless it is a
    rank of a launcher, which passes Ctrl-C on.
    """
    ours, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(ours, wakes), daemon=True, name="interrupts").start()
    watched = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN or "LOCAL_RANK" in os.environ:
        watched.append(signal.SIGINT)
    for number in watched:
        signal.signal(number, lambda *_: None)


def words(line: Callable[[], str]) -> None:
    """Set what gives the line that the main rank writes at Ctrl-C; called in another thread."""
    _words[0] = line


def before_end(act: Callable[[], None]) -> None:
    """Add what is done before the process ends, such as giving back a lock, in another thread."""
    _last.append(act)


def _wait(ours: socket.socket, wakes: socket.socket) -> None:
    """Wait for a signal and end the process; `wakes` is held so that it stays open."""
    while received := ours.recv(64):
        if signal.SIGINT in received:
            _end(130, f"{_words[0]()}\n")
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
    for act in _last:
        act()
    if line and all(os.environ.get(name, "0") == "0" for name in RANK_VARIABLES):
        sys.stdout.flush()
        sys.stderr.write(line)
    sys.stderr.flush()
    os._exit(code)
