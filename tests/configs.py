"""Configurations for tests of them: small parts, and a class that writes and loads them."""

import itertools
import json
from pathlib import Path

import pytest

from compress.configuration.config import load
from compress.errors import UserError

ROOT = Path(__file__).parents[1]
BASE = {
    "train_batch_size": 8,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},
    "zero_optimization": {"stage": 2},
    "robust_compression": {
        "task": {"name": "synthetic"},
        "model": "some-encoder",
        "loss": {"hook": "rmc"},
    },
}
SPARSE = {
    "compression_training": {
        "sparse_pruning": {
            "shared_parameters": {"enabled": True},
            "different_groups": {"encoder": {"params": {"dense_ratio": 0.6}, "modules": ["encoder"]}},
        }
    }
}
FULL = {
    **SPARSE,
    "bf16": {"enabled": True},
    "scheduler": {"type": "WarmupLR", "params": {}},
    "tensorboard": {"enabled": True},
    "zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}},
}
OURS = "robust_compression"


def at(path, value):
    """`{"a": {"b": value}}` of `a.b`."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


class Files:
    """Writes JSON files and loads them."""

    def __init__(self, folder):
        self.folder, self.count = folder, itertools.count()

    def write(self, content):
        file = self.folder / f"part{next(self.count)}.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    def load(self, *contents, overrides=()):
        return load([self.write(content) for content in (BASE, *contents)], overrides)

    def refused(self, *contents, overrides=()):
        """(the sentence, the last file) of a mistake."""
        written = [self.write(content) for content in (BASE, *contents)]
        with pytest.raises(UserError) as error:
            load(written, overrides)
        sentence = str(error.value)
        assert "\n" not in sentence and sentence[-1] in ".?"
        return sentence, str(written[-1])
