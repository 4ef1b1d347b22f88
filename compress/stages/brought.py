"""The models that a user brings: `model`, `student.model`, `teacher.model`, each with its own tokens.

What: `check` says how their labels are read and refuses what cannot be; `check_equal_tokens` refuses
two models that cannot be compared token by token.
"""

from collections.abc import Mapping
from pathlib import Path

from compress.configuration.robust_schema import RobustCompression
from compress.data.splits import TaskData
from compress.errors import UserError
from compress.models import encoders
from compress.stages.context import Encoder, say


def names(robust: RobustCompression) -> dict[str, str]:
    """The models that the configuration names, by key: the run's encoder first."""
    given = {
        "model": robust.model,
        "student.model": robust.student.model,
        "teacher.model": robust.teacher.model,
    }
    return {key: name for key, name in given.items() if name is not None}


def check(folders: Mapping[str, Path], data: TaskData) -> None:
    """Say what is done to the labels of each model; UserError if they cannot be the task's.

    folders: the models' directories by key.
    """
    for key, folder in folders.items():
        trained = key == "teacher.model"
        order = encoders.find_labels(folder, data.labels, data.task, trained)
        if trained:
            encoders.check_weights(folder)
        if order.note is not None:
            say(f"WARNING: robust_compression.{key} {folder}: {order.note}.")


def check_equal_tokens(one: Encoder, other: Encoder) -> None:
    """Raise UserError unless two models have every training pair in the same tokens.

    For the terms that compare them token by token.
    """
    if one is other:
        return
    for column in ("input_ids", "token_type_ids"):
        both = [encoder.columns["train"].table.data for encoder in (one, other)]
        held = [table.column(column) for table in both if column in table.column_names]
        if len(held) == 1 or (held and not held[0].equals(held[1])):
            raise UserError(
                "robust_compression.layerwise: the student's tokenizer does not produce the teacher's "
                "tokens on all training texts, so they cannot be compared; set hidden and attention to "
                "0, or take a student with the teacher's tokenizer."
            )
