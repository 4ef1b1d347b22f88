"""A run without data on disk and without training, for what is computed from its configuration."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from compress.data import tasks
from compress.data.splits import Split, TaskData
from compress.stages.context import Context, Encoder


def own_loss(logits, labels, teacher, difficulty, weights):
    return logits[:, 0]


def own_loss_without_difficulty(logits, labels, teacher, _difficulty, weights):
    return logits[:, 0]


def split(*words, names=("a", "b")):
    labels = np.arange(len(words)) % 2
    return Split.of((list(words), list(words)), labels, names, (0, 1))


def run_of(config, model, folder=Path("/nowhere"), words=(), **changes):
    """A run of this configuration; model: a directory; words: of the splits that differ, by name."""
    texts = {"train": ("one", "two"), "dev": ("three", "four"), "ood": ("five", "six"), **dict(words)}
    task, parts = tasks.of(config.robust.task), {name: split(*texts[name]) for name in texts}
    data = TaskData(task, ("a", "b"), parts["train"], parts["dev"], {"set": parts["ood"]})
    side = SimpleNamespace(padding_side="right", model_input_names=["input_ids"])
    encoders = {
        key: Encoder(Path(model), f"content of {name}", side, {})
        for key, name in config.robust.models.items()
    }
    base = {
        "config": config,
        "output_dir": folder / "run",
        "cache_dir": folder / "shared",
        "device": torch.device("cpu"),
        "data": data,
        "resolved": None,
        "encoders": encoders,
    }
    return Context(**{**base, **changes})
