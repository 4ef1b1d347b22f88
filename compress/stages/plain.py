"""Stage plain: the run's student trained with the plain loss, to show what the mitigation changes.

Compressed and trained alike but for the loss: cross-entropy without layer-wise terms; if it starts from
the teacher, from one that is trained with cross-entropy too. Runs that differ only in the mitigation
share it in the cache.
"""

from pathlib import Path

from compress.configuration.config import Config
from compress.stages.context import Context
from compress.stages.stage import Stage
from compress.stages.student import Student
from compress.stages.teacher import PlainTeacher, Teacher


class Plain(Student):
    """As `Student`, of the same configuration with the plain loss."""

    name = "plain"

    def configured(self, config: Config) -> Config:
        """With the plain loss."""
        return config.with_plain_loss()

    def teacher(self, run: Context) -> Teacher:
        """One with the plain loss, if it starts from it."""
        return PlainTeacher() if run.config.robust.plain_teacher else super().teacher(run)

    def place(self, run: Context, key: str) -> Path:
        """In the cache."""
        return Stage.place(self, run, key)

    def missing(self, run: Context) -> str:
        """It is made with the student."""
        return (
            f"--stage {run.stage}: there is no student with the plain loss yet "
            "(robust_compression.evaluation.baseline); run --stage student first."
        )
