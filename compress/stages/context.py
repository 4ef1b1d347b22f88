"""What the stages share: the context of a run, building a trainer, scoring splits."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compress.checkpoints.saver import Saver
from compress.compression.resolved import Resolved
from compress.configuration import deepspeed_schema
from compress.configuration.used_keys import OURS
from compress.data.columns import Columns
from compress.data.cutting import CutOff
from compress.data.splits import TaskData
from compress.errors import Interrupted
from compress.methods import Method
from compress.microbatch import SampleData
from compress.models import encoders, label_order
from compress.runtime import agreement, interrupts, ranks
from compress.scoring import split_pass
from compress.scoring.split_pass import Forward, Keep, SplitPass
from compress.stages.workspace import Artefact, Workspace
from compress.training import frozen
from compress.training.engine import release
from compress.training.trainer import AfterEpoch, Trainer, Training


@dataclass(frozen=True)
class Encoder:
    """A pre-trained model: its directory and `joining.key`, and the splits in its own tokens.

    cut: what was cut off from each split.
    """

    model: Path
    key: str
    tokenizer: PreTrainedTokenizerBase
    columns: Mapping[str, Columns]
    cut: Mapping[str, CutOff] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Context(Workspace):
    """A workspace with data and models, which every stage but the first needs.

    resolved: the student's compression; encoders: models of the run by their keys: `model`,
    `student.model` if it is given, `teacher.model` if its tokenizer is another; active: the key of
    `encoder`; given: of `teacher.probabilities` the checksum of each split's file.
    """

    data: TaskData
    resolved: Resolved
    encoders: Mapping[str, Encoder] = field(default_factory=dict)
    active: str = "model"
    given: Mapping[str, str] = field(default_factory=dict)

    @property
    def encoder(self) -> Encoder:
        """The active encoder."""
        return self.encoders[self.active]

    @property
    def columns(self) -> Mapping[str, Columns]:
        """The splits in the encoder's tokens."""
        return self.encoder.columns

    def cut_notes(self) -> list[str]:
        """For each model's tokens a sentence that says how many samples were cut to the length."""
        length, notes = self.config.robust.task.max_length, []
        for key, encoder in self.encoders.items():
            found = [f"{split} {cut.described()}" for split, cut in encoder.cut.items() if cut.samples]
            whose = f" for {key}" if len(self.encoders) > 1 else ""
            if found:
                notes.append(
                    f"Cut to {length} tokens{whose} ({OURS}.task.max_length): {', '.join(found)}."
                )
        return notes

    def for_student(self) -> "Context":
        """The same with the student's encoder: samples are the same, their tokens are its own."""
        if "student.model" in self.encoders:
            return replace(self, active="student.model")
        return self.starting_from(self.config.robust.student.init_from)

    def for_teacher(self) -> "Context":
        """The same with the teacher's encoder."""
        return replace(self, active="teacher.model" if "teacher.model" in self.encoders else "model")

    def starting_from(self, init_from: str) -> "Context":
        """The same with the tokens of the model that a training starts from."""
        return self.for_teacher() if init_from == "teacher" else self

    def training_facts(self) -> dict[str, Any]:
        """Facts that every training depends on: content of data and model, order of labels, padding."""
        order = encoders.find_labels(self.encoder.model, self.data.labels, self.data.task)
        return {
            "train": self.data.fingerprint("train"),
            "model": self.encoder.key,
            "padding": self.encoder.tokenizer.padding_side,
            **label_order.inputs_of(order),
        }


TRAINING = (
    *deepspeed_schema.TRAINING_KEYS,
    *(f"{OURS}.{key}" for key in ("seed", "model", "precision", "padding_free", "batch_by")),
    *(f"{OURS}.{key}" for key in ("task", "task.max_length")),
)
"""Keys of the configuration that every training depends on."""


def start_model(context: Context, source: Path) -> PreTrainedModel:
    """The classifier that a training starts from; what its directory lacks is drawn from the seed.

    At ZeRO 3 its weights are read when the training begins, each rank keeping its part; not with the
    masks of DeepSpeed's library, which copies them before.
    """
    config, labels = context.config, context.data.labels
    torch.manual_seed(config.robust.seed)
    whole = config.deepspeed.zero_optimization.stage < 3 or config.robust.masks == "deepspeed"
    return encoders.load_classifier(source, labels, task=context.data.task, whole=whole)


def _saver(name: str, context: Context) -> Saver:
    """The checkpoints of a training; none where the optimiser's states are on NVMe."""
    offload = context.config.deepspeed.zero_optimization.offload_optimizer
    saved = offload is None or offload.device != "nvme"
    if not saved:
        ranks.say(f"note: {name}: states on NVMe are not saved; if interrupted, it starts anew")
    return context.unfinished.training(name, saved)


def new_trainer(
    name: str,
    context: Context,
    model: PreTrainedModel,
    methods: Sequence[Method],
    epochs: int,
    known: SampleData | None = None,
) -> Trainer:
    """A trainer on the train split of the context; see `Training`."""
    data, known = context.columns["train"], known or SampleData()
    training = Training(
        name,
        context.config,
        model,
        methods,
        data,
        known,
        epochs,
        context.device,
        context.monitor,
        _saver(name, context),
        context.output_dir / "profile" / f"{name}.json" if context.config.robust.profile else None,
    )
    trainer = Trainer(training)
    plural = "s" * (epochs != 1)
    ranks.say(
        f"{name}: {trainer.total_steps:,} steps of {trainer.batch_size} samples "
        f"({len(trainer.data):,} samples, {epochs} epoch{plural})"
    )
    return trainer


@dataclass(frozen=True)
class WatchDev(AfterEpoch):
    """Measures dev accuracy, `{"dev": accuracy}`."""

    context: Context

    def __call__(self, trainer: Trainer) -> dict[str, float]:
        """See `AfterEpoch`."""
        dev = self.context.data.dev
        trainer.engine.eval()
        with scoring(self.context, "dev", trainer.forward) as one:
            return {"dev": one.right(dev) / len(dev)}


def score_exported(context: Context, made: Artefact, names: Iterable[str]) -> dict[str, Path]:
    """Files of log-probabilities of splits, by name, under an exported model in the context's tokens.

    In `evaluation.precision` for a stage that reads that key, else in float32; as `score_all`.
    """
    path, labels = made.path / "model", context.data.labels
    model = encoders.load_classifier(path, labels, trained=True, whole=False)
    with model_scorer(context, model) as forward:
        return score_all(context, made, names, forward)


@contextmanager
def model_scorer(context: Context, model: PreTrainedModel) -> Iterator[Forward]:
    """Context: yields the forward pass of a deferred model that is not trained, in evaluation mode.

    At ZeRO 3 the ranks divide its weights; else each has them whole. Precision as `score_exported`.
    """
    bf16 = context.config.robust.evaluation.precision == "bf16"
    engine = frozen.place(model, context.config, context.device)
    yield split_pass.forward_of(model, context.device, bf16)
    if engine is not None:
        release(engine)


def score_all(
    context: Context, made: Artefact, names: Iterable[str], forward: Forward
) -> dict[str, Path]:
    """Files of log-probabilities [N, C] of splits, by name, on the main rank; each is kept when done.

    forward: of the artefact.
    """

    def file(name: str) -> Path:
        write = partial(score, context, name, forward, split_pass.log_probabilities)
        return context.unfinished.file(f"{made.key[:8]} {name}", write)

    return {name: file(name) for name in names}


def score(context: Context, split: str, forward: Forward, keep: Keep, file: Path) -> None:
    """Write what is kept of each sample of a split, on the main rank; all ranks compute."""
    with scoring(context, split, forward) as one:
        one.write(keep, file)


@contextmanager
def scoring(context: Context, split: str, forward: Forward) -> Iterator[SplitPass]:
    """Context: yields a pass over a split with its progress on the terminal, which a signal ends.

    It has the rows that earlier runs have scored of a part of a stage, and keeps its own at times.
    """
    columns, config = context.columns[split], context.config
    size = split_pass.together(config)
    rows = context.unfinished.rows(size)
    batches, done = -(-len(columns) // size), rows.read()
    progress = context.monitor.progress
    counted = progress.scoring(split, batches, len(columns), forward, config, done)
    if done:
        ranks.say(f"{split}: scoring continues at batch {done} of {batches}")

    def interruptible(inputs: Mapping[str, Tensor]) -> Tensor:
        end, late, _ = agreement.exchange(late=rows.late())
        if end:
            raise interrupts.ended()
        if late:
            rows.save()
        return counted(inputs)

    with agreement.loop():
        try:
            yield SplitPass(interruptible, columns, size, context.device, rows)
            if agreement.settled():
                raise interrupts.ended()
        except Interrupted:
            rows.save()
            raise
