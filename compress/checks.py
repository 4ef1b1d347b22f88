"""Checks of a run before any library is loaded, within two seconds: its purpose, names and paths.

Whatever reads data or loads models is checked later.
"""

from compress.configuration.config import Config
from compress.configuration.merge import further
from compress.data import sources, tasks
from compress.data.tasks import Task
from compress.errors import UserError
from compress.mitigations._shared import PARTIAL_BIAS
from compress.models import directories
from compress.scoring import probabilities

WITHOUT_STUDENT = ("prepare", "teacher", "difficulty")
"""Stages that train no student, so that neither compression nor loss needs to be chosen."""


def check(config: Config, stage: str) -> None:
    """Raise UserError for the first thing that the run lacks for this stage or that does not exist."""
    task = tasks.of(config.robust.task)
    if stage not in WITHOUT_STUDENT:
        _check_student(config)
    check_bias(config, task)
    config.robust.loss.locate()
    for name, given in config.robust.models.items():
        key = f"robust_compression.{name}"
        if (folder := directories.local(given, key)) is not None:
            directories.check(folder, key)
    probabilities.check(config.robust, stage, list(sources.every(config.robust, task)))


def _check_student(config: Config) -> None:
    """A student needs a loss, and something that makes it smaller unless the user wants it whole."""
    check_loss(config)
    if not config.compresses and not config.robust.student.uncompressed:
        raise UserError(
            "compression_training: nothing is compressed; give a file such as "
            "ds_configs/compression/imp40.json, or set robust_compression.student.uncompressed to true "
            "if a student of the teacher's size is meant."
        )


def check_bias(config: Config, task: Task) -> None:
    """Raise UserError for a bias model that sees one text of a pair where samples are single texts."""
    losses = {"loss": config.robust.loss, "teacher.loss": config.robust.teacher.loss}
    asked = {
        f"robust_compression.{key}.bias": loss.bias_model
        for key, loss in losses.items()
        if loss.bias_model in PARTIAL_BIAS
    }
    if task.single and asked:
        first, *others = asked
        raise UserError(
            f"{first}: '{asked[first]}' sees one text of a pair, but the samples of {task.name} are "
            "single texts; take 'shallow', which sees their words and length."
            f"{further('To be changed too', others)}"
        )


def check_loss(config: Config) -> None:
    """Raise UserError unless a loss is chosen."""
    if not config.robust.loss.hook:
        raise UserError(
            "robust_compression.loss.hook: no loss is chosen; give a file such as "
            "ds_configs/mitigation/poe.json, or vanilla.json for the plain loss."
        )
