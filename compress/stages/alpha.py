"""Stage alpha: `uncertainty.alpha` "auto", chosen in distribution (Du et al. 2023, Sec. 5.1).

alpha says how biased a data set is. The student is trained with each candidate; dev is cut at the
median of its own variance into an easy and a hard half; kept is the candidate that loses least from
one to the other, (easy - hard) / easy, among those whose dev accuracy is within a point of the best. No
OOD set is looked at. The paper says on what alpha is chosen, not from which grid: the grid is ours.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from compress import artefacts, ranks, uncertainty
from compress.errors import UserError
from compress.scoring import evaluation
from compress.stages import difficulty, student
from compress.stages.context import Artefact, Context, found, publish, score_exported

WITHIN = 0.01
UNUSED = 0.5
"""alpha where the loss does not use the difficulty: it only scales the report's histogram."""


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


def settle(
    context: Context, teacher: Artefact, hardness: Artefact | None, train: bool
) -> tuple[Context, Artefact | None]:
    """The context with a value of alpha, and the choice as an artefact (None: nothing to choose).

    train: whether students may be trained for it; otherwise only a finished choice counts.
    """
    block, uses = context.config.robust.uncertainty, difficulty.used(context.config.robust)
    if block.alpha != "auto":
        return context, None
    if uses and hardness is None and train:
        raise UserError(
            "robust_compression.uncertainty.alpha: 'auto' cuts dev by the variance of its losses; run "
            "--stage difficulty first."
        )
    if not uses or hardness is None:
        return _with(context, UNUSED), None
    tried = {alpha: _with(context, alpha) for alpha in block.alpha_candidates}
    keys = [artefacts.key(student.inputs_of(c, teacher, hardness)) for c in tried.values()]
    inputs = {"stage": "alpha", "dev": context.data.fingerprint("dev"), "students": keys}
    path = context.output_dir / "alpha" / "choice"
    choice = found(path, inputs)
    if choice is None and not train:
        return _with(context, UNUSED), None
    if choice is None:
        with context.monitor.progress.stage("alpha"):
            choice = _try(tried, teacher, hardness, path, inputs)
    alpha = float(artefacts.read_json(choice.path / "choice.json")["alpha"])
    return tried[alpha], choice


def _try(
    tried: Mapping[float, Context],
    teacher: Artefact,
    hardness: Artefact,
    path: Path,
    inputs: Mapping[str, object],
) -> Artefact:
    """Train a student with each alpha, choose, and make the chosen one the run's student."""
    began, folder = time.perf_counter(), path.parent
    students = {
        a: student.make(c, teacher, hardness, folder / f"{a:g}", name=f"alpha {a:g}")
        for a, c in tried.items()
    }
    halves = {alpha: _halves(tried[alpha], students[alpha], hardness) for alpha in tried}
    alpha = choose(halves)
    table = {
        f"{a:g}": {"dev": c.dev, "dev_easy": c.easy, "dev_hard": c.hard, "gap": c.gap}
        for a, c in halves.items()
    }
    ranks.say(f"alpha: {alpha:g} of {', '.join(table)} (smallest gap between the halves of dev)")

    def copy(target: Path) -> None:
        shutil.copytree(students[alpha].path, target, dirs_exist_ok=True)

    def note(target: Path) -> None:
        artefacts.write_json(target / "choice.json", {"alpha": alpha, "candidates": table})

    publish(tried[alpha].output_dir / "student", students[alpha].inputs, began, copy)
    return publish(path, inputs, began, note)


def _halves(context: Context, made: Artefact, hardness: Artefact) -> Candidate:
    """Dev accuracy of an exported student, whole and by the halves of the variance."""
    scores = score_exported(context.for_student(), made, ["dev"])["dev"]
    hits = evaluation.correct(scores, context.data.dev)
    hard = uncertainty.hard_half(uncertainty.variance(difficulty.load_losses(hardness.path, "dev")))
    return Candidate(*(float(np.mean(hits[mask])) for mask in (slice(None), ~hard, hard)))


def _with(context: Context, alpha: float) -> Context:
    return replace(context, config=context.config.with_alpha(alpha))
