"""Folders of a task's files, read as a configuration names them, and what is told of a wrong one."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from compress.configuration.config import RobustCompression
from compress.data import overlap, rows, sources, splits, tasks, tokens
from compress.data.rows import Rows
from compress.errors import UserError
from compress.stages import tokenised

NLI = ("entailment", "neutral", "contradiction")


def config(task="mnli", ood=None, **block):
    return RobustCompression.model_validate(
        {"task": {"name": task, **block}, "model": "unused", "evaluation": {"ood": ood}}
    )


def rows_of(task, split, place, labels):
    """All rows of a source, in memory."""
    found = list(rows.batches(task, labels, place, splits.entry_of(task, split), 1))
    return Rows(place.name, tuple(labels), pa.Table.from_batches(found))


def read(config, output_dir=None):
    """The splits that a configuration names, without a cache."""
    with tempfile.TemporaryDirectory() as folder:
        task, listing = tasks.of(config.task), Path(output_dir or folder) / overlap.FILE
        places = sources.every(config, task)
        found = {"train": rows_of(task, "train", places.pop("train"), task.labels)}
        labels = splits.class_names(task, found["train"])
        for split, place in places.items():
            own = splits.entry_of(task, split).labels
            found[split] = rows_of(task, split, place, own or labels)
        return splits.select(task, config.task, found, listing)


def encode_split(split, tokenizer, length, folder, keep=None):
    """The split in a tokenizer's tokens, in files."""
    cut = tokens.cut(tokenizer, length, keep)
    tokenised.encode(split, cut, tokenised.largest_id(tokenizer), folder)


def from_folder(folder, task="mnli", ood=None, **block):
    return read(config(task, ood, data_dir=str(folder), **block))


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
