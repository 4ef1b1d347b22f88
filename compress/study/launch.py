"""Start the runs of a study, those of several processes through the `deepspeed` launcher: skip what is
finished, go on after a failure, list it.

Which run may start when is for `compress.study.run_order` to say.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from compress.errors import UserError
from compress.files import artefacts, disk, ownership, processes
from compress.runtime import interrupts, launcher_watch, launchers, provenance
from compress.study.plan import Run
from compress.study.run_order import Schedule, pioneers

INTERRUPTED = (-2, -15, interrupts.AGAIN, 130, 143)
TRAIN = Path(__file__).parents[2] / "train.py"


def placement(launcher: str) -> dict[str, Any]:
    """What the words for `deepspeed` say of where processes run, by option; empty if nothing.

    Raises UserError for words that cannot be read.
    """
    return _placed(launcher)[0]


def counted(launcher: str) -> tuple[int | None, str]:
    """Processes of a run and the other words, where a number is all that the words say of the place.

    Each run then has GPUs of its own. Else None and the words as they are.
    """
    words, others = _placed(launcher)
    if words.keys() == {"count"} and words["count"] > 0:
        return words["count"], shlex.join(others)
    return None, launcher


def _placed(launcher: str) -> tuple[dict[str, Any], list[str]]:
    """What `placement` gives, and the other words."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.argument_default = argparse.SUPPRESS
    for names in (("-H", "--hostfile"), ("-i", "--include"), ("-e", "--exclude")):
        parser.add_argument(*names)
    parser.add_argument("--num_nodes", type=int)
    parser.add_argument("--num_accelerators", "--num_gpus", type=int, dest="count")
    try:
        known, others = parser.parse_known_args(shlex.split(launcher))
        return vars(known), others
    except (argparse.ArgumentError, ValueError) as error:
        raise UserError(f"--launcher '{launcher}': {error}.") from None


@dataclass(frozen=True)
class Machine:
    """How runs are started here: processes of a run, runs side by side, more words for `deepspeed`.

    accept_versions: whether runs and artefacts of other versions of torch and so on are reused;
    runs_per_gpu: how many runs may share a GPU.
    """

    processes: int
    jobs: int
    launcher: str = ""
    accept_versions: bool = False
    runs_per_gpu: int = 1

    @property
    def ranks(self) -> int | None:
        """Processes of a run; None where a hostfile or a filter of hosts says how many."""
        words = placement(self.launcher)
        if not words:
            return self.processes
        counted = words.keys() <= {"count", "num_nodes"} and words.get("num_nodes", 1) == 1
        return words["count"] if counted and words.get("count", 0) > 0 else None

    @property
    def alone(self) -> bool:
        """Whether a run is one process of this host, started without `deepspeed`.

        That and its launcher load their libraries first, which takes longer than the run's own start.
        """
        return self.processes == 1 and not self.launcher

    def environment(self, slot: int = 0) -> dict[str, str]:
        """The environment of a run: all processes share the cores (or OMP_NUM_THREADS).

        It says which process the study is, so that the run ends with it.
        """
        cores = len(os.sched_getaffinity(0))
        threads = max(1, cores // ((self.ranks or self.processes) * self.jobs))
        found = {"OMP_NUM_THREADS": str(threads), **os.environ}
        found[launcher_watch.STUDY] = processes.this().label
        if self.alone:
            port = launchers.free_port()
            found |= launchers.Launch("study", 0, 0, 1, launchers.LOCAL, port).variables()
        if not torch.cuda.is_available():
            return {**found, "DS_ACCELERATOR": "cpu"}
        return {**found, "CUDA_VISIBLE_DEVICES": self._gpus(slot)} if self.alone else found

    def command(self, run: Run, slot: int = 0) -> list[str]:
        """The command line of a run; slot: which of the runs side by side."""
        return [
            *((sys.executable, "-u") if self.alone else self._launched(slot)),
            *(str(TRAIN), "--deepspeed_config", *map(str, run.files)),
            *("--set", *run.overrides, "--output_dir", str(run.output_dir)),
            *(["--accept_versions"] if self.accept_versions else []),
        ]

    def _launched(self, slot: int) -> list[str]:
        port = str(launchers.free_port())
        words = [*self._places(slot), *shlex.split(self.launcher)]
        return [_launcher(), "--master_port", port, *words]

    def check(self) -> None:
        """Raise UserError if runs cannot have GPUs of their own, or runs_per_gpu has no effect."""
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        placed = placement(self.launcher)
        if self.runs_per_gpu > 1 and (not gpus or placed):
            why = "--launcher says which processes" if gpus else "no GPU is visible"
            raise UserError(f"--runs_per_gpu {self.runs_per_gpu}: {why}; leave it out.")
        if gpus and placed and self.jobs > 1:
            raise UserError(
                f"--jobs {self.jobs}: --launcher '{self.launcher}' places all runs on the same GPUs; "
                "leave it out (--processes gives each run GPUs of its own) or --jobs."
            )
        if not gpus or placed:
            return
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        if not self.alone and not all(name.strip().isdigit() for name in named if name):
            raise UserError(
                f"CUDA_VISIBLE_DEVICES is '{','.join(named)}', and `deepspeed` takes numbers only; "
                "give the GPUs by number, or --processes 1 and no --launcher."
            )
        if self.processes > gpus:
            raise UserError(f"--processes {self.processes}: {gpus} GPUs are visible.")
        needed = self.processes * -(-self.jobs // self.runs_per_gpu)
        if needed > gpus:
            share = -(-self.jobs // (gpus // self.processes))
            raise UserError(
                f"--jobs {self.jobs}: with {self.processes} processes each they need {needed} GPUs and "
                f"{gpus} are visible; lower one of --jobs and --processes, or let small runs share a "
                f"GPU with --runs_per_gpu {share}."
            )

    def _places(self, slot: int) -> list[str]:
        """Which processes: GPUs by number, as the launcher's count forgets CUDA_VISIBLE_DEVICES."""
        if placement(self.launcher):
            return []
        if not torch.cuda.is_available():
            return ["--num_accelerators", str(self.processes)]
        return ["--include", f"localhost:{self._gpus(slot)}"]

    def _gpus(self, slot: int) -> str:
        """Numbers of the GPUs of a run, such as `2,3`."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        numbers = visible.split(",") if visible else [str(n) for n in range(torch.cuda.device_count())]
        first = slot // self.runs_per_gpu * self.processes
        return ",".join(numbers[first : first + self.processes])


def _launcher() -> str:
    """The `deepspeed` command: beside this interpreter, or else on the path."""
    beside = Path(sys.executable).with_name("deepspeed")
    found = str(beside) if beside.is_file() else shutil.which("deepspeed")
    if found is None:
        raise UserError(f"there is no `deepspeed` command beside {sys.executable} or on the path.")
    return found


def default_processes(jobs: int = 1) -> int:
    """A job's share of the GPUs, rounded down to a power of 2, which divides the batch; 2 on a CPU."""
    count = torch.cuda.device_count()
    gpus = max(1, count // jobs) if count else 0
    return 1 << (gpus.bit_length() - 1) if gpus else 2


def finished(run: Run, accept_versions: bool = False) -> bool:
    """Whether the run has its figures, of just this configuration, these files and these versions.

    metrics.json itself says of which configuration it is: config.json is that of the last start, which
    may have failed. If only evaluation differs, or a file that the configuration names has changed, the
    run is to do again, and finds out itself what it can reuse; so it is, with a line, if its figures
    are damaged or it was made with other versions that are not accepted.
    Raises UserError if the place belongs to a configuration that differs in more.
    """
    place = run.output_dir
    if not (place / "metrics.json").is_file() or not (place / "hits.npz").is_file():
        return False
    try:
        old = artefacts.read_json(place / "config.json")
    except (OSError, ValueError) as error:
        raise UserError(f"{place}: its results cannot be read ({error}); delete it.") from None
    key = ownership.difference(old, run.config)
    if key is not None:
        raise UserError(
            f"{place}: holds a run of another configuration ({key} differs); choose another "
            "--output_dir or delete it."
        )
    try:
        metrics = artefacts.read_json(place / "metrics.json")
        with zipfile.ZipFile(place / "hits.npz") as hits:
            torn = hits.testzip()
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        torn = str(error)
    if torn is None and _origins(metrics) != metrics.get("artefacts", {}):
        torn = "metrics.json does not say how they were made"
    if torn is not None:
        sys.stderr.write(f"{place}: its figures are damaged ({torn}) and will be made again\n")
        return False
    if ownership.figures_found(place) not in ownership.figures_keys(run.config):
        return False
    if metrics.get("stamp") != ownership.stamp(run.config):
        return False
    return all(provenance.decide("", o, accept_versions)[0] for o in _origins(metrics).values())


def _origins(metrics: Mapping[str, Any]) -> dict[str, provenance.Origin]:
    """How each artefact of a run was made, by stage, as far as that can be read."""
    found = metrics.get("artefacts")
    known = found if isinstance(found, dict) else {}
    return {stage: origin for stage, origin in known.items() if provenance.readable(origin)}


def version_lines(run: Run, accept_versions: bool) -> list[str]:
    """A line for each artefact of a run that was made with other versions: whether it is reused."""
    try:
        origins = _origins(artefacts.read_json(run.output_dir / "metrics.json"))
    except (OSError, ValueError):
        return []
    name = run.name
    lines = (provenance.decide(f"{name}: {s}", o, accept_versions)[1] for s, o in origins.items())
    return [line for line in lines if line is not None]


@dataclass
class Progress:
    """Lines on the terminal, with the time left; safe for several threads.

    total: all runs; ahead: names of those that go ahead of their neighbours and make a teacher first,
    so that they take longer; behind: of the others that are still to make.
    """

    total: int
    ahead: Collection[str]
    behind: Collection[str]
    jobs: int
    done: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self, name: str, outcome: str, seconds: float | None = None) -> None:
        """Count a run and print its line; seconds: of one that was made, None if it had been before."""
        with self.lock:
            self.done += 1
            left = ""
            if seconds is not None:
                self.seconds[name] = seconds
                left = self._left()
            sys.stdout.write(f"[{self.done:>3}/{self.total}] {name}: {outcome}{left}\n")
            sys.stdout.flush()

    def _left(self) -> str:
        """What to say of the time left: nothing at the end, or before a run of each kind has ended."""
        expected = 0.0
        for kind in (self.ahead, self.behind):
            known = [self.seconds[name] for name in kind if name in self.seconds]
            if not known and kind:
                return ""
            expected += sum(known) / max(1, len(known)) * (len(kind) - len(known))
        return f"; about {_duration(expected / self.jobs)} left" if expected else ""


def execute(runs: Sequence[Run], machine: Machine, logs: Path) -> dict[str, str]:
    """Make every run that is not finished; the last word of each that failed, by name.

    logs: folder for what the runs print. An interrupt ends the running ones and starts no other. Raises
    UserError, before anything is started, if a place belongs to another configuration.
    """
    ready = {run.name for run in runs if finished(run, machine.accept_versions)}
    waiting = [run for run in runs if run.name not in ready]
    order, ahead = Schedule(waiting), pioneers(waiting)
    behind = {run.name for run in waiting} - ahead
    progress = Progress(len(runs), ahead, behind, machine.jobs)
    failed: dict[str, str] = {}
    for run in runs:
        if run.name in ready:
            progress.report(run.name, "finished before")

    def work(slot: int) -> None:
        while (run := order.take()) is not None:
            try:
                why = _one(run, machine, slot, logs, progress, order)
            except Exception:
                order.stop()
                raise
            if why is not None:
                failed[run.name] = why
            order.ended(run, why is None)

    with ThreadPoolExecutor(machine.jobs) as pool:
        try:
            list(pool.map(work, range(machine.jobs)))
        except KeyboardInterrupt:
            order.stop()
            raise
    if order.stopped:
        raise KeyboardInterrupt
    return failed


def _one(
    run: Run, machine: Machine, slot: int, logs: Path, progress: Progress, order: Schedule
) -> str | None:
    """Make one run; why it failed, if it did. A run that ends by an interrupt stops the study."""
    began, log = time.perf_counter(), logs / f"{run.name.replace('/', '_')}.log"
    with disk.writing(log), log.open("w", encoding="utf-8") as target:
        words, environment = machine.command(run, slot), machine.environment(slot)
        done = subprocess.run(words, stdout=target, stderr=target, env=environment, check=False)
    seconds = time.perf_counter() - began
    if done.returncode in INTERRUPTED:
        order.stop()
        return None
    if done.returncode == 0 and finished(run, machine.accept_versions):
        progress.report(run.name, f"done in {_duration(seconds)}", seconds)
        return None
    progress.report(run.name, f"failed after {_duration(seconds)} ({log})", seconds)
    return _last_word(log)


def _last_word(log: Path) -> str:
    """The error of a run as its log tells it: our sentence, the last exception, or the last line."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    for pattern in (
        r"error: (.*)",
        r"(?:\[rank\d+\]: ?)?((?:\w+\.)*\w*(?:Error|Exception)\b.*)",
        r"(.*)",
    ):
        found = [match for line in lines if (match := re.fullmatch(pattern, line))]
        if found:
            return found[-1].group(1)
    return "no output"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
