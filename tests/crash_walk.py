"""Kill a run at every change that it makes to its files, and compare what it comes to.

    python tests/crash_walk.py [--ranks 2] [--stage 3] [--power | --fault 28 | --signal 15]

The same command is started again and again; each process is killed at the first change of a file (made,
renamed, deleted) at which no process of this walk was killed before. One that comes to its end is
compared with a run that was left alone. Prints how many places there were, and what differs; exit code
1 if anything does. `--power`: files lose what was not flushed, as at a loss of power; `--fault`: the
disk reports the error of this number (28: it is full) at the changes, which must be one sentence;
`--signal`: the run gets this signal in place of SIGKILL, and must end with exit code 75.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from launcher import ROOT, python, two_ranks
from same_run import differences

UNEXPECTED = ("damaged", "WARNING: no", "WARNING: what", "not reused", "Traceback")
KINDS = {
    "rmc": ("rmc", ()),
    "best": (
        "rmc",
        ("robust_compression.student.keep=best_dev", "robust_compression.evaluation.baseline=true"),
    ),
    "shallow": ("rmc", ("robust_compression.loss.difficulty=shallow",)),
    "alpha": (
        "rmc",
        (
            "robust_compression.uncertainty.alpha=auto",
            "robust_compression.uncertainty.alpha_candidates=[0.1, 0.9]",
        ),
    ),
    "jtt": ("jtt", ("robust_compression.loss.first_epochs=1",)),
    "debiased": (
        "debiased_teacher",
        (
            "robust_compression.teacher.loss.bias=partial_encoder",
            "robust_compression.teacher.loss.warmup=0.3",
            "robust_compression.loss.bias=partial_encoder",
            "robust_compression.layerwise.cache_gib=1",
            "robust_compression.student.init_from=teacher",
            "robust_compression.student.keep=best_dev",
            "robust_compression.evaluation.baseline=true",
        ),
    ),
}


def command(options: argparse.Namespace, kind: str, folder: Path, script: str) -> list[str]:
    mitigation, overrides = KINDS[kind]
    names = (f"zero{options.stage}", "tasks/synthetic", "compression/imp60", f"mitigation/{mitigation}")
    words = [str(ROOT / script), "--deepspeed_config"]
    words += [str(ROOT / f"ds_configs/{name}.json") for name in names]
    words += ["--output_dir", str(folder / "run")]
    words += ["--export", options.export] if options.export else []
    return [
        *words,
        "--set",
        f"robust_compression.model={options.model}",
        'robust_compression.task.synthetic={"train": 60, "dev": 20, "ood": 20}',
        "robust_compression.epochs=1",
        "robust_compression.uncertainty.epochs=2",
        "robust_compression.uncertainty.sparsities=[0.3, 0.6]",
        "train_batch_size=16",
        "steps_per_print=2",
        'csv_monitor={"enabled": true}',
        f"robust_compression.checkpoint.every_steps={options.every}",
        f"robust_compression.checkpoint.keep={options.keep}",
        "robust_compression.processes=1",
        *overrides,
    ]


def start(
    options: argparse.Namespace, words: list[str], **extra: str
) -> subprocess.CompletedProcess[str]:
    return (python if options.ranks == 1 else two_ranks)(*words, **extra)


def walk(options: argparse.Namespace, kind: str, top: Path) -> list[str]:
    """Kill and start again until the run comes to its end; what is wrong."""
    began = time.monotonic()
    alone = start(options, command(options, kind, top / "alone", "train.py"))
    assert alone.returncode == 0, alone.stdout + alone.stderr
    folder, seen = top / "walk", top / "seen"
    folder.mkdir()
    seen.write_text(options.seen.read_text() if options.seen else "")
    extra = {"WALK_TOP": str(folder), "WALK_SEEN": str(seen)}
    extra |= {"WALK_POWER": "1"} if options.power else {}
    extra |= {"WALK_FAULT": str(options.fault)} if options.fault else {}
    extra |= {"WALK_SIGNAL": str(options.signal)} if options.signal else {}
    words = command(options, kind, folder, "tests/drivers/ended_at_change.py")
    for number in range(options.most):
        before = seen.read_text()
        seen.touch()  # what is changed from now on is of this process
        done = start(options, words, **extra)
        place = seen.read_text()[len(before) :].strip()
        if options.verbose:
            print(f"{number} [{time.monotonic() - began:.0f} s] {done.returncode} {place}", flush=True)
        if done.returncode == 0:
            print(f"{kind}: {number} times, {time.monotonic() - began:.0f} s", flush=True)
            return differences(top / "alone", folder)
        if wrong := _wrong(done, options):
            print(f"  {place}: {wrong}", flush=True)
            if not options.fault:
                return [f"not continued after {place}"]
    return [f"not at its end after {options.most} times"]


def _wrong(done: subprocess.CompletedProcess[str], options: argparse.Namespace) -> str | None:
    """What a process that did not come to its end should not have said or ended with."""
    said = done.stdout + done.stderr
    if options.fault:
        sentence = done.returncode == 1 and done.stderr.count("error: ") == 1
        return None if sentence and "Traceback" not in said else f"{done.returncode}: {said}"
    found = [line for line in said.splitlines() if any(word in line for word in UNEXPECTED)]
    code = 75 if options.signal else -9
    return "\n".join(found) or (None if done.returncode == code else f"{done.returncode}: {said}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a run at every change of its files.")
    parser.add_argument("--ranks", type=int, default=1, choices=(1, 2))
    parser.add_argument("--stage", type=int, default=2)
    parser.add_argument("--every", type=int, default=3, help="steps between two checkpoints")
    parser.add_argument("--keep", type=int, default=2)
    parser.add_argument("--power", action="store_true")
    parser.add_argument("--fault", type=int, help="number of an error of the disk")
    parser.add_argument("--signal", type=int, help="number of a signal")
    parser.add_argument("--most", type=int, default=2000)
    parser.add_argument("--seen", type=Path, help="places of earlier walks, which are left out")
    parser.add_argument("--export", choices=("onnx", "onnx-int8"))
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--model", type=Path, default=ROOT / "compress/synthetic/encoder")
    parser.add_argument("--kind", nargs="+", choices=list(KINDS), default=["rmc"])
    options = parser.parse_args()
    wrong = []
    for kind in options.kind:
        top = Path(tempfile.mkdtemp(prefix=f"walk-{kind}-"))
        print(top, flush=True)
        wrong += walk(options, kind, top)
    for line in wrong:
        print(f"  {line}", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
