"""`train`: samples a second of a student's training here, and of peers that do the same elsewhere.

One process group; the trainings take turns of a few steps, so that other load affects all alike. Ours
reads the teacher's probabilities from its cache, as a run does; the peers compute them. The teacher is
an untrained classifier of the same shape, because speed does not depend on what it knows.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from compress.benchmark import accuracy, demand, inference, ours
from compress.data.batches import share
from compress.data.columns import Columns
from compress.errors import UserError
from compress.inference import timing
from compress.models import encoders
from compress.reporting import training_report
from compress.reporting.numbers import MEGABYTE
from compress.reporting.training_report import Turn
from compress.runtime import provenance, ranks
from compress.runtime.launchers import Launch
from compress.scoring import split_pass
from compress.stages.context import Context
from compress.training import distributed
from compress.training.trainer import Trainer

WARM = 3
"""Steps of each training before anything is timed."""
PEAK, PEAK_TIMES = {"cpu": 2048, "cuda": 8192}, 5
"""Type of the device -> size of the square matrices whose product tells how fast it can be; how often
that is timed."""
SMALLEST, LONG = 256, 0.2
"""The size begun with, and the seconds of a product after which it is not doubled."""
NAMES = {
    "ours": "robust compression",
    "trainer": "Hugging Face Trainer",
    "padded": "padded to full length",
}
"""Value of --only -> the training's name in the table."""
FORWARDS = {"ours": 3.0, "live": 4.0}
"""Forward passes that a step costs: one, two for the backward pass, and one of a live teacher."""


@dataclass(frozen=True)
class Contestant:
    """A training: does so many steps; tells how many tokens and padded places it has had so far.

    forward: its forward pass in evaluation mode, as it is now.
    """

    name: str
    steps: Callable[[int], object]
    counted: Callable[[], tuple[int, int]]
    forwards: float
    forward: Callable[[], split_pass.Forward]
    close: Callable[[], None] = lambda: None


def run(options: argparse.Namespace, launch: Launch) -> str:
    """Measure, write training.md, .json and .png; the table, of the main rank alone."""
    settled = ours.settled(options, launch)
    if options.only != "ours" and find_spec("accelerate") is None:
        raise UserError(
            "compress.benchmark train needs accelerate for what it compares with; run: pip install -r "
            "requirements-benchmark.txt, or add --only ours."
        )
    if options.teacher is not None:
        accuracy.check(options.teacher, settled[0])
    context = ours.begin(settled, options.output, launch)
    before = _memory(context.device)
    scored = options.teacher is not None and options.only in (None, "ours")
    known = accuracy.known(options.teacher, context) if scored else None
    contestants = _contestants(options, context, known)
    found, looks = [], []
    for one, turn in _interleaved(contestants, options, context.device):
        found.append(turn)
        if options.teacher is not None:
            looks.append(accuracy.look(context, turn, one.forward()))
        reached = f", dev {looks[-1].accuracy:.1%}" if looks else ""
        place = f"round {turn.round + 1} of {options.rounds}"
        ranks.say(f"{place}: {turn.training}: {turn.seconds:.1f} s{reached}")
    after = _memory(context.device)  # before what is not training
    first = [turn.seconds / turn.steps for turn in found if turn.training == contestants[0].name]
    about = _about(context, context.columns["train"], options)
    if known is not None:
        about |= {training_report.SCORED: known.seconds}
    asked = demand.measure(contestants[0].steps, context.device)
    about |= asked.described(statistics.median(first))
    if options.only is not None:
        peak = {key: int(value) for key, value in after.items()}
        about |= {f"peak {key}, MB": round(value / MEGABYTE) for key, value in peak.items()}
        about |= {f"{key} before, MB": round(value / MEGABYTE) for key, value in before.items()}
    for one in contestants:
        one.close()
    text = training_report.write(options.output, about, found, looks) if ranks.is_main() else ""
    distributed.stop()
    return text


def _memory(device: torch.device) -> dict[str, int]:
    """The largest memory of this process so far, in bytes: of the host, and of a GPU."""
    found: dict[str, int] = provenance.now(device)["peak_memory_bytes"]
    return {f"memory of the {name}": size for name, size in found.items()}


def _contestants(
    options: argparse.Namespace, context: Context, known: accuracy.Known | None
) -> list[Contestant]:
    """The trainings that are asked for, all with the schedule of ours."""
    total = WARM + options.rounds * options.steps + demand.STEPS
    steps, given = ours.planned(context, total), None if known is None else known.probabilities
    return [
        _ours(ours.training("benchmark", context, total, given).trainer)
        if name == "ours"
        else _peer(name, context, steps, options.teacher)
        for name in NAMES
        if options.only in (None, name)
    ]


def _peer(name: str, context: Context, steps: int, teacher: Path | None) -> Contestant:
    """A training of Hugging Face's Trainer, stopped before its first step; teacher: None: untrained."""
    from compress.benchmark import peers

    length = context.config.robust.task.max_length if name == "padded" else None
    collate = peers.Padded(context.encoder.tokenizer, length)
    student, columns = _model(context), context.columns["train"]
    models = student, _model(context) if teacher is None else accuracy.load(teacher, context)
    turns = peers.trainer(models, columns, collate, context.config, steps, context.device)
    turns.begin()
    forward = partial(split_pass.forward_of, student, context.device)
    return Contestant(NAMES[name], turns.steps, _reader(collate), FORWARDS["live"], forward)


def _reader(collate: Any) -> Callable[[], tuple[int, int]]:  # noqa: ANN401  peers.Padded
    return lambda: (collate.tokens, collate.places)


def _model(context: Context) -> PreTrainedModel:
    """A classifier of the run's encoder with a new head."""
    torch.manual_seed(context.config.robust.seed)
    return encoders.load_classifier(context.encoder.model, context.data.labels, task=context.data.task)


def _ours(trainer: Trainer) -> Contestant:
    """Our training; what it has had is counted between the turns, from the same order of batches."""
    lengths, parts = trainer.data.lengths, ranks.world_size() * trainer.accumulation
    order, free = cache(trainer.batches), trainer.training.config.robust.padding_free
    done, counts = [0], np.zeros(2, np.int64)

    def counted() -> tuple[int, int]:
        for step in range(done[0], trainer.step):
            epoch, position = divmod(step, trainer.steps_per_epoch)
            for number in range(ranks.rank(), parts, ranks.world_size()):
                indices, valid = share(order(epoch)[position], number, parts)
                counts[0] += int(lengths[indices[valid > 0]].sum())
                counts[1] += lengths[indices].sum() if free else lengths[indices].max() * len(indices)
        done[0] = trainer.step
        return int(counts[0]), int(counts[1])

    def forward() -> split_pass.Forward:
        trainer.engine.eval()
        return trainer.forward

    forwards = FORWARDS["live" if trainer.training.config.robust.layerwise.any else "ours"]
    return Contestant(
        NAMES["ours"],
        lambda count: trainer.run_until(trainer.step + count),
        counted,
        forwards,
        forward,
        trainer.close,
    )


def _interleaved(
    contestants: list[Contestant], options: argparse.Namespace, device: torch.device
) -> Iterator[tuple[Contestant, Turn]]:
    """Each contestant in turn, every round begun by the next one."""
    wait, steps = timing.synchroniser(device), options.steps
    for one in contestants:
        one.steps(WARM)
    for number in range(options.rounds):
        for place in range(len(contestants)):
            one = contestants[(number + place) % len(contestants)]
            ranks.barrier()
            wait()
            before, began = one.counted(), time.perf_counter()
            one.steps(steps)
            wait()
            seconds = time.perf_counter() - began
            new = np.subtract(one.counted(), before).astype(np.float64)
            tokens, places = ranks.all_sum(new).tolist()
            yield one, Turn(one.name, number, steps, seconds, tokens, places, one.forwards)


def _about(context: Context, columns: Columns, options: argparse.Namespace) -> dict[str, Any]:
    """The machine and the task; operations of a forward pass of a token; what the device can do."""
    length = max(2, round(float(columns.lengths.mean())))
    model = timing.ready(_model(context), torch.device("cpu"))
    inputs = timing.random_tokens(model, (1, length), torch.device("cpu"))
    kind = torch.bfloat16 if context.config.deepspeed.low_precision else torch.float32
    return {
        **ours.about(context, options),
        "mean tokens": float(columns.lengths.mean()),
        "operations of a token": inference.flops(model, inputs) / length,
        "peak operations": _peak(context.device, kind) * ranks.world_size(),
    }


def _peak(device: torch.device, kind: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product on this device.

    Smaller where it takes long: float16 and bf16 on a processor without instructions for them.
    """
    size, seconds = SMALLEST, _product(device, kind, SMALLEST)
    while size < PEAK[device.type] and seconds < LONG:
        size *= 2
        seconds = _product(device, kind, size)
    return 2 * size**3 / seconds


def _product(device: torch.device, kind: torch.dtype, size: int) -> float:
    """Seconds of a product of two square matrices of this size: the median of some."""
    one = torch.randn(size, size, dtype=kind, device=device)  # constants are faster than data
    wait, seconds = timing.synchroniser(device), []
    for _ in range(1 + PEAK_TIMES):
        wait()
        began = time.perf_counter()
        one @ one
        wait()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])
