"""Limits that a container or a scheduler sets on this process (control groups, version 2)."""

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUP, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def folders() -> Iterator[Path]:
    """The control group of this process and those above it; none where there are no control groups."""
    with suppress(OSError, StopIteration):
        lines = OWN_CGROUP.read_text(encoding="utf-8").splitlines()
        own = CGROUP / next(line[3:] for line in lines if line.startswith("0::")).lstrip("/")
        yield from (own, *own.parents)


def cpus() -> int | None:
    """Processors that the limits allow at once, rounded up; None without a limit."""
    found = []
    for folder in folders():
        with suppress(OSError, ValueError):  # "max": no limit
            quota, period = map(int, (folder / "cpu.max").read_text(encoding="utf-8").split())
            found.append(math.ceil(quota / period))
    return min(found, default=None)
