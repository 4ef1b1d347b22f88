"""Kill runs at random and compare what they come to with a run that was left alone.

    python tests/soak.py --kills 200 [--ranks 2] [--stage 2] [--seed 0]

A run is killed (SIGKILL to a rank, to the launcher, or to everything) at several random places, in the
order of its work: in each stage once at least, a third of them while a checkpoint is written; the same
command is given again each time. Prints for each run whether it came to its end, whether weights,
losses, figures and curves are equal, and how many optimiser steps were done twice. Exit code 1 if not.
"""

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from launcher import ROOT, environment_of, free_port, python
from same_run import differences

EVERY = 3
TRAININGS = {"teacher": 16, "difficulty": 32, "student": 16}
"""Optimiser steps of each training of the job."""
SCORED = {"teacher": ("train", 16), "difficulty": ("dev", 16), "student": ("dev", 8)}
"""A split that each stage scores, and after which step first: at the end, a stop, an epoch's end."""
WHOM = ("rank", "launcher", "everything")
PER_RUN = 6


@dataclass
class Job:
    """The fixed job; model: a directory with a small encoder."""

    model: Path
    ranks: int = 2
    stage: int = 2
    more: list[str] = field(default_factory=list)

    def start(self, folder: Path, **kill: str) -> subprocess.CompletedProcess[str]:
        """The command, once; kill: `at`, `whom` and `rank` of killed_run.py."""
        script = "tests/drivers/killed_run.py" if kill else "train.py"
        names = [f"zero{self.stage}", "tasks/synthetic", "compression/imp60", "mitigation/rmc"]
        files = [str(ROOT / f"ds_configs/{name}.json") for name in names]
        hits = {f"KILL_{key.upper()}": value for key, value in kill.items()}
        words = ["--deepspeed_config", *files, "--output_dir", str(folder / "run"), "--set"]
        words += [
            f"robust_compression.model={self.model}",
            'robust_compression.task.synthetic={"train": 120, "dev": 40, "ood": 40}',
            "robust_compression.epochs=2",
            "robust_compression.uncertainty.epochs=4",
            "robust_compression.uncertainty.sparsities=[0.3, 0.6]",
            "train_batch_size=16",
            "steps_per_print=2",
            'csv_monitor={"enabled": true}',
            f"robust_compression.checkpoint.every_steps={EVERY}",
            *self.more,
        ]
        command = [str(ROOT / script), *words]
        if self.ranks == 1:
            return python(*command, **hits)
        launcher = ["deepspeed", f"--num_accelerators={self.ranks}", f"--master_port={free_port()}"]
        return subprocess.run(
            [*launcher, *command],
            capture_output=True,
            text=True,
            env=environment_of(**hits),
            timeout=600,
            start_new_session=True,
        )


def places(draw: random.Random, count: int) -> list[str]:
    """Where a run is killed, in the order of its work: in each training, and a third in saves."""
    names = [*TRAININGS, *(draw.choice(list(TRAININGS)) for _ in range(count - len(TRAININGS)))]
    found = []
    for number, name in enumerate(names[:count]):
        step = draw.randrange(EVERY + 1, TRAININGS[name])
        kind = "save" if number % 3 == 0 else draw.choice(["step", "refresh", "score"])
        step = {"save": step // EVERY * EVERY, "score": SCORED[name][1]}.get(kind, step)
        found.append((name, step, kind))
    order = list(TRAININGS)
    found.sort(key=lambda place: (order.index(place[0]), place[1]))
    return [
        f"score {name} {SCORED[name][0]} 1" if kind == "score" else f"{kind} {name} {step}"
        for name, step, kind in found
    ]


@dataclass
class Outcome:
    """What became of a run: kills, steps done twice, differences from the run that was left alone."""

    kills: int = 0
    lost: int = 0
    wrong: list[str] = field(default_factory=list)


def tried(job: Job, reference: Path, folder: Path, draw: random.Random, kills: int) -> Outcome:
    """A run that is killed at random places and continued each time."""
    outcome, last = Outcome(), None
    for place in places(draw, kills):
        whom = draw.choice(WHOM) if job.ranks > 1 else "rank"
        hit = {"at": place, "whom": whom, "rank": str(draw.randrange(job.ranks))}
        done = job.start(folder, **hit)
        outcome.lost += _lost(last, done.stdout)
        last = place
        if (folder / "run/metrics.json").exists():
            break
        if job.ranks == 1 and done.returncode != -9:
            outcome.wrong.append(f"{place}: exit code {done.returncode}: {done.stderr[-1000:]}")
        outcome.kills += 1
    done = job.start(folder)
    outcome.lost += _lost(last, done.stdout)
    if done.returncode:
        outcome.wrong.append(f"exit code {done.returncode}: {done.stderr[-1000:]}")
    else:
        outcome.wrong += differences(reference, folder)
    return outcome


def _lost(place: str | None, output: str) -> int:
    """Optimiser steps between the place of a kill and where the next run went on."""
    if place is None or place.startswith("score"):
        return 0
    _, name, step = place.split(" ")
    match = re.search(rf"^{name}: continues at step (\d+)", output, re.MULTILINE)
    return int(step) - (int(match.group(1)) if match else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill runs at random; compare what they come to.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--stage", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, default=ROOT / "compress/synthetic/encoder")
    options = parser.parse_args()
    job, draw = Job(options.model, options.ranks, options.stage), random.Random(options.seed)
    top = Path(tempfile.mkdtemp(prefix="soak-"))
    assert job.start(top / "reference").returncode == 0, "the run that is left alone fails"
    killed = equal = runs = lost = 0
    while killed < options.kills:
        runs += 1
        folder = top / str(runs)
        outcome = tried(job, top / "reference", folder, draw, min(PER_RUN, options.kills - killed))
        killed, lost = killed + outcome.kills, lost + outcome.lost
        equal += not outcome.wrong
        print(f"run {runs}: {outcome.kills} kills, {outcome.lost} steps done twice", flush=True)
        for line in outcome.wrong:
            print(f"  {line}", flush=True)
        if not outcome.wrong:
            shutil.rmtree(folder)
    print(f"{killed} kills in {runs} runs; equal {equal} of {runs}; {lost} steps done twice")
    sys.exit(equal != runs)


if __name__ == "__main__":
    main()
