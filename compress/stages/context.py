"""What the stages share: the context of a run, and artefacts that are made once and found again.

Teacher and difficulty live in the cache directory, shared by all runs beside each other; the student
lives in the run's own directory.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compress import artefacts, ranks
from compress.compression.resolved import Resolved
from compress.configuration import deepspeed_schema, schedule
from compress.configuration.config import Config
from compress.data.batches import Columns
from compress.data.splits import TaskData
from compress.errors import UserError
from compress.methods import Method
from compress.microbatch import SampleData
from compress.models import encoders, label_order
from compress.scoring import evaluation
from compress.training.monitor import Monitor
from compress.training.trainer import Trainer, Training


@dataclass(frozen=True)
class Encoder:
    """A pre-trained model: its directory and fingerprint, and the splits in its own tokens."""

    model: Path
    key: str
    tokenizer: PreTrainedTokenizerBase
    columns: Mapping[str, Columns]


@dataclass(frozen=True)
class Context:
    """What every stage needs.

    encoder: the run's; resolved: what the student loses, and when; small: the student's own one if
    `student.model` names it; given: that of `teacher.model` if its tokenizer is not the run's.
    """

    config: Config
    output_dir: Path
    cache_dir: Path
    data: TaskData
    encoder: Encoder
    device: torch.device
    monitor: Monitor
    resolved: Resolved
    small: Encoder | None = None
    given: Encoder | None = None

    @property
    def columns(self) -> Mapping[str, Columns]:
        """The splits in the encoder's tokens."""
        return self.encoder.columns

    def for_student(self) -> "Context":
        """The same with the student's encoder: samples are the same, their tokens are its own."""
        if self.small is not None:
            return replace(self, encoder=self.small)
        return self.starting_from(self.config.robust.student.init_from)

    def for_teacher(self) -> "Context":
        """The same with the teacher's encoder."""
        return replace(self, encoder=self.given or self.encoder)

    def starting_from(self, init_from: str) -> "Context":
        """The same with the tokens of the model that a training starts from."""
        return self.for_teacher() if init_from == "teacher" else self

    def training_inputs(self) -> dict[str, Any]:
        """Inputs that matter to any training: data, model, seed, and the engine keys that do."""
        merged, side = schedule.settled(self.config.merged), self.encoder.tokenizer.padding_side
        return {
            **({} if side == "right" else {"padding": side}),
            "format": 1,
            "train": self.data.fingerprint("train"),
            "max_length": self.config.robust.task.max_length,
            "model": self.encoder.key,
            "seed": self.config.robust.seed,
            "engine": {key: merged[key] for key in deepspeed_schema.TRAINING_KEYS if key in merged},
            **label_order.inputs_of(self.head_order()),
        }

    def head_order(self) -> label_order.Order:
        """Where the task's labels are among the outputs of the encoder, if it is a classifier."""
        return encoders.find_labels(self.encoder.model, self.data.labels, self.data.task)


@dataclass(frozen=True)
class Artefact:
    """A finished stage: its directory, inputs, and whether it was found rather than made."""

    path: Path
    inputs: Mapping[str, Any]
    seconds: float
    reused: bool

    @property
    def key(self) -> str:
        """Identity of the inputs."""
        return artefacts.key(self.inputs)


def found(path: Path, inputs: Mapping[str, Any]) -> Artefact | None:
    """The artefact at `path` if it is complete for these inputs; the same answer on all ranks.

    Only the main rank reads its files. A damaged one is put aside, with a line that says what is wrong.
    """
    marker, trouble = ranks.on_main(lambda: artefacts.checked(path, inputs))
    if trouble is not None:
        ranks.say(trouble)
    return Artefact(path, inputs, marker["seconds"], True) if marker else None


def publish(
    path: Path, inputs: Mapping[str, Any], began: float, fill: Callable[[Path], None]
) -> Artefact:
    """Let the main rank write the artefact; all ranks wait for it, and fail if it fails."""

    def write() -> None:
        with artefacts.writing(path, inputs, began) as folder:
            fill(folder)

    ranks.on_main(write)
    made = found(path, inputs)
    if made is None:
        raise UserError(f"{path}: is not there after it was written; is another program at work there?")
    return Artefact(made.path, made.inputs, made.seconds, False)


def start_model(context: Context, init_from: str, teacher_model: Path) -> PreTrainedModel:
    """The classifier that a training starts from, drawn from the run's seed."""
    torch.manual_seed(context.config.robust.seed)
    source = teacher_model if init_from == "teacher" else context.encoder.model
    return encoders.load_classifier(source, context.data.labels, task=context.data.task)


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
        name, context.config, model, methods, data, known, epochs, context.device, context.monitor
    )
    trainer = Trainer(training)
    samples, size = len(trainer.data), trainer.batch_size
    ranks.say(f"{name}: {trainer.total_steps} steps of {size} ({samples} samples, {epochs} epochs)")
    return trainer


def watch_dev(context: Context) -> Callable[[Trainer], dict[str, float]]:
    """What `Trainer.run_until` calls after each epoch: dev accuracy, as `{"dev": accuracy}`."""

    def accuracy(trainer: Trainer) -> dict[str, float]:
        scores = score_split(context, trainer, "dev")
        return {"dev": float(evaluation.correct(scores, context.data.dev).mean())}

    return accuracy


def score_exported(
    context: Context, made: Artefact, names: Iterable[str]
) -> dict[str, NDArray[np.float64]]:
    """Log-probabilities [N, C] of splits, by name, under an exported model in the context's tokens."""
    classes, size = context.data.labels, context.config.robust.evaluation.batch_size
    model = encoders.load_classifier(made.path / "model", classes, trained=True)
    forward = evaluation.model_forward(model, context.device)
    return {
        name: evaluation.score(
            watched(context, name, forward),
            context.columns[name],
            size,
            len(classes),
            context.device,
        )
        for name in names
    }


def score_split(context: Context, trainer: Trainer, split: str) -> NDArray[np.float64]:
    """Log-probabilities [N, C] of a split under the model in training, in evaluation mode."""
    trainer.engine.eval()
    return evaluation.score(
        watched(context, split, trainer.forward),
        context.columns[split],
        context.config.robust.evaluation.batch_size,
        len(context.data.labels),
        context.device,
    )


def watched(context: Context, split: str, forward: evaluation.Forward) -> evaluation.Forward:
    """`forward` for one pass over a split, which a person sees going on."""
    rows, size = len(context.columns[split]), context.config.robust.evaluation.batch_size
    progress, batches = context.monitor.progress, -(-rows // size)
    return progress.scoring(split, batches, rows, forward, context.config)
