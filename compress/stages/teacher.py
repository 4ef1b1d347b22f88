"""Stage teacher: fine-tune the encoder, store its softmax for every training sample.

A teacher given as `teacher.model` is not trained, only scored; of `teacher.probabilities` those of
train are read.
"""

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from compress import method_code
from compress.compression.masks import Masks
from compress.configuration.config import Config
from compress.configuration.used_keys import OURS
from compress.microbatch import SampleData
from compress.mitigations._shared import Mitigation
from compress.mitigations.vanilla import Vanilla
from compress.models import encoders, label_order
from compress.scoring import evaluation, measures, split_pass
from compress.stages import bias, export, given_probabilities
from compress.stages.context import (
    TRAINING,
    Context,
    WatchDev,
    model_scorer,
    new_trainer,
    score,
    start_model,
)
from compress.stages.stage import Fill, Stage
from compress.stages.workspace import Artefact
from compress.training import gathering

KEY = f"{OURS}.teacher.model"
FILE = "probabilities.npy"
Trained = tuple[Path, PreTrainedModel]


class Teacher(Stage[Context]):
    """`model/`, and `probabilities.npy`: its softmax [N, C] for every training sample, float32.

    Of given probabilities there is no model, and no `probabilities.npy` without those of train.
    """

    name = "teacher"
    asked = True
    training: ClassVar[str] = "teacher"
    """Name of its training in messages and events."""

    def reads(self, config: Config) -> tuple[str, ...]:
        """Keys of any training, and the epochs; of a given teacher only the length of its inputs.

        Of given probabilities which samples the run uses.
        """
        if config.robust.teacher.probabilities is not None:
            return given_probabilities.READS
        if config.robust.teacher.model is not None:
            return (KEY, *(f"{OURS}.{key}" for key in ("task", "task.max_length", "precision")))
        return (*TRAINING, f"{OURS}.teacher.epochs", f"{OURS}.teacher.loss")

    def needs(self, run: Context) -> tuple[Stage, ...]:
        """The bias model of its loss."""
        return tuple(bias.needed(run.config.robust.teacher.loss))

    def includes(self, label: str) -> bool:
        """The bias model's seconds."""
        return True

    def facts(self, run: Context) -> dict[str, Any]:
        """Facts of a training, and the code of its loss.

        Of a given teacher, which is not trained, its weights and the order of its outputs instead; of
        given probabilities the content of their file.
        """
        if run.config.robust.teacher.probabilities is not None:
            return given_probabilities.facts(run, "train")
        given, facts = run.config.robust.teacher.model, run.for_teacher().training_facts()
        if given is None:
            return {**facts, "code": method_code.digest(type(run.config.robust.teacher.loss))}
        source = encoders.directory(given, KEY)
        order = encoders.find_labels(source, run.data.labels, run.data.task, trained=True)
        return {**facts, "teacher": encoders.fingerprint(source), **label_order.inputs_of(order)}

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Fine-tune the encoder on the task, or take the given one; score train."""
        block = run.config.robust.teacher
        if block.probabilities is not None:
            return _read_given(run)
        own = run.for_teacher()
        weights = run.unfinished.place("exported")
        if block.model is None:
            assert block.epochs is not None, "epochs are resolved"
            models = [bias.load(artefact) for artefact in made.values()]
            known = block.loss.sample_data(None, None, 0.0, models[0] if models else None)
            known = bias.known_with(known, block.loss, run.data.train.labels)
            file, shape = fine_tune(run, self.training, block.epochs, block.loss, known, weights)
        else:
            file, shape = _given(own, weights)

        def fill(folder: Path) -> None:
            shutil.copyfile(file, folder / FILE)
            length, task = run.config.robust.task.max_length, run.data.task
            export.save(shape, own.encoder.tokenizer, length, task, folder / "model", weights)

        return fill


class PlainTeacher(Teacher):
    """What the student with the plain loss starts from where the run's teacher has another loss.

    The same artefact as the teacher of a run with the plain loss.
    """

    training = "baseline teacher"

    def configured(self, config: Config) -> Config:
        """With the plain loss."""
        return config.with_plain_loss()

    def needs(self, run: Context) -> tuple[Stage, ...]:
        """Nothing."""
        return ()

    def missing(self, run: Context) -> str:
        """It is made with the teacher."""
        return (
            f"--stage {run.stage}: there is no teacher with the plain loss yet, which the student "
            "of robust_compression.evaluation.baseline starts from; run --stage teacher first."
        )


def train_figure(context: Context, made: Artefact, metric: str = measures.ACCURACY) -> dict[str, float]:
    """Accuracy of a finished teacher on its training samples, or another figure, as `{"train": it}`.

    Empty where its probabilities of train are not given.
    """
    probabilities = on_train(made)
    if probabilities is None:
        return {}
    train = context.data.train
    answers = measures.Answers(evaluation.predicted(probabilities, train), train.labels)
    return {"train": answers.value(metric)}


def on_train(made: Artefact) -> NDArray[np.float32] | None:
    """Probabilities [N, C] of a finished teacher on its training samples, mapped; None if not given."""
    file = made.path / FILE
    return np.load(file, mmap_mode="r") if file.is_file() else None


def _read_given(run: Context) -> Fill:
    """Read the given probabilities of train, if there are any."""

    def fill(folder: Path) -> None:
        if "train" in run.given:
            given_probabilities.write(run, "train", folder / FILE)

    return fill


def fine_tune(
    context: Context,
    name: str,
    epochs: int,
    loss: Mitigation | None = None,
    known: SampleData | None = None,
    weights: Path | None = None,
) -> Trained:
    """Fine-tune the encoder; name: prefix of the events; loss: None for cross-entropy.

    Returns the file of its probabilities of train, [N, C], and a model of its shape without weights;
    they are written to the directory `weights`.
    """
    model = start_model(context, context.encoder.model)
    shape = encoders.shape(model)
    methods = [Masks(), loss or Vanilla()]
    trainer = new_trainer(name, context, model, methods, epochs, known)
    del model  # the trainer frees it
    trainer.run_until(trainer.total_steps, WatchDev(context))
    trainer.engine.eval()
    write = partial(score, context, "train", trainer.forward, split_pass.probabilities)
    file = context.unfinished.file(f"{name} train", write)
    if weights is not None:
        export.write_plain(gathering.of_engine(trainer.engine), shape, weights)
    trainer.close()
    return file, shape


def _given(context: Context, weights: Path) -> Trained:
    """Score a given teacher in its own tokens, its outputs in the task's order of labels."""
    data, name = context.data, context.config.robust.teacher.model or ""
    source = encoders.directory(name, KEY)
    model = encoders.load_classifier(source, data.labels, trained=True, task=data.task, whole=False)
    shape = encoders.shape(model)
    export.write_plain(gathering.of_model(model), shape, weights)
    with model_scorer(context, model) as forward:
        write = partial(score, context, "train", forward, split_pass.probabilities)
        file = context.unfinished.file("train", write)
    return file, shape
