"""Stage scores: log-probabilities of a finished model on dev and every OOD set."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from compress.configuration.config import Config
from compress.configuration.used_keys import OURS
from compress.scoring import evaluation
from compress.stages import given_probabilities
from compress.stages.context import Context, score_exported
from compress.stages.plain import Plain
from compress.stages.stage import Fill, Stage
from compress.stages.student import Student
from compress.stages.teacher import PlainTeacher, Teacher
from compress.stages.workspace import Artefact

Role = Literal["teacher", "plain_teacher", "plain", "student"]
MODELS: dict[Role, Stage[Context]] = {
    "teacher": Teacher(),
    "plain_teacher": PlainTeacher(),
    "plain": Plain(),
    "student": Student(),
}
"""Which stage makes the model of a role."""
NAMES = {
    "teacher": "teacher",
    "plain_teacher": "teacher with the plain loss",
    "plain": "student with the plain loss",
    "student": "student",
}
"""Role -> what the model is called."""
TEACHERS = ("teacher", "plain_teacher")


@dataclass(frozen=True)
class Scores(Stage[Context]):
    """`<split>.npy`: log-probabilities [N, C]; the teacher's are in the cache, as it is."""

    role: Role
    name = "scores"

    @property
    def label(self) -> str:
        """With the model."""
        return f"{self.name} of the {NAMES[self.role]}"

    def reads(self, config: Config) -> tuple[str, ...]:
        """The precisions, and what the student started from, which decides its tokens.

        Of a teacher's given probabilities which samples the run uses.
        """
        if self.given(config):
            return given_probabilities.READS
        own = () if self.role in TEACHERS else (f"{OURS}.student.init_from",)
        return (f"{OURS}.precision", f"{OURS}.evaluation.precision", *own)

    def given(self, config: Config) -> bool:
        """Whether they are read from `teacher.probabilities`."""
        return self.role == "teacher" and config.robust.teacher.probabilities is not None

    def needs(self, run: Context) -> tuple[Stage, ...]:
        """The model, if there is one."""
        return () if self.given(run.config) else (MODELS[self.role],)

    def facts(self, run: Context) -> dict[str, Any]:
        """Content of the splits, or of the files of given probabilities."""
        if self.given(run.config):
            return given_probabilities.facts(run, *splits(run))
        return facts(run)

    def place(self, run: Context, key: str) -> Path:
        """In the run's directory for its student, else in the cache."""
        return run.output_dir / self.name if self.role == "student" else super().place(run, key)

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Score the exported model, or read what is given."""
        if not self.given(run.config):
            own = run.for_teacher() if self.role in TEACHERS else run.for_student()
            return copied(score_exported(own, made[MODELS[self.role].label], splits(run)))

        def fill(folder: Path) -> None:
            for name in splits(run):
                np.save(folder / f"{name}.npy", given_probabilities.logs(run, name))

        return fill


def roles(config: Config) -> list[Role]:
    """The models that a run scores."""
    robust = config.robust
    left_out = {"plain"} if not robust.evaluation.baseline else set()
    left_out |= {"plain_teacher"} if not robust.plain_teacher else set()
    return [role for role in MODELS if role not in left_out]


def splits(run: Context) -> list[str]:
    """Names of the splits that are scored."""
    return [name for name in run.data.splits() if name != "train"]


def facts(run: Context) -> dict[str, Any]:
    """What scores depend on beside the model: content of the splits."""
    return {name: run.data.fingerprint(name) for name in splits(run)}


def copied(files: Mapping[str, Path]) -> Fill:
    """A function that copies files of log-probabilities [N, C] by split into a directory."""

    def fill(folder: Path) -> None:
        for name, file in files.items():
            shutil.copyfile(file, folder / f"{name}.npy")

    return fill


def load(run: Context, made: Artefact) -> evaluation.Scores:
    """What such a stage has written; for the main rank alone, because it is of all samples."""
    path = made.path
    loaded = {name: np.load(path / f"{name}.npy") for name in splits(run)}
    return evaluation.Scores(
        loaded.pop("dev"), {name.removeprefix("ood_"): values for name, values in loaded.items()}
    )
