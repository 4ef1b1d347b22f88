"""Stage alpha: `uncertainty.alpha` "auto", chosen in distribution (Du et al. 2023, Sec. 5.1).

The student is trained with each candidate; dev is cut at the median of its own variance into an easy
and a hard half. Chosen is the candidate that loses least from one to the other, (easy - hard) / easy,
among those whose dev accuracy is within a point of the best. No OOD set is used. The grid of candidates
is this project's; the paper names none.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compress import uncertainty
from compress.configuration.config import Config
from compress.configuration.used_keys import OURS
from compress.files import artefacts, ownership
from compress.runtime import ranks
from compress.scoring import evaluation
from compress.stages import difficulty
from compress.stages.context import Context, score_exported
from compress.stages.difficulty import Difficulty
from compress.stages.stage import Fill, Stage, find, obtain, publish
from compress.stages.student import Student
from compress.stages.workspace import Artefact

WITHIN = 0.01


@dataclass(frozen=True)
class Candidate:
    """Dev accuracy of a student, whole and by half, as fractions."""

    dev: float
    easy: float
    hard: float

    @property
    def gap(self) -> float:
        """Relative loss from the easy to the hard half."""
        return uncertainty.relative_gap(self.easy, self.hard)


def choose(candidates: Mapping[float, Candidate]) -> float:
    """The alpha of the smallest gap among those within `WITHIN` of the best dev; ties: the larger."""
    best = max(candidate.dev for candidate in candidates.values())
    able = {alpha: c for alpha, c in candidates.items() if c.dev >= best - WITHIN}
    return min(able, key=lambda alpha: (able[alpha].gap, -alpha))


class Alpha(Stage[Context]):
    """`choice.json`: the chosen alpha, and what each candidate came to."""

    name = "alpha"

    def reads(self, config: Config) -> tuple[str, ...]:
        """The candidates, and which tokens the students read."""
        return (f"{OURS}.uncertainty.alpha_candidates", f"{OURS}.student.init_from")

    def needs(self, run: Context) -> tuple[Stage, ...]:
        """The loss matrix, and a student of each alpha."""
        return (Difficulty(), *map(Student, run.config.robust.uncertainty.alpha_candidates))

    def facts(self, run: Context) -> dict[str, Any]:
        """The set on which it is chosen."""
        return {"dev": run.data.fingerprint("dev")}

    def place(self, run: Context, key: str) -> Path:
        """In the run's directory, beside the students."""
        return run.output_dir / "alpha" / "choice"

    def includes(self, label: str) -> bool:
        """The students' seconds."""
        return label.startswith("alpha ")

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Compare the students."""
        students = {a: made[Student(a).label] for a in run.config.robust.uncertainty.alpha_candidates}
        halves = {a: _halves(run, student, made["difficulty"]) for a, student in students.items()}
        alpha = choose(halves)
        table = {
            f"{a:g}": {"dev": c.dev, "dev_easy": c.easy, "dev_hard": c.hard, "gap": c.gap}
            for a, c in halves.items()
        }
        ranks.say(f"alpha: {alpha:g} of {', '.join(table)} (smallest gap between the halves of dev)")

        def fill(folder: Path) -> None:
            artefacts.write_json(folder / "choice.json", {"alpha": alpha, "candidates": table})

        return fill


def unused(run: Context) -> Context:
    """The run with a value for an alpha "auto" that nothing uses, so that its keys are known."""
    robust = run.config.robust
    idle = robust.uncertainty.alpha == "auto" and not robust.difficulty_used
    return _with(run, ownership.UNUSED_ALPHA) if idle else run


def settle(run: Context) -> tuple[Context, Artefact | None]:
    """The run with a value of alpha, and the choice as an artefact (None: nothing to choose).

    Students are trained for it only if the run makes its student; the chosen one becomes that student.
    """
    run = unused(run)
    if run.config.robust.uncertainty.alpha != "auto":
        return run, None
    train = "student" in run.chosen
    usable = train or find(Difficulty(), run) is not None
    choice = find(Alpha(), run) if usable else None
    if choice is None and not train:
        return _with(run, ownership.UNUSED_ALPHA), None
    if choice is None:
        with run.monitor.progress.stage("alpha"):
            choice = obtain(Alpha(), run)
    elif train:
        obtain(Alpha(), run)  # removes what a run that was killed has left beside it
    alpha = float(artefacts.read_json(choice.path / "choice.json")["alpha"])
    settled = _with(run, alpha)
    if train and find(Student(), settled) is None:
        source = obtain(Student(alpha), run).path
        fill = partial(shutil.copytree, source, dirs_exist_ok=True)
        publish(Student(), settled, time.perf_counter() - choice.seconds, fill)
    return settled, choice


def _halves(context: Context, made: Artefact, losses: Artefact) -> Candidate:
    """Dev accuracy of an exported student, whole and by the halves of the variance."""
    file = score_exported(context.for_student(), made, ["dev"])["dev"]

    def halves() -> Candidate:
        hits = evaluation.correct(np.load(file, mmap_mode="r"), context.data.dev)
        hard = uncertainty.hard_half(difficulty.load_variance(losses.path, "dev"))
        return Candidate(*(float(np.mean(hits[mask])) for mask in (slice(None), ~hard, hard)))

    return ranks.on_main(halves)


def _with(context: Context, alpha: float) -> Context:
    return replace(context, config=context.config.with_alpha(alpha))
