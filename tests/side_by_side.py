"""Two commits run side by side on one machine, their results compared bit by bit.

python tests/side_by_side.py --base REVISION [--jobs imp40 heads40 ...] [--records FOLDER]

What: every mechanism (pruning of each kind, layer reduction, each loss, layer-wise terms, both
protocols of the difficulty, ZeRO stages on two ranks) is trained for about 20 steps by the program of
the base commit, from a git worktree, and by the present one. Compared are the logged scalars of every
step, every tensor of every exported model, every loss matrix and score, and metrics.json without times,
versions and keys. Why: processors round differently, so a record in a file can hold only what is stable
across them; a refactoring must change nothing at all, which shows on one machine.
"""

import argparse
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[1]
COMMON = (
    'robust_compression.task.synthetic={"train": 80, "dev": 40, "ood": 40}',
    "train_batch_size=16",
    "robust_compression.epochs=4",
    "robust_compression.uncertainty.epochs=4",
    "robust_compression.uncertainty.sparsities=[0.2, 0.4, 0.6, 0.7, 0.85]",
    "steps_per_print=1",
    'csv_monitor={"enabled": true}',
    "tensorboard=null",
)
UNTOLD = {"seconds", "versions", "keys", "stamp", "device", "reused", "latency", "artefacts"}
UNTOLD |= {"world_size"}
"""Keys of metrics.json that differ between two runs of one program."""


@dataclass(frozen=True)
class Job:
    """One run: files of ds_configs, `--set` texts, ranks (0: without the launcher)."""

    compression: str
    mitigation: str = "rmc"
    zero: int = 2
    ranks: int = 0
    overrides: tuple[str, ...] = field(default=())


LOSSES = ("vanilla", "distil", "smooth", "focal", "jtt", "rmc_weighted", "weighted", "rmc_plus")
LOSSES += ("weighted_shallow", "rmc_plus_shallow", "hidden", "rmc_plus_hidden")
COMPRESSIONS = ("imp40", "movement40", "heads40", "heads20_learned", "rows50", "rows50_learned")
COMPRESSIONS += ("layers_first_half", "layers_every_second", "heads20_rows50_imp40")
JOBS = {
    **{name: Job(name) for name in COMPRESSIONS},
    **{f"loss-{name}": Job("imp60", name) for name in LOSSES},
    "attention": Job("layers_first_half", overrides=("robust_compression.layerwise.attention=20",)),
    "independent": Job("imp60", overrides=("robust_compression.uncertainty.protocol=independent",)),
    "from-teacher": Job("imp60", overrides=("robust_compression.student.init_from=teacher",)),
    "quantile": Job("imp60", overrides=("robust_compression.uncertainty.normalisation=quantile",)),
    "auto-alpha": Job("imp60", overrides=('robust_compression.uncertainty.alpha="auto"',)),
    "accumulation": Job("imp60", "focal", overrides=("gradient_accumulation_steps=2",)),
    "bf16": Job("imp60", overrides=('bf16={"enabled": true}',)),
    **{f"zero{stage}": Job("heads20_rows50_imp40", zero=stage, ranks=2) for stage in range(4)},
    "zero3-movement": Job("movement40", zero=3, ranks=2),
}

VARIANTS = ("from-teacher", "quantile", "auto-alpha", "accumulation", "bf16")
"""Jobs that only this comparison runs: the suite records the mechanisms that they vary."""
RECORDED = [name for name, job in JOBS.items() if not job.ranks and name not in VARIANTS]


def run(code: Path, job: Job, output: Path) -> None:
    """Run a job with the program in `code`; raises CalledProcessError with its last lines shown."""
    parts = (f"zero{job.zero}", "tasks/synthetic", f"compression/{job.compression}")
    files = [str(code / f"ds_configs/{part}.json") for part in (*parts, f"mitigation/{job.mitigation}")]
    command = [sys.executable, "train.py"]
    if job.ranks:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = str(Path(sys.executable).with_name("deepspeed"))
        command = [launcher, "--num_accelerators", str(job.ranks), f"--master_port={port}", "train.py"]
    command += ["--deepspeed_config", *files, "--output_dir", str(output)]
    paths = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PATH": paths}
    environment["PYTHONPATH"] = str(code)
    done = subprocess.run(
        [*command, "--set", *COMMON, *job.overrides],
        cwd=code,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.stderr.write(done.stderr[-3000:])
        done.check_returncode()


def digest(values: np.ndarray) -> str:
    """Shape, type and content of an array in one short word."""
    content = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]
    return f"{values.dtype}{list(values.shape)} {content}"


def record(folder: Path) -> dict[str, Any]:
    """Everything of a finished run (and of the artefacts beside it) that must not change, by name.

    The keys of artefacts are left out of the names; several of a kind are numbered.
    """
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        parts = [p for p in file.relative_to(folder).parts if len(p) != 16 or not _hexadecimal(p)]
        name = "/".join(parts)
        if file.suffix == ".csv" and not file.stem.endswith("samples_per_second"):
            found[name] = file.read_text()
        elif file.suffix == ".safetensors":
            found |= {f"{name}:{key}": digest(value) for key, value in load_file(file).items()}
        elif file.suffix == ".npy":
            found[_free(name, found)] = digest(np.load(file))
        elif file.suffix == ".parquet":
            found[_free(name, found)] = pq.read_table(file).to_pydict()
        elif file.name in ("metrics.json", "student.json", "heads.json", "choice.json"):
            found[_free(name, found)] = _lasting(json.loads(file.read_text()))
    return found


def _hexadecimal(text: str) -> bool:
    return all(letter in "0123456789abcdef" for letter in text)


def _free(name: str, taken: dict[str, Any]) -> str:
    number = sum(key == name or key.startswith(f"{name}#") for key in taken)
    return f"{name}#{number}" if number else name


def _lasting(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _lasting(value) for key, value in values.items() if key not in UNTOLD}
    return values


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """One line for each thing that is not the same in both records."""
    both = sorted(before.keys() & after.keys())
    lines = [f"differs: {name}" for name in both if before[name] != after[name]]
    lines += [f"only before: {name}" for name in sorted(before.keys() - after.keys())]
    lines += [f"only after: {name}" for name in sorted(after.keys() - before.keys())]
    return lines


def kept(base: Path, name: str, place: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The record of a job under the base commit: of an earlier comparison on this machine, or made."""
    file = options.records / options.base / f"{name}.json" if options.records else None
    if file is None or not file.exists():
        run(base, JOBS[name], place / "run")
        made = json.dumps(record(place))
        if file is None:
            return json.loads(made)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(made)
    return json.loads(file.read_text())


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare two commits bit by bit.")
    parser.add_argument("--base", default="HEAD", help="the commit to compare with")
    parser.add_argument("--jobs", nargs="+", choices=sorted(JOBS), default=list(JOBS))
    parser.add_argument("--keep", type=Path, help="folder that keeps the runs")
    parser.add_argument(
        "--records",
        type=Path,
        help="folder that keeps what the base commit gave, for the next comparison",
    )
    parser.add_argument("--only_base", action="store_true", help="only make the records")
    return parser.parse_args()


def main() -> int:
    """Run all jobs with both programs; the number of jobs that differ."""
    options, wrong = parse(), 0
    revision = ["git", "-C", str(ROOT), "rev-parse", "--short", options.base]
    options.base = subprocess.run(revision, check=True, capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.keep or Path(temporary)
        base = Path(temporary) / "base"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(base), options.base], check=True)
        try:
            for name in options.jobs:
                before = kept(base, name, work.absolute() / "before" / name, options)
                if options.only_base:
                    continue
                after = work.absolute() / "after" / name
                run(ROOT, JOBS[name], after / "run")
                lines = differences(before, json.loads(json.dumps(record(after))))
                wrong += bool(lines)
                print(f"{name}: {len(before)} things compared, {len(lines)} differ", flush=True)
                print("".join(f"  {line}\n" for line in lines[:10]), end="", flush=True)
        finally:
            subprocess.run([*git, "remove", "--force", str(base)], check=True)
    return wrong


if __name__ == "__main__":
    sys.exit(min(main(), 1))
