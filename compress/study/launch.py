"""Start the runs of a study through the `deepspeed` launcher: skip, go on after a failure, list it.

Runs of one task and seed share a teacher and a difficulty, so they form a unit: a unit stays on one
machine (`--shard`) and its runs follow one another; units may run side by side (`--jobs`).
"""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import torch

from compress.errors import UserError
from compress.study.plan import Run

TRAIN = Path(__file__).parents[2] / "train.py"


@dataclass(frozen=True)
class Machine:
    """How runs are started here: processes of a run, runs side by side, more words for `deepspeed`."""

    processes: int
    jobs: int
    launcher: str = ""

    def environment(self) -> dict[str, str]:
        """The environment of a run: on a CPU all processes share the cores (or OMP_NUM_THREADS)."""
        found = dict(os.environ)
        if not torch.cuda.is_available():
            cores = len(os.sched_getaffinity(0))
            threads = max(1, cores // (self.processes * self.jobs))
            found = {"OMP_NUM_THREADS": str(threads), **found, "DS_ACCELERATOR": "cpu"}
        return found

    def command(self, run: Run) -> list[str]:
        """The command line of a run, on a port of its own."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        return [
            *(_launcher(), "--num_accelerators", str(self.processes), "--master_port", str(port)),
            *shlex.split(self.launcher),
            *(str(TRAIN), "--deepspeed_config", *map(str, run.files)),
            *("--set", *run.overrides, "--output_dir", str(run.output_dir)),
        ]


def _launcher() -> str:
    """The `deepspeed` command: beside this interpreter, or else on the path."""
    beside = Path(sys.executable).with_name("deepspeed")
    found = str(beside) if beside.is_file() else shutil.which("deepspeed")
    if found is None:
        raise UserError(f"there is no `deepspeed` command beside {sys.executable} or on the path.")
    return found


def default_processes() -> int:
    """All GPUs, as far as they are a power of 2, which divides the batch; 2 processes on a CPU."""
    gpus = torch.cuda.device_count()
    return 1 << (gpus.bit_length() - 1) if gpus else 2


def finished(run: Run) -> bool:
    """Whether the run has its figures; UserError if they belong to another configuration."""
    place = run.output_dir
    if not (place / "metrics.json").is_file() or not (place / "hits.npz").is_file():
        return False
    try:
        same = json.loads((place / "config.json").read_text(encoding="utf-8")) == run.config.merged
    except (OSError, ValueError) as error:
        raise UserError(f"{place / 'config.json'}: cannot be read ({error}).") from None
    if not same:
        raise UserError(
            f"{place}: holds a run of another configuration; choose another --output_dir or delete it."
        )
    return True


def units(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs by task and seed, in their order."""
    return [list(group) for _, group in groupby(runs, key=lambda run: (run.task, run.seed))]


def shard(runs: Sequence[Run], text: str) -> list[Run]:
    """The runs of shard i of n ("i/n", counted from 1): every n-th unit.

    Raises UserError if the text is not i/n, or if there are fewer units than shards.
    """
    try:
        number, count = (int(part) for part in text.split("/"))
    except ValueError:
        raise UserError(f"--shard {text}: give it as i/n, such as 1/4.") from None
    found = units(runs)
    if not 1 <= number <= count:
        raise UserError(f"--shard {text}: i goes from 1 to n.")
    if count > len(found):
        raise UserError(
            f"--shard {text}: the study has {len(found)} teachers (task x seed), so at most as many "
            "shards."
        )
    return [run for unit in found[number - 1 :: count] for run in unit]


@dataclass
class Progress:
    """Lines on the terminal, with the time left; safe for several threads."""

    total: int
    jobs: int
    done: int = 0
    seconds: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self, name: str, outcome: str, seconds: float | None = None) -> None:
        """Count a run and print its line; seconds: of a run that was really made."""
        with self.lock:
            self.done += 1
            left = ""
            if seconds is not None:
                self.seconds.append(seconds)
            if self.seconds and self.done < self.total:
                mean = sum(self.seconds) / len(self.seconds)
                left = f"; about {_duration(mean * (self.total - self.done) / self.jobs)} left"
            sys.stdout.write(f"[{self.done:>3}/{self.total}] {name}: {outcome}{left}\n")
            sys.stdout.flush()


def execute(runs: Sequence[Run], machine: Machine, logs: Path) -> dict[str, str]:
    """Make every run that is not finished; the last word of each that failed, by name.

    logs: folder for what the runs print. Raises UserError, before anything is started, if a place
    belongs to another configuration.
    """
    ready = {run.name for run in runs if finished(run)}
    logs.mkdir(parents=True, exist_ok=True)
    progress, failed = Progress(len(runs), machine.jobs), {}

    def one(run: Run) -> None:
        if run.name in ready:
            progress.report(run.name, "finished before")
            return
        began, log = time.perf_counter(), logs / f"{run.name.replace('/', '_')}.log"
        with log.open("w", encoding="utf-8") as target:
            words, environment = machine.command(run), machine.environment()
            done = subprocess.run(words, stdout=target, stderr=target, env=environment, check=False)
        seconds = time.perf_counter() - began
        if done.returncode == 0 and finished(run):
            progress.report(run.name, f"done in {_duration(seconds)}", seconds)
            return
        failed[run.name] = _last_word(log)
        progress.report(run.name, f"failed after {_duration(seconds)} ({log})", seconds)

    def follow(unit: Sequence[Run]) -> None:
        for run in unit:
            one(run)

    with ThreadPoolExecutor(machine.jobs) as pool:
        list(pool.map(follow, units(runs)))
    return failed


def _last_word(log: Path) -> str:
    """The error of a run as its log tells it."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else (lines[-1] if lines else "no output")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
