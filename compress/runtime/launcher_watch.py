"""Whether the programs that started this rank still run.

`deepspeed` starts a launcher for each host, and that the ranks. If the launcher is killed, or
`deepspeed` itself, which does not end its launcher, the ranks would train on unknown to anyone.
"""

import os
import time
from pathlib import Path

from compress.files import processes
from compress.files.processes import Process

RUNNER = "deepspeed"


def ancestors() -> list[Process]:
    """The launcher that started this rank, and `deepspeed` if that started the launcher on this host.

    Empty for a process that no launcher has started: its parent is a shell, which may end.
    """
    if "LOCAL_RANK" not in os.environ:
        return []
    launcher = processes.of_pid(os.getppid())
    found = [] if launcher is None else [launcher]
    above = None if launcher is None else processes.parent(launcher.pid)
    if above is not None and _is_runner(above):
        runner = processes.of_pid(above)
        found += [] if runner is None else [runner]
    return found


def wait_for_end(watched: list[Process], period: float) -> None:
    """Return once one of them has ended; never if there is none. period: seconds between two looks."""
    while not any(process.ended for process in watched):
        time.sleep(period)


def _is_runner(pid: int) -> bool:
    """Whether a process is the command `deepspeed`."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(Path(os.fsdecode(word)).name == RUNNER for word in words[:3])
