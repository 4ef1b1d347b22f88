"""Start train.py and the drivers as a user does: alone, or through the `deepspeed` launcher."""

import os
import subprocess
import sys
import time
from pathlib import Path

from preloaded import Python

from compress.runtime.launchers import free_port

ROOT = Path(__file__).parents[1]


def environment_of(**extra: str) -> dict[str, str]:
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **extra,
    }
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    return environment


def run(command: list[str], **extra: str) -> subprocess.CompletedProcess[str]:
    environment = environment_of(**extra)
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)


def python(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """`python *arguments`, with the libraries loaded before."""
    return Python(arguments, environment_of(**extra)).finished(500)


def _codes(started: list[Python], limit: float) -> list[int | None]:
    """Exit codes: of all, or from one second after the first that failed; within `limit` seconds."""
    until = time.monotonic() + limit
    while None in (codes := [process.poll() for process in started]) and time.monotonic() < until:
        if any(codes):
            until = min(until, time.monotonic() + 1)
        time.sleep(0.05)
    assert None not in codes or any(codes), f"the ranks take more than {limit} s"
    return codes


def two_ranks(*arguments: str, limit: float = 500, **extra: str) -> subprocess.CompletedProcess[str]:
    """`ranks` with two of them."""
    return ranks(2, *arguments, limit=limit, **extra)


def ranks(
    count: int, *arguments: str, limit: float = 500, **extra: str
) -> subprocess.CompletedProcess[str]:
    """A script on so many ranks without a launcher, with the libraries loaded before.

    As with a launcher, one that fails ends the other, a second later. The exit code of one that a
    signal has ended (below 0) counts before another's.
    """
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    environment = environment_of(**extra) | meet
    numbers = map(str, range(count))
    started = [Python(arguments, {**environment, "RANK": n, "LOCAL_RANK": n}) for n in numbers]
    try:
        codes = _codes(started, limit)
    finally:
        for process in started:
            process.kill()
    ended = [process.finished(10) for process in started]
    out, error = ("".join(texts) for texts in zip(*((d.stdout, d.stderr) for d in ended), strict=True))
    return subprocess.CompletedProcess(arguments, min(filter(None, codes), default=0), out, error)


def _words(arguments: tuple[str, ...]) -> list[str]:
    return ["--num_accelerators", "2", f"--master_port={free_port()}", *arguments]


def deepspeed(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """The command `deepspeed` on two ranks."""
    return run(["deepspeed", *_words(arguments)], **extra)


def launch(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """What `deepspeed` does, with the libraries loaded before; its launcher and ranks load them."""
    return python("-m", "deepspeed.launcher.runner", *_words(arguments), **extra)


def job(
    model: Path,
    output: Path,
    *overrides: str,
    stage: str = "all",
    parts: tuple[str, str] = ("compression/imp60", "mitigation/rmc"),
) -> list[str]:
    files = ["zero2", "tasks/synthetic", *parts]
    return [
        str(ROOT / "train.py"),
        "--deepspeed_config",
        *[str(ROOT / f"ds_configs/{name}.json") for name in files],
        "--output_dir",
        str(output),
        "--stage",
        stage,
        "--set",
        f"robust_compression.model={model}",
        'robust_compression.task.synthetic={"train": 120, "dev": 40, "ood": 40}',
        "robust_compression.epochs=2",
        "train_batch_size=16",
        "steps_per_print=2",
        *overrides,
    ]


def benchmark_job(model: Path, output: Path, *, parts: tuple[str, str]) -> list[str]:
    """The configuration of `job`, as the benchmarks of trainings take it."""
    _, *words = job(model, output, parts=parts)
    place, stage = words.index("--output_dir"), words.index("--stage")
    return [word for n, word in enumerate(words) if n not in (place, place + 1, stage, stage + 1)]
