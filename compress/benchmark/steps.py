"""`steps`: where the time of a student's optimiser step goes, by part, with its pruning and without.

Both trainings are in one process group and take turns, so that other load affects both alike. A turn
begins with steps that are not timed, because the feed has made them while the other training was on.
Parts wait for the device here, which a run does not do. What a run does not do in every step (the
report, and a refresh of masks) is timed by itself and counts with its share of the run's steps.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean

import numpy as np
import torch

from compress.benchmark import ours
from compress.compression import resolved
from compress.compression.masks import Masks
from compress.compression.pruner import Pruner
from compress.configuration import config as configuration
from compress.inference import timing
from compress.reporting import steps_report
from compress.reporting.steps_report import Refreshes, Turn
from compress.runtime import ranks
from compress.runtime.launchers import Launch
from compress.stages.context import Context
from compress.training import distributed
from compress.training.feed import AHEAD
from compress.training.monitor import Monitor, open_monitor
from compress.training.profiling import PARTS, StepProfile
from compress.training.trainer import Trainer

LEAD = AHEAD + 1
"""Steps of a turn before the timed ones: those in the feed's queue, and the one that waits for it."""
WITH, WITHOUT = "pruning on", "pruning off"
EVERY_STEP = tuple(name for name in PARTS if name not in ("masks", "logging"))
"""Parts whose mean over the timed steps is that of a run."""


class Recorder(StepProfile):
    """Seconds of each step on this rank, `step`, and of its parts: from the end of the one before."""

    def __init__(self, device: torch.device) -> None:
        """Nothing is recorded yet."""
        super().__init__(None, device, timed=True)
        self.records: list[dict[str, float]] = []
        self._ended, self._before = time.perf_counter(), dict(self.seconds)

    def since(self) -> dict[str, float]:
        """Seconds of each part since the last step has ended."""
        return {name: value - self._before[name] for name, value in self.seconds.items()}

    def step(self) -> None:
        """An optimiser step is done; what follows counts for the next one."""
        super().step()
        now = time.perf_counter()
        self.records.append({**self.since(), "step": now - self._ended})
        self._ended, self._before = now, dict(self.seconds)


@dataclass(frozen=True)
class Contestant:
    """A training that is timed; run_steps: optimiser steps of the student's training in a run."""

    name: str
    trainer: Trainer
    masks: Masks
    recorder: Recorder
    run_steps: int

    def turn(self, number: int, count: int) -> Turn:
        """Seconds of a step by part, over `count` timed steps, in the mean of the ranks."""
        trainer, begun = self.trainer, self.trainer.step
        self.recorder.records.clear()
        trainer.run_until(begun + LEAD + count)
        timed = self.recorder.records[LEAD:]
        plain = [r for n, r in enumerate(timed, begun + LEAD) if not refreshed(self.masks.pruners, n)]
        own = {name: mean(record[name] for record in timed) for name in EVERY_STEP}
        own["masks"] = mean(record["masks"] for record in plain or timed)
        own["logging"] = self.recorder.since()["logging"] / trainer.log_every
        own["rest"] = mean(r["step"] - sum(r[name] for name in PARTS) for r in timed)
        means = ranks.all_sum(np.array(list(own.values()))) / ranks.world_size()
        return Turn(self.name, number, count, len(plain), dict(zip(own, means.tolist(), strict=True)))

    def refreshes(self, apart: bool) -> Refreshes | None:
        """How many refreshes of the masks a run has; None without masks.

        apart: whether one is timed, to what is left at the end; it is the end of this training.
        """
        pruners = self.masks.pruners
        if not pruners:
            return None
        count = sum(refreshed(pruners, step) for step in range(1, self.run_steps + 1))
        return Refreshes(count, self.run_steps, self._refresh() if apart else None)

    def _refresh(self) -> float:
        """Seconds of a refresh of the masks, in the mean of the ranks."""
        wait = timing.synchroniser(self.trainer.device)
        ranks.barrier()
        wait()
        began = time.perf_counter()
        self.masks.after_step(self.masks.complete_from)
        wait()
        seconds = ranks.all_sum(np.array([time.perf_counter() - began])) / ranks.world_size()
        return float(seconds[0])


def refreshed(pruners: Sequence[Pruner], step: int) -> bool:
    """Whether masks are chosen anew once `step` optimiser steps are done."""
    groups = (group for pruner in pruners for group in pruner.groups.values())
    return any(group.schedule(step).refresh_at(step) for group in groups)


def without_pruning(context: Context) -> Context:
    """The same context without `compression_training`."""
    merged = {k: v for k, v in context.config.merged.items() if k != "compression_training"}
    plain = configuration.build(merged, context.config.sources)
    start = context.for_student().encoder.model
    found = resolved.resolve(plain, start, len(context.data.train))
    return replace(context, config=plain, resolved=found)


def _monitor(context: Context) -> Monitor:
    """The monitors of a run that are files, all in the output directory."""
    merged = {key: value for key, value in context.config.merged.items() if key != "wandb"}
    for name in ("tensorboard", "csv_monitor"):
        if name in merged:
            merged[name] = {k: v for k, v in merged[name].items() if k != "output_path"}
    return open_monitor(configuration.build(merged, context.config.sources), context.output_dir)


def _contestant(name: str, context: Context, total: int) -> Contestant:
    """A training that has not begun; total: optimiser steps that it will do."""
    robust, samples = context.config.robust, len(context.data.train)
    epochs = robust.student.epochs or robust.epochs
    in_a_run = configuration.training_steps(context.config, samples, epochs)
    parts = ours.training(name, context, total)
    recorder = Recorder(context.device)
    parts.trainer.profile.close()
    parts.trainer.profile = recorder
    return Contestant(name, parts.trainer, parts.masks, recorder, in_a_run)


def run(options: argparse.Namespace, launch: Launch) -> str:
    """Measure, write steps.md, .json and .png; the table, of the main rank alone."""
    context = ours.begin(ours.settled(options, launch), options.output, launch)
    context = replace(context, monitor=_monitor(context))
    make = partial(_contestant, total=options.rounds * (LEAD + options.steps))
    contestants = [make(WITH, context)] if context.config.compression.active else []
    contestants.append(make(WITHOUT, without_pruning(context)))
    turns = []
    for number in range(options.rounds):
        for place in range(len(contestants)):
            ranks.barrier()
            turns.append(contestants[(number + place) % len(contestants)].turn(number, options.steps))
    first = contestants[0]
    found = first.refreshes(any(turn.between for turn in turns if turn.training == first.name))
    about = {**ours.about(context, options), "steps_per_print": first.trainer.log_every}
    for one in contestants:
        one.trainer.close()
    text = steps_report.write(options.output, about, turns, found) if ranks.is_main() else ""
    distributed.stop()
    return text
