"""The stages teacher -> difficulty -> student, each an artefact that is reused for equal inputs.

Teacher and difficulty live in the cache directory, shared by all runs beside each other; the student
lives in the run's own directory. Each function returns what the later stages need, whether it was
made now or found. `compress.run` puts them in order.
"""

import hashlib
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from compress import artefacts, checkpoint, evaluation, losses, models, ranks, uncertainty
from compress.batches import Columns
from compress.compression import Group, Masks
from compress.config import Config
from compress.data import TaskData
from compress.errors import UserError
from compress.losses import NEED_DIFFICULTY, LossWeights
from compress.monitor import Monitor
from compress.pruning import Ramp
from compress.trainer import Signals, Trainer

UPDATES_PER_LEVEL = 10
ENGINE_KEYS = (
    "train_batch_size",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "bf16",
    "fp16",
    "torch_autocast",
)


@dataclass(frozen=True)
class Context:
    """What every stage needs. columns: encoded splits by name; model: the encoder's directory."""

    config: Config
    output_dir: Path
    cache_dir: Path
    data: TaskData
    columns: Mapping[str, Columns]
    model: Path
    tokenizer: Any
    device: torch.device
    monitor: Monitor

    def training_inputs(self) -> dict[str, Any]:
        """Inputs that matter to any training: data, model, seed, and the engine keys that do."""
        merged = self.config.merged
        return {
            "format": 1,
            "train": self.data.fingerprint("train"),
            "max_length": self.config.robust.task.max_length,
            "model": models.fingerprint(self.model),
            "seed": self.config.robust.seed,
            "engine": {key: merged[key] for key in ENGINE_KEYS if key in merged},
        }


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
    """The artefact at `path` if it is complete for these inputs; the same answer on all ranks."""
    marker = ranks.broadcast(artefacts.completed(path, inputs))
    return Artefact(path, inputs, marker["seconds"], True) if marker else None


def teacher_inputs(context: Context) -> dict[str, Any]:
    """What the teacher depends on."""
    block = context.config.robust.teacher
    if block.model is not None:
        return {
            "train": context.data.fingerprint("train"),
            "max_length": context.config.robust.task.max_length,
            "teacher": models.fingerprint(models.directory(block.model)),
        }
    epochs = block.epochs or context.config.robust.epochs
    return {**context.training_inputs(), "stage": "teacher", "epochs": epochs}


def teacher_path(context: Context) -> Path:
    """Directory of the teacher in the cache."""
    return context.cache_dir / "teacher" / artefacts.key(teacher_inputs(context))[:16]


def teacher(context: Context) -> Artefact:
    """Fine-tune the encoder on the task; store its softmax for every training sample [N, C]."""
    inputs, path = teacher_inputs(context), teacher_path(context)
    if (old := found(path, inputs)) is not None:
        return old
    began = time.perf_counter()
    robust = context.config.robust
    given = robust.teacher.model
    source = models.directory(given) if given else context.model
    torch.manual_seed(robust.seed)
    model = models.load_classifier(source, context.data.labels, trained=given is not None)
    masks, shape = Masks(model, {}), _shape(model)
    epochs = robust.teacher.epochs or robust.epochs
    vanilla = Signals(losses.vanilla)
    trainer = _trainer("teacher", context, model, masks, vanilla, epochs)
    if given is None:
        trainer.run_until(trainer.total_steps)
    scores = _score(context, trainer, "train")
    weights = checkpoint.gather(trainer.engine)
    trainer.close()

    def write(folder: Path) -> None:
        np.save(folder / "probabilities.npy", np.exp(scores).astype(np.float32))
        checkpoint.export(weights, masks, shape, context.tokenizer, folder / "model")

    return _write(path, inputs, began, write)


def difficulty_inputs(context: Context, teacher_key: str) -> dict[str, Any]:
    """What the loss matrix depends on (not alpha and the normalisation, which come later)."""
    block = context.config.robust.uncertainty
    inputs = {
        **context.training_inputs(),
        "stage": "difficulty",
        "dev": context.data.fingerprint("dev"),
        "protocol": block.protocol,
        "sparsities": block.sparsities,
        "init_from": block.init_from,
        "epochs": block.epochs or context.config.robust.epochs,
    }
    return {**inputs, "teacher": teacher_key} if block.init_from == "teacher" else inputs


def difficulty_path(context: Context, inputs: Mapping[str, Any]) -> Path:
    """Directory of the loss matrix in the cache."""
    return context.cache_dir / "difficulty" / artefacts.key(inputs)[:16]


def difficulty(context: Context, made: Artefact) -> Artefact:
    """Losses [N, T] of every train and dev sample under T sub-networks of rising sparsity.

    `trajectory`: one gradual pruning run that stops at each sparsity, scores and goes on.
    `independent`: one run for each sparsity (Du et al. 2023, Sec. 5.1). made: the teacher.
    """
    inputs = difficulty_inputs(context, made.key)
    path = difficulty_path(context, inputs)
    if (old := found(path, inputs)) is not None:
        return old
    began = time.perf_counter()
    block = context.config.robust.uncertainty
    levels = [float(level) for level in block.sparsities]
    train: list[NDArray[np.float64]] = []
    dev: list[NDArray[np.float64]] = []
    runs = [levels] if block.protocol == "trajectory" else [[level] for level in levels]
    for targets in runs:
        for trainer in _stops(context, targets, made.path / "model"):
            for name, into in (("train", train), ("dev", dev)):
                scores = _score(context, trainer, name)
                into.append(evaluation.cross_entropy(scores, context.columns[name].labels))

    def write(folder: Path) -> None:
        for name, columns in (("train", train), ("dev", dev)):
            labels = context.columns[name].labels
            save_losses(folder / f"{name}.parquet", levels, np.stack(columns, 1), labels)

    return _write(path, inputs, began, write)


def _stops(context: Context, targets: list[float], teacher_model: Path):  # noqa: ANN202
    """Train one pruning run and yield the trainer at each target sparsity, recovered."""
    block = context.config.robust.uncertainty
    epochs = block.epochs or context.config.robust.epochs
    model = _start_model(context, block.init_from, teacher_model)
    total = epochs * -(-len(context.data.train) // context.config.deepspeed.train_batch_size)
    ends = [round(total * (i + 1) / len(targets)) for i in range(len(targets))]
    begins = [0, *ends[:-1]]
    ramps = []
    for start, target, begin, end in zip([0.0, *targets], targets, begins, ends, strict=False):
        half = begin + max(1, (end - begin) // 2)
        stride = max(1, (half - begin) // UPDATES_PER_LEVEL)
        ramps.append(Ramp(start, target, begin, half, stride))
    masks = Masks(model, {"blocks": Group((re_prefix(model),), tuple(ramps))})
    name = "difficulty" if len(targets) > 1 else f"difficulty {targets[0]:.2f}"
    trainer = _trainer(name, context, model, masks, Signals(losses.vanilla), epochs)
    for end in ends:
        trainer.run_until(end)
        yield trainer
    trainer.close()


def re_prefix(model: PreTrainedModel) -> str:
    """Regular expression for everything in the encoder's Transformer blocks."""
    return "^" + models.block_prefix(model).replace(".", r"\.") + r"\."


def save_losses(
    file: Path, levels: list[float], matrix: NDArray[np.float64], labels: NDArray[np.int64]
) -> None:
    """Write one row a sample: index, label, the loss under each sub-network, the variance."""
    columns: dict[str, NDArray[Any]] = {"index": np.arange(len(labels)), "label": labels}
    columns |= {f"loss_{level:.2f}": matrix[:, i] for i, level in enumerate(levels)}
    columns["variance"] = uncertainty.variance(matrix)
    pq.write_table(pa.table(columns), file)


def load_losses(folder: Path, split: str) -> NDArray[np.float64]:
    """The loss matrix [N, T] of a split."""
    table = pq.read_table(folder / f"{split}.parquet")
    names = [name for name in table.column_names if name.startswith("loss_")]
    return np.stack([table[name].to_numpy() for name in names], axis=1)


def sample_difficulty(context: Context, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """d [N] of Eq. 1 with the configured alpha and normalisation."""
    block = context.config.robust.uncertainty
    v = uncertainty.variance(matrix)
    return uncertainty.difficulty(v, block.alpha, block.normalisation, block.quantile)


def student_inputs(context: Context, made: Artefact, hardness: Artefact | None) -> dict[str, Any]:
    """What the student depends on."""
    robust, merged = context.config.robust, context.config.merged
    block = robust.uncertainty
    hook = losses.resolve(robust.loss.hook)
    inputs = {
        **context.training_inputs(),
        "stage": "student",
        "epochs": robust.student.epochs or robust.epochs,
        "init_from": robust.student.init_from,
        "compression_training": merged.get("compression_training", {}),
        "pruning": robust.pruning.model_dump(),
        "hook": robust.loss.hook,
        "lambda": robust.loss.lambda_,
        "teacher": made.key,
    }
    if hook not in losses.LOSSES.values():
        inputs["hook_source"] = hashlib.sha256(inspect.getsource(hook).encode()).hexdigest()
    if hardness is not None:
        inputs["difficulty"] = hardness.key
        inputs["uncertainty"] = [block.alpha, block.normalisation, block.quantile]
    return inputs


def needed_difficulty(context: Context, hardness: Artefact | None) -> Artefact | None:
    """The loss matrix if the hook can use it, so that other students do not depend on it.

    Raises UserError if the hook cannot do without and there is none.
    """
    hook = context.config.robust.loss.hook
    if hook in NEED_DIFFICULTY and hardness is None:
        raise UserError(f"the loss '{hook}' needs the difficulty; run --stage difficulty first.")
    return hardness if hook in NEED_DIFFICULTY or ":" in hook else None


def student(context: Context, made: Artefact, hardness: Artefact | None) -> Artefact:
    """Compress as `compression_training` says, trained with the loss hook; export the model.

    made: the teacher; hardness: the loss matrix, if there is one.
    """
    robust = context.config.robust
    hardness = needed_difficulty(context, hardness)
    inputs = student_inputs(context, made, hardness)
    path = context.output_dir / "student"
    if (old := found(path, inputs)) is not None:
        return old
    began = time.perf_counter()
    model = _start_model(context, robust.student.init_from, made.path / "model")
    shape = _shape(model)
    epochs = robust.student.epochs or robust.epochs
    masks = Masks(model, student_groups(context.config, len(context.data.train)))
    signals = _signals(context, made, hardness)
    trainer = _trainer("student", context, model, masks, signals, epochs)
    trainer.run_until(trainer.total_steps)
    sparsity = masks.sparsity()
    weights = checkpoint.gather(trainer.engine)
    trainer.close()

    def write(folder: Path) -> None:
        checkpoint.export(weights, masks, shape, context.tokenizer, folder / "model")
        artefacts.write_json(folder / "student.json", {"sparsity": sparsity})

    return _write(path, inputs, began, write)


def student_groups(config: Config, samples: int) -> dict[str, Group]:
    """Pruning groups of the student: targets from `compression_training`, steps from the schedule.

    Raises UserError if the schedule ends after the training.
    """
    training = config.deepspeed.compression_training
    sparse = training.sparse_pruning if training else None
    if sparse is None or not sparse.shared_parameters.enabled:
        return {}
    shared, pruning = sparse.shared_parameters, config.robust.pruning
    epochs = config.robust.student.epochs or config.robust.epochs
    total = epochs * -(-samples // config.deepspeed.train_batch_size)
    begin, end = round(pruning.begin * total), round(pruning.end * total)
    begin = begin if shared.schedule_offset is None else shared.schedule_offset
    end = end if shared.schedule_offset_end is None else shared.schedule_offset_end
    if not begin <= end <= total:
        raise UserError(
            f"compression_training.sparse_pruning: the schedule goes from step {begin} to {end}, "
            f"but the student trains {total} steps; the offsets must rise and end before that."
        )
    stride = shared.schedule_offset_stride or max(1, (end - begin) // pruning.updates)
    return {
        name: Group(
            tuple(group.modules),
            (Ramp(0.0, 1 - group.params.dense_ratio, begin, end, stride, pruning.curve),),
        )
        for name, group in sparse.different_groups.items()
    }


def _signals(context: Context, made: Artefact, hardness: Artefact | None) -> Signals:
    robust = context.config.robust
    probabilities = np.load(made.path / "probabilities.npy", mmap_mode="r")
    d = None
    if hardness is not None:
        d = sample_difficulty(context, load_losses(hardness.path, "train"))
    mean = float(d.mean()) if d is not None and d.any() else 1.0
    weights = LossWeights(distillation=robust.loss.lambda_, mean_difficulty=mean)
    return Signals(losses.resolve(robust.loss.hook), weights, probabilities, d)


def _start_model(context: Context, init_from: str, teacher_model: Path) -> PreTrainedModel:
    torch.manual_seed(context.config.robust.seed)
    source = teacher_model if init_from == "teacher" else context.model
    return models.load_classifier(source, context.data.labels)


def _shape(model: PreTrainedModel) -> PreTrainedModel:
    """A fresh model of the same shape, to carry the exported weights."""
    return AutoModelForSequenceClassification.from_config(model.config)


def _trainer(
    name: str,
    context: Context,
    model: PreTrainedModel,
    masks: Masks,
    signals: Signals,
    epochs: int,
) -> Trainer:
    return Trainer(
        name,
        context.config,
        model,
        masks,
        context.columns["train"],
        signals,
        epochs,
        context.device,
        context.monitor,
    )


def _score(context: Context, trainer: Trainer, split: str) -> NDArray[np.float64]:
    trainer.engine.eval()
    return evaluation.score(
        trainer.forward,
        context.columns[split],
        context.config.robust.evaluation.batch_size,
        len(context.data.labels),
        context.device,
    )


def _write(
    path: Path, inputs: Mapping[str, Any], began: float, write: Callable[[Path], None]
) -> Artefact:
    """Let the main rank write the artefact; all ranks wait for it."""
    if ranks.is_main():
        with artefacts.writing(path, inputs, began) as folder:
            write(folder)
    ranks.barrier()
    made = found(path, inputs)
    assert made is not None
    return Artefact(made.path, made.inputs, made.seconds, False)
