"""What one host says of itself; `python -m compress.doctor.facts` prints it as JSON.

It reads a file that the asking machine has written to the output directory and writes one of its own,
which that machine reads.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

PATIENCE = 30.0
"""Seconds that a file of another host may take to appear."""


@dataclass(frozen=True)
class Gpu:
    """Bytes of memory."""

    name: str
    free: int
    total: int


@dataclass(frozen=True)
class Facts:
    """Of one host.

    versions: by package; device: "cuda", "cpu" ...; threads: of a rank (OMP_NUM_THREADS); memory,
    disk: bytes free; first: the address that DeepSpeed's launcher would choose; named: the address that
    the host's own name stands for, "" if none; interfaces: IPv4 address by name, of those that are up;
    busy: whether the port of the ranks is taken; port: another one that is free; shared: why the file
    system is not shared, "" if it is.
    """

    name: str
    versions: Mapping[str, str]
    device: str
    gpus: tuple[Gpu, ...]
    cores: int
    threads: int
    memory: int
    disk: int
    first: str
    named: str
    interfaces: Mapping[str, str]
    busy: bool
    port: int
    shared: str

    @staticmethod
    def read(text: str) -> "Facts":
        """From the JSON of `write`; ValueError, KeyError or TypeError if it is none."""
        values = json.loads(text)
        return Facts(**{**values, "gpus": tuple(Gpu(**gpu) for gpu in values["gpus"])})

    def write(self) -> str:
        """As JSON in one line."""
        return json.dumps(asdict(self))


def gather(folder: Path, token: str, host: str, port: int, patience: float = PATIENCE) -> Facts:
    """The facts of this host; it is called `host` in the hostfile. port: of the ranks."""
    from compress.configuration import machine
    from compress.files import disk
    from compress.runtime import launchers, versions

    addresses, device = dict(launchers.interfaces()), machine.device()
    cores = len(os.sched_getaffinity(0))
    return Facts(
        name=socket.gethostname(),
        versions=versions.report(),
        device=device,
        gpus=tuple(_gpus() if device == "cuda" else ()),
        cores=cores,
        threads=_threads() or cores,
        memory=_memory(),
        disk=disk.free(folder) or 0,
        first=_first(addresses),
        named=_named(),
        interfaces=addresses,
        busy=not _free(port),
        port=launchers.free_port(),
        shared=exchange(folder, token, host, patience),
    )


def exchange(folder: Path, token: str, host: str, patience: float) -> str:
    """Read the asking machine's file and write this host's; why that fails, "" if it does not."""
    asked, answer = folder / f".doctor-{token}", folder / f".doctor-{token}-{host}"
    try:
        if not appears(asked, patience):
            return f"a file written to {folder} on the first machine cannot be seen here"
        answer.write_text(token, encoding="utf-8")
    except OSError as error:
        return f"{folder} cannot be written to ({error.strerror})"
    return ""


def appears(file: Path, seconds: float) -> bool:
    """Whether a file of another host is to be seen, waiting for the caches of a network file system."""
    until = time.monotonic() + seconds
    while not file.exists():
        if time.monotonic() > until or not file.parent.is_dir():
            return False
        list(file.parent.iterdir())
        time.sleep(0.2)
    return True


def _gpus() -> list[Gpu]:
    import torch

    found = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        found.append(Gpu(torch.cuda.get_device_name(number), free, total))
    return found


def _threads() -> int:
    """Threads of a rank by this host's environment; 0 if it does not say: then one for each core."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(first) if first.isdecimal() else 0


def _memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return 0


def _first(addresses: Mapping[str, str]) -> str:
    """As deepspeed/launcher/runner.py: the first of `hostname -I`."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True)
        if words := done.stdout.split():
            return words[0]
    return next((a for a in addresses.values() if not a.startswith("127.")), "127.0.0.1")


def _named() -> str:
    with suppress(OSError):
        return socket.gethostbyname(socket.gethostname())
    return ""


def _free(port: int) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("", port))
        except OSError:
            return False
    return True


def main() -> None:
    """Print the facts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--patience", type=float, default=PATIENCE)
    facts = gather(**vars(parser.parse_args()))
    sys.stdout.write(f"{facts.write()}\n")


if __name__ == "__main__":
    main()
