"""What can be checked of a run before any library is loaded: its purpose, names and paths.

A mistake is told within two seconds; reading data, loading models and joining the process group come
later and check what they read.
"""

from compress.configuration.config import Config
from compress.data import sources, tasks
from compress.errors import UserError
from compress.models import directories

WITHOUT_STUDENT = ("teacher", "difficulty")
"""Stages that train no student, so that neither compression nor loss needs to be chosen."""


def check(config: Config, stage: str) -> None:
    """Raise UserError for the first thing that the run at this stage lacks or that is not there."""
    task = tasks.of(config.robust.task)
    if stage not in WITHOUT_STUDENT:
        _purpose(config)
    config.robust.loss.locate()
    for name, given in config.robust.models.items():
        key = f"robust_compression.{name}"
        if (folder := directories.local(given, key)) is not None:
            directories.check(folder, key)
    sources.every(config.robust, task)


def _purpose(config: Config) -> None:
    """A student needs a loss, and something that makes it smaller unless the user wants it whole."""
    if not config.robust.loss.hook:
        raise UserError(
            "robust_compression.loss.hook: no loss is chosen; give a file such as "
            "ds_configs/mitigation/rmc.json, or vanilla.json for the plain loss."
        )
    if not config.compresses and not config.robust.student.uncompressed:
        raise UserError(
            "compression_training: nothing is compressed; give a file such as "
            "ds_configs/compression/imp40.json, or set robust_compression.student.uncompressed to true "
            "if a student of the teacher's size is meant."
        )
