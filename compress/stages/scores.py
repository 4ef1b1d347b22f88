"""Stage scores: log-probabilities of a finished model on dev and every OOD set."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from compress.configuration.config import Config
from compress.configuration.used_keys import OURS
from compress.scoring import evaluation
from compress.stages.context import Context, score_exported
from compress.stages.stage import Fill, Stage, obtain
from compress.stages.student import Student
from compress.stages.teacher import Teacher
from compress.stages.workspace import Artefact


@dataclass(frozen=True)
class Scores(Stage[Context]):
    """`<split>.npy`: log-probabilities [N, C]; the teacher's are in the cache, as it is."""

    role: Literal["teacher", "student"]
    name = "scores"

    @property
    def label(self) -> str:
        """With the model."""
        return f"{self.name} of the {self.role}"

    def reads(self, config: Config) -> tuple[str, ...]:
        """The precisions, and what the student started from, which decides its tokens."""
        own = (f"{OURS}.student.init_from",) if self.role == "student" else ()
        return (f"{OURS}.precision", f"{OURS}.evaluation.precision", *own)

    def needs(self, run: Context) -> tuple[Stage, ...]:
        """The model."""
        return (Teacher() if self.role == "teacher" else Student(),)

    def facts(self, run: Context) -> dict[str, Any]:
        """Content of the splits."""
        return {name: run.data.fingerprint(name) for name in run.data.splits() if name != "train"}

    def place(self, run: Context, key: str) -> Path:
        """In the cache, or in the run's directory."""
        return super().place(run, key) if self.role == "teacher" else run.output_dir / self.name

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Score the exported model."""
        names = [name for name in run.data.splits() if name != "train"]
        own = run.for_teacher() if self.role == "teacher" else run.for_student()
        scores = score_exported(own, made[self.role], names)

        def fill(folder: Path) -> None:
            for name, values in scores.items():
                np.save(folder / f"{name}.npy", values)

        return fill


def load(run: Context, role: Literal["teacher", "student"]) -> evaluation.Scores:
    """The scores of a model, made if they are missing."""
    path = obtain(Scores(role), run).path
    loaded = {name: np.load(path / f"{name}.npy") for name in run.data.splits() if name != "train"}
    return evaluation.Scores(
        loaded.pop("dev"), {name.removeprefix("ood_"): values for name, values in loaded.items()}
    )
