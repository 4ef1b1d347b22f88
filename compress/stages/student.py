"""Stage student: compress as `compression_training` says, train with the loss hook, export.

Order within a run: layer reduction, then heads and ffn neurons, then single weights.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from compress import artefacts, checkpoint, export, ranks, uncertainty
from compress.compression import importance, resolved
from compress.compression.masks import Masks, Scorer
from compress.compression.resolved import Resolved
from compress.configuration.config import Config
from compress.data.splits import TaskData
from compress.errors import UserError
from compress.layerwise.terms import terms_of
from compress.methods import Run, Shapes
from compress.microbatch import SampleData
from compress.models import encoders
from compress.reporting import card
from compress.scoring import evaluation
from compress.stages import difficulty, first, model_figures, shallow
from compress.stages.context import (
    Artefact,
    Context,
    found,
    new_trainer,
    publish,
    start_model,
    watch_dev,
)
from compress.training.trainer import Trainer


def inputs_of(context: Context, teacher: Artefact, hardness: Artefact | None) -> dict[str, Any]:
    """What the student depends on."""
    robust, merged = context.config.robust, context.config.merged
    block, compression = robust.uncertainty, context.config.compression
    inputs = {
        **context.for_student().training_inputs(),
        "stage": "student",
        "epochs": robust.student.epochs or robust.epochs,
        "init_from": robust.student.init_from,
        "compression_training": merged.get("compression_training", {}),
        "pruning": robust.pruning.model_dump(),
        "teacher": teacher.key,
        **{method.name: method.inputs() for method in (robust.loss, *terms_of(robust.layerwise))},
    }
    if "structured" in compression.takes(robust):
        inputs["structured"] = robust.structured.model_dump()
    if compression.learned:
        inputs["score_lr"] = robust.score_lr
    of = hardness.key if hardness else None
    if robust.loss.shallow:
        of = artefacts.key(shallow.inputs_of(context))
    if of is not None:
        inputs["difficulty"] = of
        inputs["uncertainty"] = [block.alpha, block.normalisation, block.quantile]
    if robust.loss.uses("mistakes"):
        inputs["first"] = artefacts.key(first.inputs_of(context))
    return inputs


def _needed(context: Context, hardness: Artefact | None) -> Artefact | None:
    """The loss matrix if the hook uses its variance, so that other students do not depend on it.

    Raises UserError if the hook cannot do without and there is none.
    """
    loss = context.config.robust.loss
    if loss.shallow or not difficulty.used(context.config.robust):
        return None
    if hardness is None and loss.user_code is None:
        raise UserError(f"the loss '{loss.hook}' needs the difficulty; run --stage difficulty first.")
    return hardness


def make(
    context: Context,
    teacher: Artefact,
    hardness: Artefact | None,
    path: Path | None = None,
    name: str = "student",
) -> Artefact:
    """Compress as `compression_training` says, trained with the loss hook; export the model.

    hardness: the loss matrix, if there is one; path: default `student` in the output directory; name:
    prefix of the events.
    """
    robust = context.config.robust
    hardness = _needed(context, hardness)
    inputs = inputs_of(context, teacher, hardness)
    path = path or context.output_dir / "student"
    if (old := found(path, inputs)) is not None:
        return old
    known, before = _known(context, teacher, hardness)
    began = time.perf_counter() - before
    here = context.for_student()
    model = _start(here, teacher.path / "model")
    shape = encoders.fresh(model)
    masks, terms = (
        Masks(context.resolved.pruners, _scorer(here, shape, known)),
        terms_of(robust.layerwise),
    )
    methods = [masks, robust.loss, *terms]
    for method in methods:
        method.attach(model, Run(here.config, teacher.path / "model", here.data.labels, here.device))
    epochs = robust.student.epochs or robust.epochs
    trainer = new_trainer(name, here, model, methods, epochs, known)
    trainer.run_until(trainer.total_steps, watch_dev(here))
    weights = checkpoint.gather(trainer.engine)
    wanted = _logits(here, trainer, masks, shape, weights)
    trainer.close()

    def fill(folder: Path) -> None:
        small = masks.shrink(masks.finish(dict(weights)), shape)
        sparsity = masks.sparsity_of(small)
        length = robust.task.max_length
        export.save(small, here.encoder.tokenizer, length, here.data.task.keep, folder / "model")
        dev = here.columns["dev"].head(export.SAMPLES)
        parity = export.difference(folder / "model", wanted, dev, here.device)
        card.write(folder / "model", model_figures.about(context))
        layers = [{"heads": len(k.heads), "rows": len(k.neurons)} for k in masks.kept() or []]
        values = {"sparsity": sparsity, "parity": parity, "layers": layers}
        artefacts.write_json(folder / "student.json", values)
        if chosen := masks.chosen():
            artefacts.write_json(folder / "heads.json", {"compression_training": chosen})

    return publish(path, inputs, began, fill)


def _start(context: Context, teacher_model: Path) -> PreTrainedModel:
    """The classifier that the training starts from, with the layers that layer reduction keeps."""
    model = start_model(context, context.config.robust.student.init_from, teacher_model)
    reduction, layers = context.config.compression.layers, context.resolved.layers
    return model if reduction is None or layers is None else reduction.reduced(model, layers)


def _scorer(context: Context, shape: PreTrainedModel, known: SampleData) -> Scorer:
    """Importance of heads and neurons on a plain copy of the model as it is now, on every rank."""
    block, data = context.config.robust.structured, context.columns["train"]
    objective = importance.Objective(context.config.robust.loss, known)

    def score(plain: Mapping[str, torch.Tensor]) -> importance.Importance:
        with torch.random.fork_rng(devices=[]):  # dropout after a round must not depend on the round
            model = encoders.fresh(shape)
        model.load_state_dict({name: plain[name] for name in model.state_dict()})
        indices = importance.sample(len(data), block.samples, context.config.robust.seed)
        return importance.measure(model, data, indices, objective, context.device)

    return score


def _logits(
    context: Context,
    trainer: Trainer,
    masks: Masks,
    shape: PreTrainedModel,
    weights: dict[str, torch.Tensor],
) -> NDArray[np.float64]:
    """Logits [N, C] of the masked model on the first dev samples, in float32.

    Those of the engine, unless it computes in lower precision: then of a masked model in float32 with
    the gathered weights, on the main rank.
    """
    torch.set_float32_matmul_precision("highest")  # TF32, if the environment switched it on
    dev, classes = context.columns["dev"].head(export.SAMPLES), len(context.data.labels)
    if not context.config.deepspeed.low_precision:
        trainer.engine.eval()
        return evaluation.logits(trainer.forward, dev, export.SAMPLES, classes, context.device)

    def alone() -> NDArray[np.float64]:
        model = encoders.fresh(shape)
        again = Masks(masks.pruners)
        again.attach(model)
        again.load_state_dict(masks.state_dict())
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
        forward = evaluation.model_forward(model, context.device)
        return evaluation.logits(forward, dev, export.SAMPLES, classes, context.device, alone=True)

    return ranks.on_main(alone)


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
    for term in terms_of(robust.layerwise):
        term.check(shapes)
    return found


def _known(context: Context, teacher: Artefact, hardness: Artefact | None) -> tuple[SampleData, float]:
    """What the mitigation needs of each training sample, and the seconds that belong to the student.

    The difficulty is that of Eq. 1, of the first model's mistakes, or none; the seconds are those of
    the first model or the shallow classifier, reused or not.
    """
    robust, d, seconds = context.config.robust, None, 0.0
    if robust.loss.uses("mistakes"):
        with context.monitor.progress.stage("first"):
            made = first.make(context)
        rows, labels = np.load(made.path / "probabilities.npy"), context.columns["train"].labels
        d, seconds = robust.loss.difficulty_of_mistakes(rows, labels), made.seconds
    elif robust.loss.shallow:
        made = shallow.make(context)
        d, seconds = difficulty.sample_difficulty(context, shallow.load(made)), made.seconds
    elif hardness is not None:
        v = uncertainty.variance(difficulty.load_losses(hardness.path, "train"))
        d = difficulty.sample_difficulty(context, v)
    probabilities = np.load(teacher.path / "probabilities.npy", mmap_mode="r")
    alpha = robust.uncertainty.alpha
    return robust.loss.sample_data(
        probabilities, d, alpha if isinstance(alpha, float) else 0.0
    ), seconds


def find(context: Context, teacher: Artefact, hardness: Artefact | None) -> Artefact | None:
    """The student if it is finished."""
    inputs = inputs_of(context, teacher, _needed(context, hardness))
    return found(context.output_dir / "student", inputs)
