"""Stage student: compress as `compression_training` says, train with the loss hook, export.

Order within a run: layer reduction, then heads and ffn neurons, then single weights.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from compress import method_code
from compress.compression import importance, resolved
from compress.compression.masks import Masks, Scorer
from compress.compression.resolved import Resolved
from compress.configuration.config import Config
from compress.configuration.used_keys import OURS
from compress.data.splits import TaskData
from compress.files import artefacts
from compress.layerwise.terms import terms_of
from compress.methods import Run, Shapes
from compress.microbatch import SampleData
from compress.mitigations._shared import Weighting
from compress.models import encoders
from compress.reporting import card
from compress.runtime import memory, ranks
from compress.stages import (
    bias,
    export,
    model_figures,
    shallow,
    teacher,
    teacher_states,
)
from compress.stages.best_dev import BestDev
from compress.stages.context import TRAINING, Context, WatchDev, new_trainer, start_model
from compress.stages.difficulty import Difficulty, load_variance, sample_difficulty
from compress.stages.first import First
from compress.stages.shallow import Shallow
from compress.stages.stage import Fill, Stage, find, say_once
from compress.stages.student_export import Trained
from compress.stages.teacher import Teacher
from compress.stages.teacher_states import TeacherStates
from compress.stages.workspace import Artefact
from compress.training.passes import Passes

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

BLOCKS = ("pruning", "structured", "masks", "score_lr", "loss", "layerwise")
"""Keys of `robust_compression` that say how the student is compressed and trained."""
STUDENT_KEYS = ("model", "init_from", "epochs", "keep")
Compute = Callable[[], NDArray[np.float64]]


@dataclass(frozen=True)
class Student(Stage[Context]):
    """`model/`: the compressed model; `student.json`: sparsity, parity, what is left by layer.

    alpha: of a candidate while alpha "auto" is chosen; None: the run's own student.
    """

    alpha: float | None = None
    name = "student"
    asked = True

    @property
    def label(self) -> str:
        """Prefix of the events too."""
        return self.name if self.alpha is None else f"alpha {self.alpha:g}"

    def configured(self, config: Config) -> Config:
        """With this alpha."""
        return config if self.alpha is None else config.with_alpha(self.alpha)

    def reads(self, config: Config) -> tuple[str, ...]:
        """Keys of any training, of compression and loss, and of the difficulty where it is used.

        A loss of the user's is given alpha in any case.
        """
        keys = [*BLOCKS, *(f"student.{key}" for key in STUDENT_KEYS)]
        keys += ["teacher.model", "teacher.probabilities"]
        if config.robust.difficulty_used:
            keys += [f"uncertainty.{key}" for key in ("alpha", "normalisation", "quantile")]
        elif config.robust.loss.user_code is not None:
            keys.append("uncertainty.alpha")
        return (*TRAINING, "compression_training", *(f"{OURS}.{key}" for key in keys))

    def teacher(self, run: Context) -> Teacher:
        """The run's own."""
        return Teacher()

    def needs(self, run: Context) -> tuple[Stage, ...]:
        """The teacher, and what the loss asks for: difficulty, first model, shallow or bias model.

        A loss of the user's gets the difficulty only if there is one or the run makes it.
        """
        robust, needs = self.configured(run.config).robust, list[Stage]([self.teacher(run)])
        if robust.loss.shallow:
            needs.append(Shallow())
        elif robust.difficulty_used and (robust.loss.user_code is None or _has_difficulty(run)):
            needs.append(Difficulty())
        if (epochs := robust.loss.first_model_epochs) is not None:
            needs.append(First(epochs))
        return (*needs, *(stage for stage in bias.needed(robust.loss) if stage not in needs))

    def optional(self, run: Context) -> tuple[Stage, ...]:
        """The teacher's hidden states, where they may be kept."""
        return teacher_states.of(replace(run, config=self.configured(run.config)))

    def facts(self, run: Context) -> dict[str, Any]:
        """Facts of a training, and the methods: inputs such as a user's source, and their code.

        The content of dev too, if the epoch is chosen by the accuracy there.
        """
        methods = (run.config.robust.loss, *terms_of(run.config.robust.layerwise))
        chosen = run.config.robust.student.keep == "best_dev"
        return {
            **run.for_student().training_facts(),
            **({"dev": run.data.fingerprint("dev")} if chosen else {}),
            **{method.name: method.inputs() for method in methods},
            "code": method_code.of_student(run.config),
            **_precision_of_importance(run.config),
        }

    def includes(self, label: str) -> bool:
        """Those of the small models that it needs."""
        return label in ("first", *(stage.label for stage in bias.MODELS.values()))

    def place(self, run: Context, key: str) -> Path:
        """In the run's directory."""
        return run.output_dir / (self.name if self.alpha is None else f"alpha/{self.alpha:g}")

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Compress as `compression_training` says, trained with the loss; export the model."""
        robust, own, start = run.config.robust, run.for_student(), made["teacher"].path / "model"
        assert robust.student.epochs is not None, "epochs are resolved"
        if when := run.resolved.timetable:
            say_once(run, f"{self.label}: {when}")
        if (why := teacher_states.obstacle(run)) is not None:
            say_once(run, why)
        states = made[TeacherStates.name].path if TeacherStates.name in made else None
        made_by = assemble(self.label, run, start, _known(run, made), robust.student.epochs, states)
        trainer, masks, watch = made_by.trainer, made_by.masks, WatchDev(own)
        best = BestDev(trainer, watch, masks) if robust.student.keep == "best_dev" else None
        trainer.run_until(trainer.total_steps, best or watch)
        if best is not None:
            best.settle()
        written = made_by.write(own, run.unfinished.place("exported"))
        trainer.close()

        def fill(folder: Path) -> None:
            model, length = folder / "model", robust.task.max_length
            small, tokenizer = made_by.small(), own.encoder.tokenizer
            export.save(small, tokenizer, length, own.data.task, model, written.weights)
            sparsity, parity = made_by.sparsity(model), written.parity(own, model)
            card.write(model, model_figures.about(run))
            layers = [{"heads": len(k.heads), "rows": len(k.neurons)} for k in masks.kept() or []]
            values = {"sparsity": sparsity, "parity": parity, "layers": layers}
            values |= {"best_dev": best.kept} if best else {}
            artefacts.write_json(folder / "student.json", values)
            if chosen := masks.chosen():
                artefacts.write_json(folder / "heads.json", {"compression_training": chosen})

        return fill


def assemble(
    name: str,
    run: Context,
    start: Path,
    known: SampleData,
    epochs: int,
    states: Path | None = None,
) -> Trained:
    """The training of a student as the configuration says.

    start: directory of its teacher; states: of the teacher's hidden states, if they are kept.
    """
    robust, own = run.config.robust, run.for_student()
    model = _start(own, start)
    shape = encoders.shape(model)
    masks = Masks(run.resolved.pruners, _scorer(own, known), robust.masks)
    methods = [masks, robust.loss, *terms_of(robust.layerwise)]
    for method in methods:
        method.attached(model, Run(run.config, start, own.data.labels, own.device, states))
    trainer = new_trainer(name, own, model, methods, epochs, known)
    return Trained(trainer, masks, methods, shape)


def _precision_of_importance(config: Config) -> dict[str, str]:
    """A fact of students in bf16 or fp16, whose importance was once measured in float32."""
    other = config.compression.measures and config.deepspeed.low_precision
    return {"importance": "in the precision of the training"} if other else {}


def _has_difficulty(run: Context) -> bool:
    """Whether there will be a difficulty when the student is trained."""
    return "difficulty" in run.chosen or find(Difficulty(), run) is not None


def _start(context: Context, teacher_model: Path) -> PreTrainedModel:
    """The classifier that the training starts from, with the layers that layer reduction keeps."""
    from_teacher = context.config.robust.student.init_from == "teacher"
    model = start_model(context, teacher_model if from_teacher else context.encoder.model)
    reduction, layers = context.config.compression.layers, context.resolved.layers
    if reduction is None or layers is None:
        return model
    return reduction.reduced(model, layers, context.config.robust.masks)


def _scorer(context: Context, known: SampleData) -> Scorer:
    """Importance of heads and neurons of the model in training as it is now."""
    block, data = context.config.robust.structured, context.columns["train"]
    objective = importance.Objective(context.config.robust.loss, known)
    size = importance.batch_size(context.config, ranks.world_size())

    def watched(inputs: Mapping[str, torch.Tensor]) -> AbstractContextManager[None]:
        return memory.scoring("importance of heads and neurons", inputs, context.config, size)

    def score(engine: "DeepSpeedEngine") -> importance.Importance:
        indices = importance.sample(len(data), block.samples, context.config.robust.seed)
        what = importance.Measurement(data, indices, objective, context.device, size, watched)
        return importance.measure(Passes(engine.module, engine), what)

    return score


def check(config: Config, model: Path, data: TaskData) -> Resolved:
    """What the training does to the student; UserError now for whatever it would reject.

    model: the student's encoder. Builds shapes on the meta device: no weights.
    """
    robust = config.robust
    if robust.student.model is not None:
        encoders.find_labels(model, data.labels, data.task)
    if robust.student.init_from == "teacher" and robust.teacher.model is not None:
        model = encoders.directory(robust.teacher.model, "robust_compression.teacher.model")
    encoders.check_weights(model)
    found = resolved.resolve(config, model, len(data.train))
    shapes = Shapes(config, model, found.model.config, found.model, data)
    for method in (robust.loss, *terms_of(robust.layerwise)):
        method.check(shapes)
    return found


def _known(context: Context, made: Mapping[str, Artefact]) -> SampleData:
    """What the loss may know of each training sample.

    The difficulty is that of Eq. 1, of the first model's mistakes, or none.
    """
    loss, alpha = context.config.robust.loss, context.config.robust.uncertainty.alpha
    models = [bias.load(made[stage.label]) for stage in bias.needed(loss)]
    alpha = alpha if isinstance(alpha, float) else 0.0
    probabilities = teacher.on_train(made["teacher"])
    known = loss.sample_data(probabilities, None, alpha, models[0] if models else None)
    if make := _difficulty(context, made):
        d = context.unfinished.mapped("difficulty", make)
        known = replace(known, difficulty=d)
        if isinstance(loss, Weighting):
            mean, ceiling = ranks.on_main(partial(loss.scale, d))
            known = replace(known, mean_difficulty=mean, ceiling=ceiling)
    return bias.known_with(known, loss, context.data.train.labels)


def _difficulty(context: Context, made: Mapping[str, Artefact]) -> Compute | None:
    """What computes the difficulty [N] of the training samples on the main rank, if there is one.

    That of Eq. 1, or of the first model's mistakes.
    """
    loss, labels = context.config.robust.loss, context.data.train.labels
    if "first" in made:
        return lambda: loss.difficulty_of_mistakes(bias.load(made["first"]), labels)
    if loss.shallow:
        return lambda: sample_difficulty(context, shallow.load(made["shallow"], labels))
    if "difficulty" in made:
        folder = made["difficulty"].path
        return lambda: sample_difficulty(context, load_variance(folder, "train"))
    return None
