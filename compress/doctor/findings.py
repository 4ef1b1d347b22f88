"""What the facts of all hosts mean for a run: rows of a table, and what to do about what is wrong."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.doctor.bandwidth import Speed
from compress.doctor.facts import Facts
from compress.doctor.hosts import Hosts
from compress.files.disk import size
from compress.runtime import versions

SLOW = 0.1e9
"""Bytes a second between hosts below which summing takes longer than most steps: a 1 Gbit/s line."""
BUSY_GPU = 0.1
"""Share of a GPU's memory that may be in use before a run starts."""
COPIES = 12
"""Room for checkpoints, in weights of the model: teacher, students, and two states with the moments of
the optimiser, the old one and the one that is being written."""
LEAST_DISK = 2e9
"""Bytes that are wanted where the model is not known."""
SHOWN = ("python", "deepspeed", "torch", "transformers")


@dataclass(frozen=True)
class Finding:
    """A row of the table: what was looked at, where, what was found; advice: what to do, "" if well."""

    check: str
    where: str
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Silent:
    """Why a host gave no facts; reached: whether ssh came to the command."""

    why: str
    reached: bool


def of_hosts(hosts: Hosts, facts: Mapping[str, Facts | Silent], port: int) -> list[Finding]:
    """Rows on each host, by check; facts: of each host, or why there are none.

    Only hosts that answered are compared.
    """
    known = {host: found for host, found in facts.items() if isinstance(found, Facts)}
    rows = [*_answers(hosts, facts)]
    if known:
        rows += [*_versions(known), *_devices(hosts, known), *_shared(hosts, known)]
        rows += [*_interfaces(hosts, known), *_ports(known, port)]
    return rows


def _answers(hosts: Hosts, facts: Mapping[str, Facts | Silent]) -> Iterator[Finding]:
    for host, found in facts.items():
        if isinstance(found, Facts):
            yield Finding("reached", host, f"answers as {found.name}")
        elif hosts.local or found.reached:
            advice = (
                f"{host}: {Path.cwd()} and {sys.executable} must be there under the same path, with "
                "the same packages"
            )
            yield Finding("reached", host, f"fails: {found.why}", advice)
        else:
            advice = (
                f"{host}: make `ssh {host}` work from here without a password (ssh-copy-id {host}), or "
                "correct the hostfile"
            )
            yield Finding("reached", host, f"no ssh: {found.why}", advice)


def of_pdsh(there: bool) -> Finding:
    """Whether this machine can start ranks on several hosts; DeepSpeed's launcher does it with pdsh."""
    advice = "" if there else "here: run: apt-get install pdsh"
    return Finding("pdsh", "here", "installed" if there else "not installed", advice)


def _versions(known: Mapping[str, Facts]) -> Iterator[Finding]:
    first, model = next(iter(known.items()))
    for host, facts in known.items():
        text = ", ".join(f"{name} {facts.versions.get(name, '-')}" for name in SHOWN)
        differing = [
            f"{name} {facts.versions.get(name, '-')} (there {version})"
            for name, version in model.versions.items()
            if facts.versions.get(name) != version
        ]
        advice = ""
        if differing:
            advice = f"{host}: install the packages of {first}: {', '.join(differing)}"
        elif (facts.versions.get("deepspeed") or "").split("+")[0] not in versions.DEEPSPEED:
            advice = f"{host}: run: pip install deepspeed=={versions.DEEPSPEED[0]}"
        yield Finding("versions", host, text, advice)


def _devices(hosts: Hosts, known: Mapping[str, Facts]) -> Iterator[Finding]:
    kinds = {facts.device for facts in known.values()}
    for host, facts in known.items():
        slots = hosts.slots[host]
        if len(kinds) > 1:
            advice = (
                f"{host}: has the device {facts.device} and others another; set DS_ACCELERATOR alike"
            )
        elif facts.device == "cuda" and len(facts.gpus) < slots:
            advice = f"{host}: lower slots={slots} to its {len(facts.gpus)} GPUs"
        else:
            advice = ""
        if facts.device != "cuda":
            text = f"{facts.device}, {facts.cores} cores, {size(facts.memory)} of memory free"
            yield Finding("device", host, f"{text}, for {slots} rank{'s' * (slots > 1)}", advice)
            yield _threads(host, facts, slots, hosts.local)
            continue
        yield Finding("device", host, f"{len(facts.gpus)} GPUs for {slots} ranks", advice)
        for number, gpu in enumerate(facts.gpus):
            used = gpu.free < (1 - BUSY_GPU) * gpu.total
            yield Finding(
                "GPU memory",
                host,
                f"GPU {number} {gpu.name}: {size(gpu.free)} free of {size(gpu.total)}",
                f"{host}: another program uses GPU {number} (nvidia-smi names it)" if used else "",
            )


def _threads(host: str, facts: Facts, slots: int, local: bool) -> Finding:
    """Whether ranks of a host without GPUs have a core for each thread; local: train.sh sets that."""
    text = f"{facts.threads} a rank, {facts.cores} cores for {slots} rank{'s' * (slots > 1)}"
    right = max(1, facts.cores // slots)
    advice = (
        f"{host}: its ranks have more threads than cores, which makes them several times slower; write "
        f"OMP_NUM_THREADS={right} to .deepspeed_env"
    )
    wrong = not local and facts.threads > right
    return Finding("threads", host, text, advice if wrong else "")


def _shared(hosts: Hosts, known: Mapping[str, Facts]) -> Iterator[Finding]:
    for host, facts in known.items():
        found = "written here, read there, and the reverse"
        if hosts.local:
            found = "can be written to"
        advice = (
            f"{host}: {facts.shared}; give an --output_dir on a file system that all hosts share"
            if facts.shared
            else ""
        )
        yield Finding("output directory", host, "not shared" if facts.shared else found, advice)


def _interfaces(hosts: Hosts, known: Mapping[str, Facts]) -> Iterator[Finding]:
    """Which network interface the ranks would use; often a host's name stands for 127.0.1.1."""
    environment = hosts.environment()
    for host, facts in known.items():
        outer = {n: a for n, a in facts.interfaces.items() if not a.startswith("127.")}
        text = ", ".join(f"{name} {address}" for name, address in outer.items()) or "none"
        asked = environment.get("GLOO_SOCKET_IFNAME", "")
        other = environment.get("NCCL_SOCKET_IFNAME", "")
        advice = ""
        if asked and (missing := [n for n in asked.split(",") if n not in facts.interfaces]):
            advice = f"{host}: has no interface {missing[0]} (GLOO_SOCKET_IFNAME); it has {text}"
        elif other and not _matches(other, facts.interfaces):
            advice = f"{host}: has no interface that NCCL_SOCKET_IFNAME={other} means; it has {text}"
        elif len(hosts.slots) > 1 and not outer:
            advice = f"{host}: is connected to no network"
        elif len(hosts.slots) > 1 and not asked and facts.named not in outer.values():
            named = facts.named or "nothing"
            advice = (
                f"{host}: its name stands for {named}, which others cannot reach; write "
                f"GLOO_SOCKET_IFNAME={next(iter(outer))} to .deepspeed_env, or mend /etc/hosts"
            )
        yield Finding("network", host, text + (f", asked for {asked}" if asked else ""), advice)


def _matches(asked: str, interfaces: Sequence[str] | Mapping[str, str]) -> bool:
    """Whether NCCL finds an interface: beginnings of names, `=` for whole names, `^` for all others."""
    rule, names = asked[:1], asked.lstrip("^=").split(",")
    if rule == "=":
        return any(name in interfaces for name in names)
    hits = [any(one.startswith(name) for name in names) for one in interfaces]
    return not all(hits) if rule == "^" else any(hits)


def _ports(known: Mapping[str, Facts], port: int) -> Iterator[Finding]:
    host, facts = next(iter(known.items()))
    advice = (
        f"{host}: port {port} is taken; start with --master_port {facts.port}" if facts.busy else ""
    )
    yield Finding("port", host, f"{port} is {'taken' if facts.busy else 'free'}", advice)


def of_disk(host: str, free: int, weights: int | None) -> Finding:
    """Whether checkpoints fit; weights: bytes of the model in float32, None if it is not known."""
    wanted = COPIES * weights if weights else LEAST_DISK
    text = f"{size(free)} free, {size(wanted)} wanted for checkpoints"
    advice = f"{host}: free {size(wanted - free)} on the disk of --output_dir, or choose another"
    return Finding("disk", host, text, advice if free < wanted else "")


def of_speed(hosts: Hosts, speed: Speed | str) -> Finding:
    """The all-reduce: its speed, or why there was none."""
    single = len(hosts.slots) == 1
    where = "2 processes" if single else f"{len(hosts.slots)} hosts"
    if isinstance(speed, str):
        advice = (
            f"the ranks did not meet ({speed}); name the interface between the hosts in .deepspeed_env "
            "(GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME), open the firewall between them, or give "
            "--master_addr"
        )
        return Finding("all-reduce", where, "failed", advice)
    text = f"{speed.backend}: {speed.bandwidth / 1e9:.2f} GB/s, {1e6 * speed.latency:.0f} us"
    slow = speed.bandwidth < SLOW and not single
    advice = (
        f"the hosts exchange {speed.bandwidth / 1e6:.0f} MB/s, too slow to train with; name a faster "
        "interface in .deepspeed_env (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)"
    )
    return Finding("all-reduce", where, text, advice if slow else "")


def table(rows: Sequence[Finding]) -> str:
    """All rows, in columns."""
    cells = [("check", "where", "found", "")]
    cells += [(r.check, r.where, r.found, "WRONG" if r.advice else "ok") for r in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "-" * sum(widths), *lines[1:]])
