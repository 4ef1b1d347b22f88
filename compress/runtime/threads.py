"""Whether the ranks of a host without GPUs have more threads than it has cores for them."""

import os
import socket
from collections import defaultdict

import torch

from compress.runtime import cgroups, ranks

Rank = tuple[str, int, frozenset[int], int | None]
"""Host, threads, cores that the rank may run on, and how many its control group lets it use at once."""


def note(device: torch.device) -> str:
    """A line about the host with the most threads too many, or an empty one; all ranks call it."""
    if device.type != "cpu":
        return ""
    return sentence([rank for rank in ranks.gathered(_own) if not isinstance(rank, str)])


def sentence(found: list[Rank]) -> str:
    """The line for these ranks; empty where every thread has a core."""
    if not found:
        return ""
    hosts = defaultdict[str, list[Rank]](list)
    for rank in found:
        hosts[rank[0]].append(rank)
    threads = {host: sum(rank[1] for rank in own) for host, own in hosts.items()}
    cores = {host: _cores(own) for host, own in hosts.items()}
    worst = max(hosts, key=lambda host: threads[host] / cores[host])
    if threads[worst] <= cores[worst]:
        return ""
    count, most = len(hosts[worst]), cores[worst]
    who = f"{count} ranks have" if count > 1 else "one rank has"
    there = f"{most} core{'s' * (most > 1)}"
    fits = count <= most
    advice = f"set OMP_NUM_THREADS={most // count}" if fits else "start no more ranks than cores there"
    return (
        f"note: {worst}: {who} {threads[worst]} threads on {there}, which slows every step; {advice}."
    )


def _cores(own: list[Rank]) -> int:
    """Cores of the ranks of one host together."""
    limits = [limit for *_, limit in own if limit is not None]
    return min([len(frozenset[int]().union(*(cores for _, _, cores, _ in own))), *limits])


def _own() -> Rank:
    """Of this rank."""
    here = frozenset(os.sched_getaffinity(0))
    return socket.gethostname(), torch.get_num_threads(), here, cgroups.cpus()
