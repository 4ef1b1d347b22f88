"""The process that made a file, and whether it still runs: for locks and unfinished results.

A process is named by its machine (host name, boot, process-id namespace), its id and its start, so that
another process with the same id, or one in a container of the same name, is not taken for it.
"""

import os
import re
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

GONE = ("Z", "X")
"""States in /proc of a process that has ended and waits for its parent to notice."""


@dataclass(frozen=True)
class Process:
    """host: name of the machine; machine: hash of its boot and namespace; started: ticks after boot."""

    host: str
    machine: str
    pid: int
    started: int

    @property
    def local(self) -> bool:
        """Whether it is of this machine, so that its id can be looked up."""
        return (self.host, self.machine) == (this().host, this().machine)

    @property
    def ended(self) -> bool | None:
        """Whether it has ended; None if that cannot be told from this machine."""
        if not self.local:
            return None
        started = _started(self.pid)
        if started is not None:
            return started != self.started
        return not _answers(self.pid)

    @property
    def label(self) -> str:
        """The same as part of a file name: letters, digits, hyphens and two dots."""
        host = re.sub(r"[^A-Za-z0-9]", "-", self.host)[:40]
        return f"{host}_{self.machine}.{self.pid}.{self.started}"

    def as_json(self) -> dict[str, Any]:
        """Its fields, for a JSON file."""
        return asdict(self)


def of_json(values: object) -> Process | None:
    """The process that `as_json` described, None if the values describe none."""
    if not isinstance(values, dict):
        return None
    kinds = {"host": str, "machine": str, "pid": int, "started": int}
    if any(not isinstance(values.get(name), kind) for name, kind in kinds.items()):
        return None
    return Process(**{name: values[name] for name in kinds})


LABEL = re.compile(r"([A-Za-z0-9-]*)_([0-9a-f]{8})\.(\d+)\.(\d+)")


def of_label(text: str) -> Process | None:
    """The process of a file name's `label`, None without one."""
    match = LABEL.fullmatch(text)
    if match is None:
        return None
    host, machine, pid, started = match.groups()
    if f"{host}_{machine}" == this().label.partition(".")[0]:
        host = this().host
    return Process(host, machine, int(pid), int(started))


def this() -> Process:
    """This process."""
    return _of(os.getpid())


def of_pid(pid: int) -> Process | None:
    """The running process of this machine with an id; None without one, or without /proc."""
    started = _started(pid)
    if started is None or started < 0:
        return None
    return Process(socket.gethostname(), _machine(), pid, started)


@cache
def _of(pid: int) -> Process:
    return Process(socket.gethostname(), _machine(), pid, _started(pid) or 0)


@cache
def _machine() -> str:
    """Eight hexadecimal digits that change with the boot and the process-id namespace."""
    facts = ""
    with suppress(OSError):
        facts = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        facts += str(Path("/proc/self/ns/pid").readlink())
    return sha256(facts.encode()).hexdigest()[:8]


def parent(pid: int) -> int | None:
    """Id of the parent of a process; None without one, or without /proc."""
    fields = _stat(pid)
    return int(fields[1]) or None if fields else None


def _stat(pid: int) -> list[str]:
    """What /proc says of a process from its state on; nothing without a process, or without /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _started(pid: int) -> int | None:
    """Start of a process in ticks after boot, -1 if it has ended; None on systems without /proc."""
    fields = _stat(pid)
    if not fields:
        return -1 if Path("/proc/self/stat").exists() else None
    return -1 if fields[0] in GONE else int(fields[19])


def _answers(pid: int) -> bool:
    """Whether a process of this id can be signalled; for systems without /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
