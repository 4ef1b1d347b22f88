"""What the benchmarks of trainings share: a student's training as in a run, and what is said of it.

It reads the teacher's probabilities from memory, as a run does. They are made up, and so is all else
that a loss knows of the samples, because speed does not depend on it.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compress import checks
from compress import run as whole_run
from compress.benchmark import inference
from compress.configuration import config as configuration
from compress.configuration import machine, precision
from compress.configuration.config import Config
from compress.inference import timing
from compress.models import encoders
from compress.runtime import ranks
from compress.runtime.launchers import Launch
from compress.stages import export, student
from compress.stages.context import Context
from compress.stages.student_export import Trained
from compress.training import distributed

Settled = tuple[Config, str | None]
"""A configuration with its precision, and the line that says so if it was chosen."""


def settled(options: argparse.Namespace, launch: Launch) -> Settled:
    """The configuration of the command line; UserError for what it or this machine cannot do."""
    settings = configuration.load(options.deepspeed_config, options.overrides, launch.ranks)
    checks.check_loss(settings)
    settings.robust.loss.locate()
    settings.robust.loss.load()
    found = precision.settle(settings)
    machine.check(found[0])
    return found


def begin(known: Settled, output: Path, launch: Launch) -> Context:
    """Make the directory of the results, join the process group, prepare the data."""
    settings, line = known
    inference.make_folder(output)
    device = distributed.start(timeout=60 * settings.robust.timeout, launch=launch)
    whole_run.agree_on_precision(line)
    return whole_run.prepare(settings, output / "run", device, whole_run.PREPARE)


def planned(context: Context, steps: int) -> int:
    """Optimiser steps of a training of so many at least, which has whole epochs."""
    each = configuration.training_steps(context.config, len(context.data.train), 1)
    return each * -(-steps // each)


def training(
    name: str, context: Context, steps: int, probabilities: NDArray[np.float32] | None = None
) -> Trained:
    """The student's training, for so many optimiser steps at least.

    probabilities: of a teacher [N, C]; None: made up.
    """
    count, classes = len(context.data.train), len(context.data.labels)
    draw = np.random.default_rng(0)
    if probabilities is None:
        probabilities = draw.dirichlet(np.ones(classes), count).astype(np.float32)
    loss, difficulty = context.config.robust.loss, draw.uniform(0, 1, count)
    known = loss.sample_data(probabilities, difficulty, 0.5, probabilities)
    own = context.for_student()
    each = configuration.training_steps(context.config, count, 1)
    epochs, start = planned(context, steps) // each, own.encoder.model
    if context.config.robust.layerwise.any:
        start = ranks.on_main(lambda: _teacher(context, own))
    return student.assemble(name, context, start, known, epochs)


def _teacher(context: Context, own: Context) -> Path:
    """Directory of an untrained classifier, for layer-wise terms; own: the student's context."""
    folder, data = context.output_dir / "teacher", context.data
    model = encoders.load_classifier(own.encoder.model, data.labels, task=data.task)
    length = context.config.robust.task.max_length
    export.save(model, own.encoder.tokenizer, length, data.task, folder)
    return folder


def about(context: Context, options: argparse.Namespace) -> dict[str, Any]:
    """The machine and the task, for the table."""
    settings = context.config
    precise = settings.robust.precision or "fp32"
    return {
        **timing.machine(context.device, torch.get_num_threads()),
        "ranks": ranks.world_size(),
        "ZeRO": settings.deepspeed.zero_optimization.stage,
        "precision": "bf16" if settings.deepspeed.low_precision else precise,
        "task": settings.robust.task.name,
        "model": settings.robust.model,
        "batch": settings.deepspeed.train_batch_size,
        "compression": settings.compression_label,
        "loss": settings.mitigation_label,
        "rounds": options.rounds,
        "steps": options.steps,
    }
