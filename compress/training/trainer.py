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
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.monitor.config import get_monitor_config
from deepspeed.monitor.monitor import MonitorMaster
from torch import Tensor
from transformers import PreTrainedModel

from compress import disk, losses, ranks
from compress.compression.masks import Masks
from compress.configuration.config import Config, batch_split, training_steps
from compress.data.batches import Columns, Indices, epoch_batches, share
from compress.errors import UserError
from compress.signals import Signals
from compress.training.engine import engine_settings, parameter_groups
from compress.training.monitor import Monitor, Progress, quieten

STARTED_BY = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID"}


def start(log_level: int = logging.ERROR) -> torch.device:
    """Join the process group and return this rank's device.

    Without a launcher this process is alone; under mpirun or srun DeepSpeed finds the ranks. Its
    shared-memory all-reduce is left out: it serves inference only, needs a compiler, and leaves 66 MiB
    a rank and run in /dev/shm, where a container has 64 MB in all (see upstream issue #4002).
    """
    quieten()
    deepspeed.utils.logger.setLevel(log_level)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if "RANK" not in os.environ and not STARTED_BY.intersection(os.environ):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ.update(alone, MASTER_PORT=port)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            deepspeed.init_distributed(verbose=False)
    except torch.distributed.DistNetworkError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"the ranks cannot meet at {where} ({str(error).splitlines()[0]}); if another run has the "
            "port, start with `deepspeed --master_port N`."
        ) from None
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
        self.masks, self.device, self.monitor = masks, device, monitor
        self.seed = config.robust.seed
        self.batch_size = config.deepspeed.train_batch_size
        self.steps_per_epoch = training_steps(config, len(data), epochs=1)
        self.total_steps = training_steps(config, len(data), epochs)
        self.log_every = config.deepspeed.steps_per_print or 10
        self.step = 0
        self.best: dict[str, float] = {}
        micro, self.accumulation = batch_split(config, ranks.world_size())
        groups = parameter_groups(model, config)
        settings = engine_settings(config, self.total_steps, micro, self.accumulation, groups)
        self.engine = deepspeed.initialize(
            model=model,
            model_parameters=groups,
            config={**settings, **masks.engine_block()},
        )[0]
        masks.attach(self.engine)
        torch.manual_seed(self.seed + 1 + ranks.rank())
        self._window = _Window()
        self._batches: tuple[int, list[Indices]] = (-1, [])

    def run_until(self, step: int, after_epoch: AfterEpoch | None = None) -> None:
        """Train up to this optimiser step; write what `after_epoch` measures to the monitor.

        Raises UserError if the loss is not finite; all ranks see it alike.
        """
        self.engine.train()
        self._window.restart()
        with Progress(self.name, self.step, step, self.total_steps) as progress:
            self.masks.refresh(self.step)
            while self.step < step:
                self._train_step(self._batch(self.step))
                self.step += 1
                self.masks.refresh(self.step)
                if self.step % self.log_every == 0 or self.step == step:
                    progress.update(self.step, self._report())
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

    def _train_step(self, batch: Indices) -> None:
        weights = replace(self.signals.weights, progress=self.step / self.total_steps)
        if self.signals.batch_weight is not None and self.accumulation > 1:
            weights = replace(weights, batch_mean=self._look_ahead(batch, weights))
        for turn in range(self.accumulation):
            indices, counted, labels = self._part(batch, turn)
            teacher, hardness = self.signals.take(indices, self.device)
            inputs, extra = self.data.batch(indices, self.device), self.signals.layerwise
            outputs = self.engine(**inputs, **(extra.arguments if extra else {}))
            logits = outputs.logits
            if self.signals.batch_weight is not None and self.accumulation == 1:
                raw = self.signals.batch_weight(logits, labels, weights)
                weights = replace(weights, batch_mean=self._mean([raw * counted], len(batch)))
            per_sample = self.signals.loss(logits, labels, teacher, hardness, weights)
            if per_sample.shape != labels.shape:
                raise UserError(
                    f"robust_compression.loss.hook: returned a tensor of shape "
                    f"{list(per_sample.shape)}, but one loss per sample is {list(labels.shape)}."
                )
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
        values = self._window.means()
        if not np.isfinite(values["loss"]):
            epoch = (self.step - 1) // self.steps_per_epoch + 1
            raise UserError(
                f"{self.name}: the loss is not finite at step {self.step} (epoch {epoch}); lower "
                "optimizer.params.lr, set gradient_clipping, or use bf16 instead of fp16."
            )
        rate = (self.engine.get_lr() or [0.0])[0]
        values.update(lr=rate, sparsity=self.masks.sparsity())
        with ranks.heeding_main():
            self.monitor.scalars(self.name, values, self.step)
        return values

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
    """Sums of per-sample values since the last report."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.began = time.perf_counter()

    def restart(self) -> None:
        """Do not count the time since the last report (evaluation) as training."""
        if not self.sums:
            self.began = time.perf_counter()

    def add(self, counted: Tensor, **values: Tensor) -> None:
        rows = {"samples": counted.sum()}
        rows |= {name: (value.detach().float() * counted).sum() for name, value in values.items()}
        for name, value in rows.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value

    def means(self) -> dict[str, float]:
        names = list(self.sums)
        local = np.array([float(self.sums[name]) for name in names])
        totals = dict(zip(names, ranks.all_sum(local), strict=True))
        samples = totals.pop("samples")
        seconds = time.perf_counter() - self.began
        self.sums, self.began = {}, time.perf_counter()
        means = {name: float(total / samples) for name, total in totals.items()}
        return {**means, "samples_per_second": float(samples / seconds)}


def open_monitor(config: Config, folder: str) -> Monitor:
    """Monitor with the writers that the JSON switches on; their files go to `folder` by default."""
    blocks: dict[str, Any] = {}
    for name in ("tensorboard", "csv_monitor", "wandb"):
        block = dict(config.merged.get(name, {}))
        if not block.get("enabled"):
            continue
        if name != "wandb":
            block = {"output_path": folder, "job_name": name, **block}
        blocks[name] = block
    place = Path(next((b["output_path"] for b in blocks.values() if "output_path" in b), folder))
    with ranks.heeding_main(), disk.writing(place):
        if not blocks or not ranks.is_main():
            return Monitor()
        master = MonitorMaster(get_monitor_config(blocks))
        summary = master.tb_monitor.summary_writer if "tensorboard" in blocks else None
        return Monitor(master, summary, place)
