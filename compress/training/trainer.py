"""Training through `deepspeed.initialize`: one loop for teacher, sub-networks and student.

`Trainer.run_until(step)` can be called again, so that a trajectory stops, scores and goes on. It drives
the methods of a `Training` in their order. Losses are one value per sample, reduced here: the sum over
the whole batch divided by its size, for any number of ranks. The state of the loop is in
`state_dict()`; resuming inside a stage is not implemented.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import deepspeed
import numpy as np
import torch
from deepspeed.accelerator import get_accelerator
from torch import Tensor
from transformers import PreTrainedModel

from compress.configuration.config import Config, batch_split, training_steps
from compress.data.batches import Columns, Indices, epoch_batches, share
from compress.errors import UserError
from compress.methods import Method
from compress.microbatch import Batch, SampleData, mistake_in
from compress.runtime import memory, ranks
from compress.training.engine import engine_settings, parameter_groups
from compress.training.monitor import Monitor

KEPT = 200
"""Steps whose losses are kept, to name the first at which they were not finite."""
AfterEpoch = Callable[["Trainer"], dict[str, float]]


@dataclass(frozen=True)
class Training:
    """The parts of one training.

    name: prefix of the events; methods: attached to the model, in the order of their work: pruners,
    then losses, the mitigation before layer-wise terms; known: of each training sample; epochs: length
    of the learning-rate schedule.
    """

    name: str
    config: Config
    model: PreTrainedModel
    methods: Sequence[Method]
    data: Columns
    known: SampleData
    epochs: int
    device: torch.device
    monitor: Monitor


class Trainer:
    """One model in training. Steps are optimiser steps, counted from 0."""

    def __init__(self, training: Training) -> None:
        """Build the engine. Raises UserError if the batch sizes do not fit the number of ranks."""
        config, self.training = training.config, training
        self.name, self.data, self.device = training.name, training.data, training.device
        self.seed = config.robust.seed
        self.batch_size = config.deepspeed.train_batch_size
        self.steps_per_epoch = training_steps(config, len(self.data), epochs=1)
        self.total_steps = training_steps(config, len(self.data), training.epochs)
        self.log_every = config.deepspeed.steps_per_print or 10
        self.step = 0
        self.best: dict[str, float] = {}
        self._micro, self.accumulation = batch_split(config, ranks.world_size())
        scores = [score for method in training.methods for score in method.scores()]
        groups = parameter_groups(training.model, config, scores)
        split = (self._micro, self.accumulation)
        settings = engine_settings(config, self.total_steps, *split, groups)
        for method in training.methods:
            settings |= method.engine_block()
        with memory.building(self.name, config):
            self.engine = deepspeed.initialize(
                model=training.model, model_parameters=groups, config=settings
            )[0]
        for method in training.methods:
            method.bind(self.engine)
        self._arguments = {k: v for method in training.methods for k, v in method.arguments.items()}
        self._weighting = [method for method in training.methods if method.uses("batch_mean")]
        torch.manual_seed(self.seed + 1 + ranks.rank())
        self._window = _Window(KEPT * self.accumulation)
        self._batches: tuple[int, list[Indices]] = (-1, [])

    def run_until(self, step: int, after_epoch: AfterEpoch | None = None) -> None:
        """Train up to this optimiser step; write what `after_epoch` measures to the monitor.

        Raises UserError if the loss is not finite; all ranks see it alike.
        """
        self.engine.train()
        self._window.restart()
        with self.training.monitor.progress.training(self.name, self.step, self.total_steps):
            self._after_step()
            while self.step < step:
                self._train_step(self._batch(self.step))
                self.step += 1
                self._after_step()
                due = self.step % self.log_every == 0 or self.step == step
                self.training.monitor.progress.step(self._report() if due else None)
                if after_epoch is not None and self.step % self.steps_per_epoch == 0:
                    self._measured(after_epoch(self))

    def _after_step(self) -> None:
        for method in self.training.methods:
            method.after_step(self.step)

    def _measured(self, values: dict[str, float]) -> None:
        with ranks.sharing_errors():
            self.training.monitor.scalars(self.name, values, self.step)
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
        """One optimiser step on the whole batch of all ranks; UserError if memory does not suffice."""
        shape: list[int] = []
        where, split = f"{self.name}: step {self.step + 1}", (self._micro, self.accumulation)
        with memory.training(where, shape, split, self.training.config):
            means = self._look_ahead(batch) if self._weighting and self.accumulation > 1 else {}
            for turn in range(self.accumulation):
                indices, valid, labels = self._part(batch, turn)
                inputs = self.data.batch(indices, self.device)
                shape[:] = inputs["input_ids"].shape
                outputs = self.engine(**inputs, **self._arguments)
                more = {"valid": valid, "inputs": inputs, "outputs": outputs}
                part = self._known(indices, outputs.logits, labels, **more)
                if self._weighting and self.accumulation == 1:
                    means = self._batch_means([part], len(batch))
                per_sample = self._loss(part, means)
                share_of_batch = ranks.world_size() * self.accumulation / len(batch)
                loss = (per_sample * valid).sum() * share_of_batch
                self.engine.backward(loss)
                if turn == self.accumulation - 1:
                    for method in self.training.methods:
                        method.before_step()
                self.engine.step()
                with torch.no_grad():
                    terms = part.parts() | part.watched
                    self._window.add(loss=per_sample, **terms, counted=valid)

    def _known(self, indices: Indices, logits: Tensor, labels: Tensor, **more: Any) -> Batch:  # noqa: ANN401
        """The micro-batch with what is known of its samples."""
        progress = self.step / self.total_steps
        return self.training.known.batch(indices, logits, labels, progress=progress, **more)

    def _loss(self, part: Batch, means: Mapping[str, Tensor]) -> Tensor:
        """Sum of the losses of all methods, [B]: the first, plus the sum of the others.

        Raises UserError for another shape, which would train another loss by broadcasting.
        """
        losses = []
        for method in self.training.methods:
            value = method.loss(replace(part, batch_mean=means.get(method.name)))
            losses += [] if value is None else [_per_sample(method, "loss", value, part)]
        part.shared.clear()
        first, *others = losses
        return first + torch.stack(others).sum(dim=0) if others else first

    def _part(self, batch: Indices, turn: int) -> tuple[Indices, Tensor, Tensor]:
        """This rank's samples of one micro-batch: indices, valid mask, labels, each [m]."""
        world = ranks.world_size()
        part = turn * world + ranks.rank()
        indices, weight = share(batch, part, world * self.accumulation)
        valid = torch.as_tensor(weight).to(self.device)
        return indices, valid, torch.as_tensor(self.data.labels[indices]).to(self.device)

    def _look_ahead(self, batch: Indices) -> dict[str, Tensor]:
        """Means of the batch weights, from an additional forward pass over all micro-batches.

        Random states are restored, so that the training pass draws the same dropout.
        """
        accelerator = get_accelerator()
        states, parts = (torch.get_rng_state(), accelerator.get_rng_state()), []
        with torch.no_grad():
            for turn in range(self.accumulation):
                indices, valid, labels = self._part(batch, turn)
                logits = self.forward(self.data.batch(indices, self.device))
                parts.append(self._known(indices, logits, labels, valid=valid))
        torch.set_rng_state(states[0])
        accelerator.set_rng_state(states[1])
        return self._batch_means(parts, len(batch))

    def _batch_means(self, parts: Sequence[Batch], size: int) -> dict[str, Tensor]:
        """Mean of `Method.batch_weight` over the whole batch of all ranks, [], by method."""
        means = {}
        for method in self._weighting:
            weights = [_per_sample(method, "batch_weight", method.batch_weight(p), p) for p in parts]
            sums = [(w * p.valid).sum() for w, p in zip(weights, parts, strict=True)]
            total = ranks.all_sum(torch.stack(sums).sum().cpu().numpy())
            means[method.name] = torch.as_tensor(total / size, dtype=torch.float32).to(self.device)
        return means

    def _report(self) -> dict[str, float]:
        """Means over the steps since the last report, over all ranks; written to the monitor."""
        history = list(self._window.history)
        values = self._window.means()
        if not np.isfinite(values["loss"]):
            raise UserError(self._not_finite(history))
        rate = (self.engine.get_lr() or [0.0])[0]
        values.update(lr=rate)
        for method in self.training.methods:
            values.update(method.scalars())
        with ranks.sharing_errors():
            self.training.monitor.scalars(self.name, values, self.step)
        return values

    def _not_finite(self, history: Sequence[tuple[Tensor, Tensor]]) -> str:
        """The message for a loss that is not finite: the first such step, and a user's function."""
        local = np.array([[float(loss), float(gold)] for loss, gold in history])
        steps = ranks.all_sum(local).reshape(-1, self.accumulation, 2).sum(axis=1)
        first = int(np.argmin(np.isfinite(steps[:, 0])))
        step = self.step - len(steps) + first + 1
        epoch = (step - 1) // self.steps_per_epoch + 1
        where = f"at step {step} (epoch {epoch})"
        hook = next((method.user_code for method in self.training.methods if method.user_code), None)
        if hook is not None and np.isfinite(steps[first, 1]):
            return (
                f"robust_compression.loss.hook: '{hook}' gives {self.name} a loss that is not finite "
                f"{where} though the model's outputs are; correct the function."
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
        """All state of this loop; epoch and batch follow from the step."""
        return {
            "step": self.step,
            "epoch": self.step // self.steps_per_epoch,
            "seed": self.seed,
            "methods": {method.name: method.state_dict() for method in self.training.methods},
            "rng": {"cpu": torch.get_rng_state(), "device": get_accelerator().get_rng_state()},
            "best": dict(self.best),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict()` was taken."""
        self.step, self.seed, self.best = state["step"], state["seed"], dict(state["best"])
        for method in self.training.methods:
            method.load_state_dict(state["methods"][method.name])
        torch.set_rng_state(state["rng"]["cpu"])
        get_accelerator().set_rng_state(state["rng"]["device"])
        self._batches = (-1, [])

    def close(self) -> None:
        """Release the engine, so that another can be built in this process."""
        self.engine.destroy()


def _per_sample(method: Method, hook: str, value: Tensor, part: Batch) -> Tensor:
    """What a hook of a method returned, one value a sample [B]; UserError for anything else."""
    if (wrong := mistake_in(value, part.labels)) is not None:
        raise method.wrong(hook, wrong)
    return value


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
