"""How a result was made: versions, device, processes, memory, command; whether it may be reused.

Only other versions of `DECISIVE` packages forbid that, or of those among them that a stage names.
Another device or number of processes rounds differently, and no more.
"""

from __future__ import annotations

import resource
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compress.runtime import versions

if TYPE_CHECKING:
    import torch

DECISIVE = ("torch", "transformers", "deepspeed")
Origin = Mapping[str, Any]
UNKNOWN: Origin = {
    "versions": {},
    "device": "unknown",
    "ranks": "unknown",
    "peak_memory_bytes": {},
    "command": "unknown",
}
"""Of a result that does not say how it was made, or not all of it."""


def now(device: torch.device) -> dict[str, Any]:
    """Of a result that this process has just made; memory: the largest of this process, in bytes."""
    import torch

    from compress.runtime import ranks

    memory = {"host": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    if device.type == "cuda":
        memory["device"] = torch.cuda.max_memory_allocated(device)
    return {
        "versions": versions.report(),
        "device": str(device),
        "ranks": ranks.world_size(),
        "peak_memory_bytes": memory,
        "command": shlex.join(sys.argv),
    }


def begin(device: torch.device) -> None:
    """Count the peak of the device's memory from now on; that of the host is of the whole process."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def readable(origin: object) -> bool:
    """Whether a value has the shape of what `now` gives; what it may lack is in `UNKNOWN`."""
    if not isinstance(origin, dict):
        return False
    count, memory = origin.get("ranks"), origin.get("peak_memory_bytes", {})
    return (
        _is_table(origin.get("versions"), str)
        and isinstance(origin.get("device"), str)
        and isinstance(count, int)
        and count >= 1
        and _is_table(memory, (int, float))
    )


def _is_table(value: object, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, dict) and all(isinstance(one, kinds) for one in value.values())


def difference(origin: Origin, decisive: Sequence[str] = DECISIVE) -> str | None:
    """How the versions of these packages differ between a result and now; None if they do not."""
    made, installed = origin.get("versions", {}), versions.report()
    pairs = {name: (_release(made.get(name)), _release(installed.get(name))) for name in decisive}
    changed = [f"{name} {old} (now {new})" for name, (old, new) in pairs.items() if old != new]
    return " and ".join(changed) or None


def decisive() -> dict[str, str]:
    """The installed releases of the decisive packages."""
    installed = versions.report()
    return {name: _release(installed.get(name)) for name in DECISIVE}


def _release(version: str | None) -> str:
    """Major, minor and patch: without the build, such as `+cpu`."""
    return (version or "unknown").partition("+")[0]


def decide(
    what: str, origin: Origin, accepted: bool, decisive: Sequence[str] = DECISIVE
) -> tuple[bool, str | None]:
    """Whether a result of other versions of these packages may be reused, and the line that says so."""
    other = difference(origin, decisive)
    if other is None:
        return True, None
    if accepted:
        return True, f"{what}: reused though made with {other} (--accept_versions)"
    return False, f"{what}: not reused, because made with {other}; --accept_versions reuses it"


def by_versions(origins: Mapping[str, Origin]) -> list[tuple[list[str], Mapping[str, str]]]:
    """Names of the stages that were made with the same versions, and these, in order."""
    stages: list[tuple[list[str], Mapping[str, str]]] = []
    for name, origin in origins.items():
        for names, known in stages:
            if known == origin["versions"]:
                names.append(name)
                break
        else:
            stages.append(([name], origin["versions"]))
    return stages


def sentence(origin: Origin) -> str:
    """Such as `torch 2.13.0, transformers 5.23.0, deepspeed 0.19.6 on cpu, 2 processes`."""
    count = origin["ranks"]
    if count == UNKNOWN["ranks"]:
        return packages(origin)
    return f"{packages(origin)} on {origin['device']}, {count} process{'es' * (count != 1)}"


def packages(origin: Origin) -> str:
    """The decisive packages with their versions."""
    return ", ".join(f"{name} {origin['versions'].get(name, 'unknown')}" for name in DECISIVE)
