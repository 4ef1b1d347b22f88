"""Stage student: compress as `compression_training` says, train with the loss hook, export.

Order within a run: layer reduction, then heads and rows, then single weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from compress.compression import importance, plan
from compress.compression.masks import Masks, Scorer, reduce_layers
from compress.configuration.config import Config
from compress.configuration.robust_schema import RobustCompression
from compress.configuration.used_keys import OURS
from compress.data.splits import TaskData
from compress.distillation import layer_map, layerwise
from compress.errors import UserError
from compress.losses import BATCH_WEIGHTS, NEED_DIFFICULTY, NEED_MISTAKES, LossWeights
from compress.models import compressed, encoders
from compress.reporting import card, evaluation
from compress.signals import Signals
from compress.stages import difficulty, first, model_figures, shallow
from compress.stages.context import TRAINING, Context, new_trainer, start_model, watch_dev
from compress.stages.difficulty import Difficulty
from compress.stages.first import First
from compress.stages.shallow import Shallow
from compress.stages.stage import Artefact, Fill, Stage, find
from compress.stages.teacher import Teacher
from compress.training.trainer import Trainer

BLOCKS = ("pruning", "structured", "score_lr", "loss", "layerwise")
"""Keys of `robust_compression` that say how the student is compressed and trained."""


@dataclass(frozen=True)
class Student(Stage):
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
        """Those of any training, of compression and loss; of the difficulty where the loss uses it."""
        keys = [*BLOCKS, "student.model", "student.init_from", "student.epochs", "teacher.model"]
        if difficulty.used(config.robust):
            keys += [f"uncertainty.{key}" for key in ("alpha", "normalisation", "quantile")]
        return (*TRAINING, "compression_training", *(f"{OURS}.{key}" for key in keys))

    def needs(self, run: Context) -> tuple[Stage, ...]:
        """The teacher, and what the loss asks for: difficulty, first model, shallow classifier.

        A loss of the user's gets the difficulty only if there is one or the run makes it.
        """
        robust, out = run.config.robust, list[Stage]([Teacher()])
        if robust.loss.shallow:
            out.append(Shallow())
        elif robust.loss.hook in NEED_DIFFICULTY or (difficulty.used(robust) and _there(run)):
            out.append(Difficulty())
        if robust.loss.hook in NEED_MISTAKES:
            out.append(First())
        return tuple(out)

    def facts(self, run: Context) -> dict[str, Any]:
        """Those of a training; the source of a loss of the user's."""
        facts, hook = run.for_student().training_facts(), run.config.robust.loss.hook
        if ":" in hook:
            facts["hook_source"] = integrity.digest(user_loss.source(losses.resolve(hook)))
        return facts

    def includes(self, label: str) -> bool:
        """Those of the small models that are made for it."""
        return label in ("first", "shallow")

    def place(self, run: Context, key: str) -> Path:
        """In the run's directory."""
        return run.output_dir / (self.name if self.alpha is None else f"alpha/{self.alpha:g}")

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Compress as `compression_training` says, trained with the loss; export the model."""
        robust, here = run.config.robust, run.for_student()
        model = _start(here, made["teacher"].path / "model")
        shape = encoders.fresh(model)
        signals = _signals(robust, made["teacher"], _difficulty(run, made))
        todo = plan.resolve(run.config, model, len(run.data.train))
        masks = Masks(model, todo, _scorer(here, shape, signals))
        signals = replace(signals, layerwise=_layerwise(here, made["teacher"], model))
        assert robust.student.epochs is not None, "epochs are resolved"
        trainer = new_trainer(self.label, here, model, masks, signals, robust.student.epochs)
        trainer.run_until(trainer.total_steps, watch_dev(here))
        weights = checkpoint.gather(trainer.engine)
        wanted = _logits(here, trainer, masks, shape, weights, todo)
        trainer.close()

        def fill(folder: Path) -> None:
            small = masks.shrink(masks.apply(weights), shape)
            sparsity = masks.sparsity_of(small)
            length = robust.task.max_length
            export.save(small, here.encoder.tokenizer, length, here.data.task.keep, folder / "model")
            dev = here.columns["dev"].head(export.SAMPLES)
            parity = export.difference(folder / "model", wanted, dev, here.device)
            card.write(folder / "model", model_figures.about(run))
            layers = [{"heads": len(k.heads), "rows": len(k.rows)} for k in masks.kept() or []]
            values = {"sparsity": sparsity, "parity": parity, "layers": layers}
            artefacts.write_json(folder / "student.json", values)
            if chosen := masks.chosen_heads():
                artefacts.write_json(folder / "heads.json", {"compression_training": chosen})

        return fill


def _there(run: Context) -> bool:
    """Whether there will be a difficulty when the student is trained."""
    return "difficulty" in run.chosen or find(Difficulty(), run) is not None


def _start(context: Context, teacher_model: Path) -> PreTrainedModel:
    """The classifier that the training starts from, with the layers that layer reduction keeps."""
    from_teacher = context.config.robust.student.init_from == "teacher"
    model = start_model(context, teacher_model if from_teacher else context.encoder.model)
    kept = plan.layers(context.config, model.config)
    if kept is None:
        return model
    block = context.config.compression.layers
    return reduce_layers(model, kept, block.other_module_name if block else None)


def _scorer(context: Context, shape: PreTrainedModel, signals: Signals) -> Scorer:
    """Importance of heads and rows on a plain copy of the model as it is now, on every rank."""
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
    todo: plan.Plan,
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
        Masks(model, todo).load_state_dict(masks.state_dict())
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
        forward = evaluation.model_forward(model, context.device)
        return evaluation.logits(forward, dev, export.SAMPLES, classes, context.device, alone=True)

    return ranks.on_main(alone)


def check(config: Config, model: Path, data: TaskData) -> None:
    """Raise UserError now for whatever of the student's compression the training would reject.

    model: the student's encoder. Builds shapes on the meta device: no weights.
    """
    robust = config.robust
    if robust.student.model is not None:
        encoders.find_labels(model, data.labels, data.task)
    if robust.student.init_from == "teacher" and robust.teacher.model is not None:
        model = encoders.directory(robust.teacher.model, "robust_compression.teacher.model")
    encoders.check_weights(model)
    shape = encoders.load_config(model)
    kept = plan.layers(config, shape)
    reduced = compressed.reduced(shape, kept) if kept else shape
    with torch.device("meta"):
        small = encoders.fresh_from(model, reduced)
        plan.resolve(config, small, len(data.train))
    layer_map.check_run(config.robust, model, reduced, data)
    block = config.compression.layers
    for name in (block.other_module_name or []) if block else []:
        plan.check_outside(small, name)


def _layerwise(
    context: Context, teacher: Artefact, model: PreTrainedModel
) -> layerwise.Layerwise | None:
    """The term beside the loss hook; it must see the model after the masks and before the engine."""
    names, robust = context.data.labels, context.config.robust
    return layerwise.build(robust, model, teacher.path / "model", names, context.device)


def _difficulty(context: Context, made: Mapping[str, Artefact]) -> NDArray[np.float64] | None:
    """What the loss gets as difficulty, [N]: of Eq. 1, or from the first model's mistakes, or none."""
    if "first" in made:
        probabilities, labels = first.load(made["first"]), context.columns["train"].labels
        return uncertainty.mistakes(probabilities, labels, context.config.robust.loss.upweight)
    if "shallow" in made:
        return difficulty.sample_difficulty(context, shallow.load(made["shallow"]))
    if "difficulty" not in made:
        return None
    v = uncertainty.variance(difficulty.load_losses(made["difficulty"].path, "train"))
    return difficulty.sample_difficulty(context, v)


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
