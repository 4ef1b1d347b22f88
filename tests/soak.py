"""Kill runs at random and compare what they come to with a run that was left alone.

    python tests/soak.py --kills 200 [--ranks 2] [--seed 0] [--kind independent ...]

One run after another, of another job and ZeRO stage each, is killed (SIGKILL to a rank, to the launcher
or to everything) at several random places, in the order of its work: in each of its trainings once at
least, a third of them while a checkpoint is written; the same command is given again each time. Prints
for each run whether it came to its end, whether weights, losses, figures and curves are equal, and how
many optimiser steps were done twice. Exit code 1 if not. Where a rank is to be killed the ranks are
forks that have the libraries loaded; launchers are real ones.
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

sys.path.insert(0, str(Path(__file__).parents[1]))

from launcher import ROOT, environment_of, python, two_ranks
from same_run import differences

from compress.runtime.launchers import free_port

EVERY = 3
SCORED = {"teacher": ("train", 16), "difficulty": ("dev", 16), "student": ("dev", 8)}
"""A split that each training scores, and after which step first: at the end, a stop, an epoch's end."""
WHOM = ("rank",) * 8 + ("launcher", "everything")
PER_RUN = 6
TEACHER, STUDENT = {"teacher": 16}, {"student": 16}
WHOLE = TEACHER | {"difficulty": 32} | STUDENT


@dataclass(frozen=True)
class Kind:
    """A kind of job; trainings: optimiser steps of each, in their order."""

    trainings: dict[str, int] = field(default_factory=lambda: WHOLE)
    compression: str = "imp60"
    mitigation: str = "rmc"
    overrides: tuple[str, ...] = ()


UNCERTAINTY = "robust_compression.uncertainty"
APART = TEACHER | {"difficulty 0.30": 32, "difficulty 0.60": 32} | STUDENT
TRIED = TEACHER | {"difficulty": 32, "alpha 0.1": 16, "alpha 0.9": 16}
ALPHAS = (f"{UNCERTAINTY}.alpha=auto", f"{UNCERTAINTY}.alpha_candidates=[0.1, 0.9]")
FIRST_EPOCH = ("robust_compression.loss.first_epochs=1",)
KINDS = {
    "plain": Kind(),
    "best dev": Kind(overrides=("robust_compression.student.keep=best_dev",)),
    "independent": Kind(APART, overrides=(f"{UNCERTAINTY}.protocol=independent",)),
    "movement, hidden": Kind(WHOLE, "movement40", "rmc_plus_hidden"),
    "alpha": Kind(TRIED, overrides=ALPHAS),
    "first model": Kind({"first": 8} | STUDENT, mitigation="jtt", overrides=FIRST_EPOCH),
    "learned units": Kind(WHOLE, "heads20_learned"),
    "focal, accumulated": Kind(TEACHER | STUDENT, "imp60", "focal", ("gradient_accumulation_steps=2",)),
    "bf16": Kind(overrides=('bf16={"enabled": true}',)),
}


@dataclass
class Job:
    """A fixed job; model: a directory with a small encoder; stage: of ZeRO; whom: what is killed."""

    model: Path
    ranks: int = 2
    stage: int = 2
    kind: Kind = KINDS["plain"]
    whom: tuple[str, ...] = WHOM

    def start(self, folder: Path, **kill: str) -> subprocess.CompletedProcess[str]:
        """The command, once; kill: `at`, `whom` and `rank` of killed_run.py."""
        script = "tests/drivers/killed_run.py" if kill else "train.py"
        names = [f"zero{self.stage}", "tasks/synthetic"]
        names += [f"compression/{self.kind.compression}", f"mitigation/{self.kind.mitigation}"]
        files = [str(ROOT / f"ds_configs/{name}.json") for name in names]
        hits = {f"KILL_{key.upper()}": value for key, value in kill.items()}
        words = ["--deepspeed_config", *files, "--output_dir", str(folder / "run"), "--set"]
        words += [
            f"robust_compression.model={self.model}",
            'robust_compression.task.synthetic={"train": 120, "dev": 40, "ood": 40}',
            "robust_compression.epochs=2",
            f"{UNCERTAINTY}.epochs=4",
            f"{UNCERTAINTY}.sparsities=[0.3, 0.6]",
            "train_batch_size=16",
            "steps_per_print=2",
            'csv_monitor={"enabled": true}',
            f"robust_compression.checkpoint.every_steps={EVERY}",
            *self.kind.overrides,
        ]
        command = [str(ROOT / script), *words]
        if self.ranks == 1:
            return python(*command, **hits)
        if kill.get("whom", "rank") == "rank":
            return two_ranks(*command, **hits)
        launcher = ["deepspeed", f"--num_accelerators={self.ranks}", f"--master_port={free_port()}"]
        return subprocess.run(
            [*launcher, *command],
            capture_output=True,
            text=True,
            env=environment_of(**hits),
            timeout=600,
            start_new_session=True,
        )


def places(draw: random.Random, count: int, trainings: dict[str, int]) -> list[str]:
    """Where a run is killed, in the order of its work: in each training, and a third in saves."""
    order = list(trainings)
    names = [*order, *(draw.choice(order) for _ in range(max(0, count - len(order))))]
    found = []
    for number, name in enumerate(names[:count]):
        step = draw.randrange(EVERY + 1, trainings[name])
        kinds = ["step", "refresh", *(["score"] if name in SCORED else [])]
        kind = "save" if number % 3 == 0 else draw.choice(kinds)
        step = {"save": step // EVERY * EVERY, "score": SCORED.get(name, ("", 0))[1]}.get(kind, step)
        found.append((name, step, kind))
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
    for place in places(draw, kills, job.kind.trainings):
        killed = draw.choice(job.whom) if job.ranks > 1 else "rank"
        hit = {"at": place, "whom": killed, "rank": str(draw.randrange(job.ranks))}
        done = job.start(folder, **hit)
        outcome.lost += _lost(last, done.stdout)
        last = place
        if (folder / "run/metrics.json").exists():
            break
        if killed == "rank" and done.returncode != -9:
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
    name, step = place.partition(" ")[2].rsplit(" ", 1)
    match = re.search(rf"^{name}: continues at step (\d+)", output, re.MULTILINE)
    return int(step) - (int(match.group(1)) if match else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill runs at random; compare what they come to.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, default=ROOT / "compress/synthetic/encoder")
    parser.add_argument("--kind", nargs="+", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args()
    top, draw = Path(tempfile.mkdtemp(prefix="soak-")), random.Random(options.seed)
    killed = equal = runs = lost = 0
    while killed < options.kills:
        name, stage = options.kind[runs % len(options.kind)], runs % 4
        runs += 1
        job = Job(options.model, options.ranks, stage, KINDS[name])
        alone = job.start(top / f"{runs}-alone")
        assert alone.returncode == 0, alone.stderr
        kills = min(max(PER_RUN, len(job.kind.trainings)), options.kills - killed)
        outcome = tried(job, top / f"{runs}-alone", top / str(runs), draw, kills)
        killed, lost = killed + outcome.kills, lost + outcome.lost
        equal += not outcome.wrong
        about = f"{name}, ZeRO {stage}: {outcome.kills} kills, {outcome.lost} steps done twice"
        print(f"run {runs}: {about}", flush=True)
        for line in outcome.wrong:
            print(f"  {line}", flush=True)
        if not outcome.wrong:
            shutil.rmtree(top / str(runs))
        shutil.rmtree(top / f"{runs}-alone")
    print(f"{killed} kills in {runs} runs; equal {equal} of {runs}; {lost} steps done twice")
    sys.exit(equal != runs)


if __name__ == "__main__":
    main()
