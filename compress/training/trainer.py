"""Training through `deepspeed.initialize`: one loop for teacher, sub-networks and student.

What: `Trainer.run_until(step)` trains to an optimiser step and can be called again, so that a
trajectory stops, scores and goes on. The loss hook gives one loss per sample; it is reduced here,
once: the sum over the whole batch divided by its size, for any number of ranks.

The state of the loop is in `state_dict()`; optimiser and learning-rate schedule are the engine's own.
Resuming inside a stage is not wired up yet.
"""

import contextlib
import io
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import deepspeed
import numpy as np
import torch
from deepspeed.accelerator import get_accelerator
from torch import Tensor
from transformers import PreTrainedModel

from compress import losses, memory, ranks
from compress.compression.masks import Masks
from compress.configuration.config import Config, batch_split, training_steps
from compress.data.batches import Columns, Indices, epoch_batches, share
from compress.errors import UserError, first_line
from compress.interrupts import RANK_VARIABLES
from compress.signals import Signals
from compress.training.engine import engine_settings, parameter_groups
from compress.training.monitor import Monitor, quieten

KEPT = 200
"""Of so many steps the losses are kept, to say at which one they were not finite."""


def start(log_level: int = logging.ERROR) -> torch.device:
    """Join the process group and return this rank's device.

    log_level: of DeepSpeed's own lines, which come from the main rank only.

    Without a launcher this process is alone; under mpirun or srun DeepSpeed finds the ranks. Its
    shared-memory all-reduce is left out: it serves inference only, needs a compiler, and leaves 66 MiB
    a rank and run in /dev/shm, where a container has 64 MB in all (see upstream issue #4002).
    """
    quieten()
    deepspeed.utils.logger.setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not os.environ.keys() & set(RANK_VARIABLES):
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ.update(alone, MASTER_PORT=str(ranks.free_port()))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            deepspeed.init_distributed(verbose=False)
    except torch.distributed.DistNetworkError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"the ranks cannot meet at {where} ({first_line(error)}); if another run has the "
            "port, start with `deepspeed --master_port N`."
        ) from None
    if ranks.is_main():
        deepspeed.utils.logger.setLevel(log_level)
    accelerator = get_accelerator()
    if accelerator.device_name() == "cpu":
        return torch.device("cpu")
    accelerator.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(accelerator.current_device_name())


def stop() -> None:
    """Leave the process group."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


AfterEpoch = Callable[["Trainer"], dict[str, float]]


class Trainer:
    """One model in training. Steps are optimiser steps, counted from 0."""

    def __init__(
        self,
        name: str,
        config: Config,
        model: PreTrainedModel,
        masks: Masks,
        data: Columns,
        signals: Signals,
        epochs: int,
        device: torch.device,
        monitor: Monitor,
    ) -> None:
        """Build the engine. name: prefix of the events; epochs: length of the learning-rate schedule.

        Raises UserError if the batch sizes do not fit the number of ranks.
        """
        self.name, self.data, self.signals = name, data, signals
        self.masks, self.device, self.monitor, self._config = masks, device, monitor, config
        self.seed = config.robust.seed
        self.batch_size = config.deepspeed.train_batch_size
        self.steps_per_epoch = training_steps(config, len(data), epochs=1)
        self.total_steps = training_steps(config, len(data), epochs)
        self.log_every = config.deepspeed.steps_per_print or 10
        self.step = 0
        self.best: dict[str, float] = {}
        micro, self.accumulation = batch_split(config, ranks.world_size())
        self._micro, self._shape = micro, list[int]()
        groups = parameter_groups(model, config)
        settings = engine_settings(config, self.total_steps, micro, self.accumulation, groups)
        with memory.building(name, config):
            self.engine = deepspeed.initialize(
                model=model,
                model_parameters=groups,
                config={**settings, **masks.engine_block()},
            )[0]
        masks.bind(self.engine)
        torch.manual_seed(self.seed + 1 + ranks.rank())
        self._window = _Window(KEPT * self.accumulation)
        self._batches: tuple[int, list[Indices]] = (-1, [])

    def run_until(self, step: int, after_epoch: AfterEpoch | None = None) -> None:
        """Train up to this optimiser step; write what `after_epoch` measures to the monitor.

        Raises UserError if the loss is not finite; all ranks see it alike.
        """
        self.engine.train()
        self._window.restart()
        with self.monitor.progress.training(self.name, self.step, self.total_steps):
            self.masks.after_step(self.step)
            while self.step < step:
                self._checked_step(self._batch(self.step))
                self.step += 1
                self.masks.after_step(self.step)
                due = self.step % self.log_every == 0 or self.step == step
                self.monitor.progress.step(self._report() if due else None)
                if after_epoch is not None and self.step % self.steps_per_epoch == 0:
                    self._measured(after_epoch(self))

    def _measured(self, values: dict[str, float]) -> None:
        with ranks.heeding_main():
            self.monitor.scalars(self.name, values, self.step)
        self.best |= {name: max(value, self.best.get(name, value)) for name, value in values.items()}
        self.engine.train()
        self._window.restart()

    def _batch(self, step: int) -> Indices:
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._batches[0] != epoch:
            lengths = self.data.lengths
            self._batches = (epoch, epoch_batches(lengths, self.batch_size, self.seed, epoch))
        return self._batches[1][position]

    def _checked_step(self, batch: Indices) -> None:
        """`_train_step`; UserError if memory does not suffice."""
        where, shape = f"{self.name}: step {self.step + 1}", self._shape
        shape.clear()
        with memory.training(where, shape, (self._micro, self.accumulation), self._config):
            self._train_step(batch)

    def _train_step(self, batch: Indices) -> None:
        weights = replace(self.signals.weights, progress=self.step / self.total_steps)
        if self.signals.batch_weight is not None and self.accumulation > 1:
            weights = replace(weights, batch_mean=self._look_ahead(batch, weights))
        for turn in range(self.accumulation):
            indices, counted, labels = self._part(batch, turn)
            teacher, hardness = self.signals.take(indices, self.device)
            inputs, extra = self.data.batch(indices, self.device), self.signals.layerwise
            self._shape[:] = inputs["input_ids"].shape
            outputs = self.engine(**inputs, **(extra.arguments if extra else {}))
            logits = outputs.logits
            if self.signals.batch_weight is not None and self.accumulation == 1:
                raw = self.signals.batch_weight(logits, labels, weights)
                weights = replace(weights, batch_mean=self._mean([raw * counted], len(batch)))
            per_sample = self.signals.loss(logits, labels, teacher, hardness, weights)
            layers = extra.per_sample(inputs, outputs) if extra else {}
            if extra:
                per_sample = per_sample + extra.total(layers)
            parts = ranks.world_size() * self.accumulation
            loss = (per_sample * counted).sum() * (parts / len(batch))
            self.engine.backward(loss)
            self.engine.step()
            with torch.no_grad():
                terms = losses.parts(logits, labels, teacher) | layers
                self._window.add(loss=per_sample, **terms, counted=counted)

    def _part(self, batch: Indices, turn: int) -> tuple[Indices, Tensor, Tensor]:
        """This rank's samples of one micro-batch: indices, 1 or 0 (padding) [m], labels [m]."""
        world = ranks.world_size()
        part = turn * world + ranks.rank()
        indices, weight = share(batch, part, world * self.accumulation)
        counted = torch.as_tensor(weight).to(self.device)
        return indices, counted, torch.as_tensor(self.data.labels[indices]).to(self.device)

    def _look_ahead(self, batch: Indices, weights: losses.LossWeights) -> Tensor:
        """Mean of the batch weight over all micro-batches, which are run once more for it.

        Random states are put back, so that the training pass draws the same dropout.
        """
        assert self.signals.batch_weight is not None
        accelerator = get_accelerator()
        states, sums = (torch.get_rng_state(), accelerator.get_rng_state()), []
        with torch.no_grad():
            for turn in range(self.accumulation):
                indices, counted, labels = self._part(batch, turn)
                logits = self.forward(self.data.batch(indices, self.device))
                sums.append(self.signals.batch_weight(logits, labels, weights) * counted)
        torch.set_rng_state(states[0])
        accelerator.set_rng_state(states[1])
        return self._mean(sums, len(batch))

    def _mean(self, values: Sequence[Tensor], size: int) -> Tensor:
        """Sum of the values of all ranks over the size of the whole batch, []."""
        local = torch.stack([value.sum() for value in values]).sum()
        total = ranks.all_sum(local.cpu().numpy())
        return torch.as_tensor(total / size, dtype=torch.float32).to(self.device)

    def _report(self) -> dict[str, float]:
        """Means over the steps since the last report, over all ranks; written to the monitor."""
        history = list(self._window.history)
        values = self._window.means()
        if not np.isfinite(values["loss"]):
            raise UserError(self._astray(history))
        rate = (self.engine.get_lr() or [0.0])[0]
        values.update(lr=rate, sparsity=self.masks.sparsity())
        with ranks.heeding_main():
            self.monitor.scalars(self.name, values, self.step)
        return values

    def _astray(self, history: Sequence[tuple[Tensor, Tensor]]) -> str:
        """What to say of a loss that is not finite: the first such step, whether the hook made it."""
        local = np.array([[float(loss), float(gold)] for loss, gold in history])
        steps = ranks.all_sum(local).reshape(-1, self.accumulation, 2).sum(axis=1)
        first = int(np.argmin(np.isfinite(steps[:, 0])))
        step = self.step - len(steps) + first + 1
        epoch = (step - 1) // self.steps_per_epoch + 1
        where, hook = f"at step {step} (epoch {epoch})", self.signals.hook
        if hook is not None and np.isfinite(steps[first, 1]):
            return (
                f"robust_compression.loss.hook: '{hook}' makes {self.name} go astray, the loss is not "
                f"finite {where} though the model's outputs are; mend the function."
            )
        also = f", look at robust_compression.loss.hook ('{hook}')" if hook else ""
        return (
            f"{self.name}: the loss is not finite {where}; lower optimizer.params.lr, set "
            f"gradient_clipping, use bf16 instead of fp16{also}."
        )

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits [B, C] of model inputs, through the engine (collective under ZeRO 3)."""
        return self.engine(**inputs).logits

    def state_dict(self) -> dict[str, Any]:
        """All state of this loop: step (epoch and batch follow from it), masks, random state, best."""
        return {
            "step": self.step,
            "epoch": self.step // self.steps_per_epoch,
            "seed": self.seed,
            "masks": self.masks.state_dict(),
            "rng": {"cpu": torch.get_rng_state(), "device": get_accelerator().get_rng_state()},
            "best": dict(self.best),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict()` was taken."""
        self.step, self.seed, self.best = state["step"], state["seed"], dict(state["best"])
        self.masks.load_state_dict(state["masks"])
        torch.set_rng_state(state["rng"]["cpu"])
        get_accelerator().set_rng_state(state["rng"]["device"])
        self._batches = (-1, [])

    def close(self) -> None:
        """Release the engine, so that another can be built in this process."""
        self.engine.destroy()


class _Window:
    """Sums of per-sample values since the last report, and (loss, cross-entropy) by micro-batch."""

    def __init__(self, kept: int) -> None:
        self.sums: dict[str, Tensor] = {}
        self.history: deque[tuple[Tensor, Tensor]] = deque(maxlen=kept)
        self.began = time.perf_counter()

    def restart(self) -> None:
        """Do not count the time since the last report (evaluation) as training."""
        if not self.sums:
            self.began = time.perf_counter()

    def add(self, counted: Tensor, **values: Tensor) -> None:
        rows = {"samples": counted.sum()}
        rows |= {name: (value.detach().float() * counted).sum() for name, value in values.items()}
        self.history.append((rows["loss"], rows["cross_entropy"]))
        for name, value in rows.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value

    def means(self) -> dict[str, float]:
        names = list(self.sums)
        local = np.array([float(self.sums[name]) for name in names])
        totals = dict(zip(names, ranks.all_sum(local), strict=True))
        samples = totals.pop("samples")
        seconds = time.perf_counter() - self.began
        self.sums, self.began = {}, time.perf_counter()
        self.history.clear()
        means = {name: float(total / samples) for name, total in totals.items()}
        return {**means, "samples_per_second": float(samples / seconds)}
