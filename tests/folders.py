"""Folders of a task's files, read as a configuration names them, and what is told of a wrong one."""

import numpy as np
import pytest

from compress.configuration.config import RobustCompression
from compress.data import splits
from compress.errors import UserError

NLI = ("entailment", "neutral", "contradiction")


def config(task="mnli", ood=None, **block):
    return RobustCompression.model_validate(
        {"task": {"name": task, **block}, "model": "unused", "evaluation": {"ood": ood}}
    )


def from_folder(folder, task="mnli", ood=None, **block):
    return splits.read(config(task, ood, data_dir=str(folder), **block))


def error_of(folder, *words, **options):
    with pytest.raises(UserError) as caught:
        from_folder(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def labelled(*labels, start=0):
    return [
        {"premise": f"p{n}", "hypothesis": f"h{n}", "label": x} for n, x in enumerate(labels, start)
    ]


def renamed(rows, **names):
    return [{names.get(key, key): value for key, value in row.items()} for row in rows]


def token_rows(columns, name="input_ids"):
    """Tokens of each sample of a tokenised split, as lists."""
    return [ids.tolist() for ids in np.split(columns.tokens[name], columns.offsets[1:-1])]
