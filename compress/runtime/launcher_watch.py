"""Whether the programs that started this rank still run.

`deepspeed` starts a launcher for each host, and that the ranks; a study starts `deepspeed`. If the
launcher is killed, or `deepspeed` or the study, which do not end what they have started, the ranks
would train on unknown to anyone, and the same command would find their directory in use.
"""

import os
import time
from pathlib import Path

from compress.files import processes
from compress.files.processes import Process

RUNNER = "deepspeed"
STUDY = "ROBUST_COMPRESSION_STUDY"
"""Variable in which a study tells the runs that it starts which process it is, by its label."""


def ancestors() -> list[Process]:
    """The launcher that started this rank; on this host `deepspeed` and a study, if they started that.

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
    study = processes.of_label(os.environ.get(STUDY, ""))
    return found if study is None else [*found, study]


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
