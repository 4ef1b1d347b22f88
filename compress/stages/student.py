"""Stage student: compress as `compression_training` says, train with the loss hook, export.

Order within a run: layer reduction, then heads and ffn neurons, then single weights.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from compress import (
    artefacts,
    checkpoint,
    export,
    hook_trial,
    integrity,
    losses,
    ranks,
    uncertainty,
    user_loss,
)
from compress.compression import importance, resolved
from compress.compression.masks import Masks, Scorer
from compress.compression.resolved import Resolved
from compress.configuration.config import Config
from compress.configuration.robust_schema import RobustCompression
from compress.data.splits import TaskData
from compress.distillation import layer_map, layerwise
from compress.errors import UserError
from compress.losses import BATCH_WEIGHTS, NEED_DIFFICULTY, NEED_MISTAKES, LossWeights
from compress.models import encoders
from compress.reporting import card, evaluation
from compress.signals import Signals
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
    hook = losses.resolve(robust.loss.hook)
    inputs = {
        **context.for_student().training_inputs(),
        "stage": "student",
        "epochs": robust.student.epochs or robust.epochs,
        "init_from": robust.student.init_from,
        "compression_training": merged.get("compression_training", {}),
        "pruning": robust.pruning.model_dump(),
        "hook": robust.loss.hook,
        "lambda": robust.loss.lambda_,
        "teacher": teacher.key,
        **layer_map.inputs_of(robust.layerwise),
    }
    if "structured" in compression.takes(robust):
        inputs["structured"] = robust.structured.model_dump()
    if compression.learned:
        inputs["score_lr"] = robust.score_lr
    apart = ("lambda", "difficulty")
    scalars = {key: value for key, value in robust.loss.used().items() if key not in apart}
    if scalars:
        inputs["loss"] = scalars
    if hook not in losses.LOSSES.values():
        inputs["hook_source"] = integrity.digest(user_loss.source(hook))
    of = hardness.key if hardness else None
    if robust.loss.shallow:
        of = artefacts.key(shallow.inputs_of(context))
    if of is not None:
        inputs["difficulty"] = of
        inputs["uncertainty"] = [block.alpha, block.normalisation, block.quantile]
    if robust.loss.hook in NEED_MISTAKES:
        inputs["first"] = artefacts.key(first.inputs_of(context))
    return inputs


def _needed(context: Context, hardness: Artefact | None) -> Artefact | None:
    """The loss matrix if the hook uses its variance, so that other students do not depend on it.

    Raises UserError if the hook cannot do without and there is none.
    """
    loss = context.config.robust.loss
    if loss.shallow or not difficulty.used(context.config.robust):
        return None
    if hardness is None and loss.hook in NEED_DIFFICULTY:
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
    d, before = _difficulty(context, hardness)
    began = time.perf_counter() - before
    here = context.for_student()
    model = _start(here, teacher.path / "model")
    shape = encoders.fresh(model)
    signals = _signals(robust, teacher, d)
    masks = Masks(context.resolved.pruners, _scorer(here, shape, signals))
    masks.attach(model)
    signals = replace(signals, layerwise=_layerwise(here, teacher, model))
    epochs = robust.student.epochs or robust.epochs
    trainer = new_trainer(name, here, model, masks, signals, epochs)
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


def _scorer(context: Context, shape: PreTrainedModel, signals: Signals) -> Scorer:
    """Importance of heads and neurons on a plain copy of the model as it is now, on every rank."""
    block, data = context.config.robust.structured, context.columns["train"]

    def score(plain: Mapping[str, torch.Tensor]) -> importance.Importance:
        with torch.random.fork_rng(devices=[]):  # dropout after a round must not depend on the round
            model = encoders.fresh(shape)
        model.load_state_dict({name: plain[name] for name in model.state_dict()})
        indices = importance.sample(len(data), block.samples, context.config.robust.seed)
        return importance.measure(model, data, indices, signals, context.device)

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
    layer_map.check_run(config.robust, model, found.model.config, data)
    return found


def _layerwise(
    context: Context, teacher: Artefact, model: PreTrainedModel
) -> layerwise.Layerwise | None:
    """The term beside the loss hook; it must see the model after the masks and before the engine."""
    names, robust = context.data.labels, context.config.robust
    return layerwise.build(robust, model, teacher.path / "model", names, context.device)


def _difficulty(
    context: Context, hardness: Artefact | None
) -> tuple[NDArray[np.float64] | None, float]:
    """What the hook gets as difficulty, [N]: of Eq. 1, or from the first model's mistakes, or none.

    And the seconds that belong to the student: those of the first model or the shallow one, reused or
    not.
    """
    loss = context.config.robust.loss
    if loss.hook in NEED_MISTAKES:
        with context.monitor.progress.stage("first"):
            made = first.make(context)
        probabilities = np.load(made.path / "probabilities.npy")
        labels = context.columns["train"].labels
        return uncertainty.mistakes(probabilities, labels, loss.upweight), made.seconds
    if loss.shallow:
        made = shallow.make(context)
        return difficulty.sample_difficulty(context, shallow.load(made)), made.seconds
    if hardness is None:
        return None, 0.0
    v = uncertainty.variance(difficulty.load_losses(hardness.path, "train"))
    return difficulty.sample_difficulty(context, v), 0.0


def _signals(robust: RobustCompression, teacher: Artefact, d: NDArray[np.float64] | None) -> Signals:
    hook, probabilities = robust.loss.hook, np.load(teacher.path / "probabilities.npy", mmap_mode="r")
    weights, batch_weight = loss_weights(robust, d), BATCH_WEIGHTS.get(hook)
    if ":" in hook:
        loss = user_loss.guarded(hook, losses.resolve(hook))
        return Signals(loss, weights, probabilities, d, hook=hook)
    return Signals(losses.resolve(hook), weights, probabilities, d, batch_weight=batch_weight)


def try_hook(config: Config, classes: int, device: torch.device) -> None:
    """Try the user's own loss on random batches; UserError for what a training would trip over."""
    robust = config.robust
    if ":" in (robust.loss.hook or ""):
        weights = loss_weights(robust, np.linspace(0.5, 1.0, 64))
        engine = config.deepspeed
        dtype = torch.bfloat16 if engine.bf16 and engine.bf16.enabled else torch.float32
        dtype = torch.float16 if engine.fp16 and engine.fp16.enabled else dtype
        hook_trial.run(robust.loss.hook, weights, (classes, dtype, device), robust.layerwise.any)


def loss_weights(robust: RobustCompression, d: NDArray[np.float64] | None) -> LossWeights:
    """The scalars of the loss for a training set of difficulty d [N].

    Raises UserError if no weights of mean 1 stay within `loss.max_weight`.
    """
    loss, alpha = robust.loss, robust.uncertainty.alpha
    ceiling = mean = 1.0
    if d is not None and d.any():
        ceiling = uncertainty.ceiling(d, loss.max_weight) if loss.max_weight else 1.0
        mean = float(np.minimum(d, ceiling).mean())
        if not mean:
            raise UserError(
                f"robust_compression.loss.max_weight: {loss.max_weight:g} cannot be kept, because most "
                "samples have difficulty 0; raise uncertainty.alpha."
            )
    return LossWeights(
        distillation=loss.lambda_,
        mean_difficulty=mean,
        ceiling=ceiling,
        alpha=alpha if isinstance(alpha, float) else 0.0,
        smoothing=loss.smoothing,
        gamma=loss.gamma,
        floor=loss.floor,
        warmup=loss.warmup,
        batch_mean=torch.ones(()) if loss.hook in BATCH_WEIGHTS else None,
    )


def find(context: Context, teacher: Artefact, hardness: Artefact | None) -> Artefact | None:
    """The student if it is finished."""
    inputs = inputs_of(context, teacher, _needed(context, hardness))
    return found(context.output_dir / "student", inputs)
