"""Signals end a program in one line, without a traceback, on every rank; a training saves first.

The signal wakes a thread (`signal.set_wakeup_fd`), because Python runs no handler while the main thread
is inside an import or waits for other ranks. Inside `loop` the thread only records that the end is
wanted: the loop finishes its step, saves and raises `Interrupted`, in `GRACE` seconds at most after a
signal that a kill follows. Elsewhere, and at a second Ctrl-C, the program ends at once; unfinished
files have temporary names.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from compress.errors import Interrupted, UserError, fail
from compress.files.processes import Process
from compress.runtime import launcher_watch, launchers, terminal

RANK_VARIABLES = ("RANK", *launchers.MPI, "SLURM_PROCID")
"""Where launchers write the rank of a process: deepspeed's, mpirun's, srun's."""
AGAIN = 75
"""Exit code of a run that was interrupted and that the same command continues (EX_TEMPFAIL)."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)
MORE = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""What job schedulers send ahead of the end, and what the end of a terminal or of ssh sends."""
IGNORABLE = (signal.SIGINT, signal.SIGHUP)
"""What a shell (in the background) or `nohup` lets a process ignore."""
GRACE, PATIENCE, LOOK, TOGETHER = 25.0, 1.0, 1.0, 0.05
_message: list[Callable[[], str]] = [lambda: "interrupted"]
_before_end: list[Callable[[], None]] = []
_depth, _code = [0], [0]
_wanted, _hurried = threading.Event(), threading.Event()


def watch(resumes: bool = False) -> None:
    """End this process from now on in one line at a signal; to be called once, in the main thread.

    resumes: whether the same command continues: then every signal of `SIGNALS` and `MORE`, and the end
    of the launcher, gives exit code `AGAIN`, else Ctrl-C and SIGTERM give 130 and 143. A process that
    was started to ignore Ctrl-C (in the background) or SIGHUP (`nohup`) goes on ignoring it, unless it
    is Ctrl-C and a rank of a launcher, which passes that on. Writing to a terminal that is gone is no
    error from now on.
    """
    _code[0] = AGAIN if resumes else 0
    terminal.outlive()
    reading, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(reading, wakes), daemon=True, name="interrupts").start()
    for number in (*SIGNALS, *(MORE if resumes else ())):
        ignored = number in IGNORABLE and signal.getsignal(number) == signal.SIG_IGN
        if not ignored or (number == signal.SIGINT and "LOCAL_RANK" in os.environ):
            signal.signal(number, lambda *_: None)
    if resumes and (launchers := launcher_watch.ancestors()):
        watcher = threading.Thread(target=_watch_launcher, args=(launchers,), daemon=True)
        watcher.start()


def run(main: Callable[[], None], resumes: bool = False) -> None:
    """Run a command: a signal and a UserError end it in one line; resumes: as of `watch`."""
    watch(resumes)
    try:
        main()
    except UserError as error:
        fail(error)
    except Interrupted as error:
        _end(AGAIN, f"{error}\n")


@contextmanager
def loop() -> Iterator[None]:
    """Context of a loop that asks `wanted` with each step and raises `Interrupted` once it says so.

    One that comes to its own end first ends the process.
    """
    _depth[0] += 1
    try:
        yield
    finally:
        _depth[0] -= 1
    if not _depth[0] and _wanted.is_set():
        _end(AGAIN, f"{_message[0]()}\n")


def wanted() -> bool:
    """Whether a signal has asked this rank to end."""
    return _wanted.is_set()


def ended() -> Interrupted:
    """The exception that ends a loop; its text is the line for the place where the run is."""
    return Interrupted(_message[0]())


def set_message(line: Callable[[], str]) -> None:
    """Set the function that gives the main rank's line at the end; it is called in another thread."""
    _message[0] = line


def before_end(act: Callable[[], None]) -> None:
    """Add a function that is called, in another thread, before the process ends."""
    _before_end.append(act)


def _wait(reading: socket.socket, wakes: socket.socket) -> None:
    """Wait for signals; `wakes` is held so that it stays open.

    Ctrl-C counts before the SIGTERM that a launcher adds: of two that are pending the kernel lets the
    handler of the later one run first.
    """
    while received := reading.recv(64):
        if not _code[0]:  # else both end alike
            time.sleep(TOGETHER)
            with suppress(BlockingIOError):
                received += reading.recv(64, socket.MSG_DONTWAIT)
        for number in sorted(received):
            if number in (*SIGNALS, *(MORE if _code[0] else ())):
                _received(number)
    wakes.close()


def _received(number: int) -> None:
    """Let the loop end this process, or do it now: outside of one, and at a second Ctrl-C."""
    line = f"{_message[0]()}\n"
    if not _code[0]:
        _end(128 + number, line if number == signal.SIGINT else "")
    if not _depth[0] or (_wanted.is_set() and number == signal.SIGINT):
        _end(AGAIN, line)
    _want(hurries=number in SIGNALS)


def _want(hurries: bool = True) -> None:
    """Ask the loop to end; hurries: the process is killed soon, so that it ends by itself before."""
    _wanted.set()
    if hurries and not _hurried.is_set():
        _hurried.set()
        late = threading.Timer(GRACE, lambda: _end(AGAIN, f"{_message[0]()}\n"))
        late.daemon = True
        late.start()


def _watch_launcher(launchers: list[Process]) -> None:
    """End once a launcher has: nothing else would end this rank."""
    launcher_watch.wait_for_end(launchers, LOOK)
    if not _depth[0]:
        _end(AGAIN, f"{_message[0]()}\n")
    _want()


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
