"""Training through `deepspeed.initialize`: one loop for teacher, sub-networks and student.

`Trainer.run_until(step)` can be called again, so that a trajectory stops, scores and goes on. It drives
the methods of a `Training` in their order. Losses are one value per sample, reduced here: the sum over
the whole batch divided by its size, for any number of ranks. All state of the loop is in
`training_state`; it is saved, and the next run with the same inputs goes on there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from torch import Tensor
from transformers import PreTrainedModel

from compress.checkpoints.saver import Saver
from compress.configuration import machine
from compress.configuration.config import Config, batch_split, training_steps
from compress.data.batches import EpochBatches, Indices, share
from compress.data.columns import Columns
from compress.errors import Interrupted
from compress.methods import Method
from compress.microbatch import Batch, SampleData, mistake_in
from compress.models import deferred, unpadding
from compress.runtime import agreement, interrupts, memory, ranks
from compress.training import finite, partitioned, shards, training_state
from compress.training.engine import (
    checkpoint_activations,
    engine_settings,
    link_dealt,
    parameter_groups,
    release,
)
from compress.training.feed import Feed
from compress.training.loading import Gather, MicroBatch, OnDevice
from compress.training.monitor import Monitor
from compress.training.profiling import StepProfile
from compress.training.window import Window

COPIES = 3
"""Of each weight that a checkpoint holds: the weight itself, and two averages of Adam."""
COMPILES = (
    "DeepSpeed compiles its optimiser, once on this machine, which may take minutes; with "
    "optimizer.params.torch_adam true nothing is compiled"
)


class AfterEpoch:
    """What is measured after each epoch."""

    def __call__(self, trainer: "Trainer") -> dict[str, float]:
        """The values for the monitor, alike on all ranks; the state of the training stays as it is."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """All state, for `load_state_dict`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict()` was taken."""


@dataclass(frozen=True)
class Training:
    """The parts of one training.

    name: prefix of the events; methods: attached to the model, in the order of their work: pruners,
    then losses, the mitigation before layer-wise terms; known: of each training sample; epochs: length
    of the learning-rate schedule; saver: of its checkpoints; trace: file for where the time goes.
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
    saver: Saver = field(default_factory=Saver)
    trace: Path | None = None


class Trainer:
    """One model in training. Steps are optimiser steps, counted from 0.

    profile: where their time goes; between two calls of `run_until` another may be put in its place.
    """

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
        self.after_epoch: AfterEpoch | None = None
        self.window = Window()
        self._micro, self.accumulation = batch_split(config, ranks.world_size())
        scores = [score for method in training.methods for score in method.scores()]
        groups = parameter_groups(training.model, config, scores)
        split = (self._micro, self.accumulation)
        settings = engine_settings(config, self.total_steps, *split, groups)
        for method in training.methods:
            settings |= method.engine_block()
        if config.robust.activation_checkpointing:
            checkpoint_activations(training.model)
        if config.robust.padding_free:
            unpadding.leave_out(training.model)
        if ranks.is_main() and machine.compiles(config):
            ranks.say(f"{self.name}: {COMPILES}")
        with memory.building(self.name, config):
            if deferred.deferred(training.model):
                partitioned.fill(training.model, settings)
            self.engine = deepspeed.initialize(
                model=training.model, model_parameters=groups, config=settings
            )[0]
        link_dealt(self.engine)
        for method in training.methods:
            method.bind(self.engine)
        self._arguments = {k: v for method in training.methods for k, v in method.arguments.items()}
        self._weighting = [method for method in training.methods if method.uses("batch_mean")]
        torch.manual_seed(self.seed + 1 + ranks.rank())
        parts = shards.trained(self.engine)
        self._finite = finite.FiniteCheck([] if finite.left_out(config) else parts.values())
        self._copied = finite.copied(config, self.device)
        self._batches: tuple[int, Sequence[Indices]] = (-1, [])
        self._feed = Feed(self._made, self.total_steps)
        pinned, free = self.device.type == "cuda", config.robust.padding_free
        tokens = {k: v for method in training.methods for k, v in method.token_values().items()}
        self._gather = Gather(self.data, training.known, pinned, free, tokens)
        self.profile = StepProfile(training.trace, self.device)
        self._started, self._pending, self._resumed_at = False, False, -1
        training.saver.check_space(COPIES * sum(shard.written_bytes for shard in parts.values()))

    def run_until(self, step: int, after_epoch: AfterEpoch | None = None) -> None:
        """Train up to this optimiser step; write what `after_epoch` measures to the monitor.

        The first call goes on at the newest checkpoint. Raises UserError if a loss or gradient is not
        finite, and Interrupted, with the state saved, if a signal asks for the end; all ranks alike.
        """
        self.after_epoch = after_epoch
        if not self._started:
            self._resume()
        self.engine.train()
        self.window.restart()
        progress = self.training.monitor.progress
        with progress.training(self.name, self.step, self.total_steps), agreement.loop():
            if self.step != self._resumed_at:
                self._after_step()
            if self._pending:
                self._measure()
            while self.step < step:
                with self.profile.part("batch"):
                    made = self._feed.step(self.step)
                self._train_step(*made)
                self.step += 1
                self._after_step()
                due = self.step % self.log_every == 0 or self.step == step
                with self.profile.part("logging"):
                    values = self._report() if due else None
                progress.step(values)
                if after_epoch is not None and self.step % self.steps_per_epoch == 0:
                    self._measure()
                self._save_if_due()
            self.training.saver.save_at_end()
            if agreement.settled():
                raise interrupts.ended()

    def _resume(self) -> None:
        """Go on at the newest checkpoint, if there is one."""
        self._started = True
        saved = self.training.saver.bind(self._state)
        if saved is None:
            return
        self._pending = training_state.load(self, saved)
        self._resumed_at = self.step
        ranks.say(f"{self.name}: continues at step {self.step} of {self.total_steps}")
        self.training.monitor.progress.skip(self.step)

    def _state(self) -> tuple[int, dict[str, Any]]:
        return self.step, training_state.state_dict(self, self._pending)

    def _save_if_due(self) -> None:
        """Save where that is due; Interrupted if a signal has asked for the end."""
        saver = self.training.saver
        stop, late, writing = agreement.exchange(saver.late(), saver.writing())
        due = saver.after_exchange(late, writing)
        if stop:
            saver.save_now()
            raise interrupts.ended()
        if due or saver.due(self.step):
            saver.begin()

    def _after_step(self) -> None:
        with self.profile.part("masks"):
            for method in self.training.methods:
                method.after_step(self.step)

    def _measure(self) -> None:
        """Call `after_epoch`; interrupted meanwhile, it is called again when the training continues."""
        assert self.after_epoch is not None, "only a training that measures has something pending"
        self._pending = True
        try:
            values = self.after_epoch(self)
        except Interrupted:
            self.training.saver.save_now()
            raise
        self._pending = False
        with ranks.sharing_errors():
            self.training.monitor.scalars(self.name, values, self.step)
        self.best |= {name: max(value, self.best.get(name, value)) for name, value in values.items()}
        self.engine.train()
        self.window.restart()

    def _made(self, step: int) -> tuple[int, list[MicroBatch]]:
        """Samples of a step, of all ranks, and this rank's micro-batches; called in another thread."""
        batch, parts = self._batch(step), ranks.world_size() * self.accumulation
        turns = range(ranks.rank(), parts, ranks.world_size())
        return len(batch), [self._gather(*share(batch, turn, parts)) for turn in turns]

    def _batch(self, step: int) -> Indices:
        """The samples of a step, of all ranks; called by the thread of the feed alone."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._batches[0] != epoch:
            self._batches = (epoch, self.batches(epoch))
        return self._batches[1][position]

    def batches(self, epoch: int) -> Sequence[Indices]:
        """The samples of each step of an epoch, of all ranks."""
        robust, lengths = self.training.config.robust, self.data.lengths
        similar = not robust.padding_free
        return EpochBatches(
            lengths, self.batch_size, self.seed, epoch, by=robust.batch_by, similar=similar
        )

    def _train_step(self, size: int, parts: Sequence[MicroBatch]) -> None:
        """One optimiser step on `size` samples of all ranks; UserError if memory does not suffice."""
        shape: list[int] = []
        profiled = self.profile.part
        weighed = self.batch_size if self.training.config.robust.batch_by == "tokens" else size
        where, split = f"{self.name}: step {self.step + 1}", (self._micro, self.accumulation)
        with memory.training(where, shape, split, self.training.config):
            means = self._look_ahead(size, parts) if self._weighting and len(parts) > 1 else {}
            for turn, micro in enumerate(parts):
                with profiled("data"):
                    there = micro.to(self.device)
                shape[:] = there.inputs["input_ids"].shape
                with profiled("forward"):
                    outputs = self.engine(**there.inputs, **there.layout, **self._arguments)
                part = self._known(there, outputs.logits, inputs=there.inputs, outputs=outputs)
                if self._weighting and len(parts) == 1:
                    means = self._batch_means([part], size)
                per_sample = self._loss(part, means)
                share_of_batch = ranks.world_size() * self.accumulation / weighed
                loss = (per_sample * there.valid).sum() * share_of_batch
                with profiled("backward"):
                    self.engine.backward(loss)
                with torch.no_grad():
                    terms = part.parts() | part.watched
                    self._finite.add(micro.indices, there.valid, per_sample, terms["cross_entropy"])
                    self.window.add(loss=per_sample, **terms, counted=there.valid)
                if turn == self.accumulation - 1:
                    self._before_step()
                with profiled("optimizer"):
                    self.engine.step()
        self.profile.step()

    def _before_step(self) -> None:
        """Look at losses and gradients; then the methods may change the gradients."""
        if self._copied:
            get_accelerator().synchronize()
        if self._finite.failed():
            self.training.saver.complete()
            hook = next((m.user_code for m in self.training.methods if m.user_code), None)
            raise self._finite.error(self.name, finite.where(self.step + 1, self.steps_per_epoch), hook)
        self._finite.forget()
        with self.profile.part("masks"):
            for method in self.training.methods:
                method.before_step()

    def _known(self, there: OnDevice, logits: Tensor, **more: Any) -> Batch:  # noqa: ANN401  further fields
        """The micro-batch after a forward pass, with what is known of its samples."""
        more |= {"progress": self.step / self.total_steps, "valid": there.valid, "tokens": there.tokens}
        return self.training.known.of_rows(there.known, logits, there.labels, **more)

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

    def _look_ahead(self, size: int, parts: Sequence[MicroBatch]) -> dict[str, Tensor]:
        """Means of the batch weights, from an additional forward pass over all micro-batches.

        Random states are restored, so that the training pass draws the same dropout.
        """
        accelerator = get_accelerator()
        states, found = (torch.get_rng_state(), accelerator.get_rng_state()), []
        with torch.no_grad():
            for micro in parts:
                there = micro.to(self.device)
                found.append(self._known(there, self.forward({**there.inputs, **there.layout})))
        torch.set_rng_state(states[0])
        accelerator.set_rng_state(states[1])
        return self._batch_means(found, size)

    def _batch_means(self, parts: Sequence[Batch], size: int) -> dict[str, Tensor]:
        """Mean of `Method.batch_weight` over the whole batch of all ranks, [], by method."""
        means = {}
        for method in self._weighting:
            weights = [_per_sample(method, "batch_weight", method.batch_weight(p), p) for p in parts]
            sums = [(w * p.valid).sum() for w, p in zip(weights, parts, strict=True)]
            total = ranks.sum_tensor(torch.stack(sums).sum().double())
            means[method.name] = (total / size).float()
        return means

    def _report(self) -> dict[str, float]:
        """Means over the steps since the last report, over all ranks; written to the monitor."""
        values = self.window.means()
        rate = (self.engine.get_lr() or [0.0])[0]
        values.update(self.profile.report(), lr=rate)
        for method in self.training.methods:
            values.update(method.scalars())
        with ranks.sharing_errors():
            self.training.monitor.scalars(self.name, values, self.step)
        return values

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits [B, C] of model inputs, through the engine (collective under ZeRO 3)."""
        return self.engine(**inputs).logits

    def close(self) -> None:
        """Release the engine and all that refers to its model; only the step counts stay."""
        self._feed.close()
        self.training.saver.close()
        self.profile.close()
        for method in self.training.methods:
            method.close()
        release(self.engine)
        del self.engine, self.training, self._finite, self._gather
        memory.give_back()


def _per_sample(method: Method, hook: str, value: Tensor, part: Batch) -> Tensor:
    """What a hook of a method returned, one value a sample [B]; UserError for anything else."""
    if (wrong := mistake_in(value, part.labels)) is not None:
        raise method.wrong(hook, wrong)
    return value
