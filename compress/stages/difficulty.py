"""Stage difficulty: the loss of every sample under pruned sub-networks of rising sparsity.

The loss matrix is the artefact; alpha and the normalisation of Eq. 1 (Du et al. 2023, Sec. 5.1) come
later, so that changing them costs nothing. The arithmetic is in `compress.uncertainty`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from compress import method_code, uncertainty
from compress.compression import resolved
from compress.compression.masks import Masks
from compress.compression.pruners.magnitude import Magnitude, Weights
from compress.compression.pruning_schedule import PruningSchedule
from compress.configuration.config import Config, training_steps
from compress.configuration.used_keys import OURS
from compress.errors import UserError
from compress.mitigations.vanilla import Vanilla
from compress.models import encoders
from compress.models.blocks import linear_layers
from compress.scoring import split_pass
from compress.stages.context import TRAINING, Context, new_trainer, score, start_model
from compress.stages.stage import Fill, Stage
from compress.stages.teacher import Teacher
from compress.stages.workspace import Artefact
from compress.training.trainer import Trainer

UPDATES_PER_LEVEL = 10
VARIANCE = "variance"
ROWS = 1 << 20
"""Samples that are written to the loss matrix at a time."""


class Difficulty(Stage[Context]):
    """`train.parquet` and `dev.parquet`: losses [N, T] of every sample under T sub-networks.

    `trajectory`: one gradual pruning run that stops at each sparsity, scores and goes on;
    `independent`: one run for each sparsity (Du et al. 2023, Sec. 5.1).
    """

    name = "difficulty"
    asked = True

    def reads(self, config: Config) -> tuple[str, ...]:
        """Keys of any training, and of the sub-networks."""
        keys = ("protocol", "sparsities", "init_from", "epochs")
        return (*TRAINING, f"{OURS}.masks", *(f"{OURS}.uncertainty.{key}" for key in keys))

    def needs(self, run: Context) -> tuple[Stage, ...]:
        """The teacher if the sub-networks start from it."""
        return (Teacher(),) if run.config.robust.uncertainty.init_from == "teacher" else ()

    def facts(self, run: Context) -> dict[str, Any]:
        """Facts of any training, the content of dev, the code of loss and pruner."""
        start = run.starting_from(run.config.robust.uncertainty.init_from)
        code = [method_code.digest(kind) for kind in (Vanilla, Magnitude)]
        return {**start.training_facts(), "dev": run.data.fingerprint("dev"), "code": code}

    def missing(self, run: Context) -> str:
        """What needs it: alpha "auto", or the loss."""
        robust = run.config.robust
        if robust.uncertainty.alpha == "auto":
            return (
                f"{OURS}.uncertainty.alpha: 'auto' cuts dev by the variance of its losses; run --stage "
                "difficulty first."
            )
        return f"the loss '{robust.loss.hook}' needs the difficulty; run --stage difficulty first."

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Prune, and score train and dev at each sparsity."""
        check(run.config, len(run.data.train))
        block = run.config.robust.uncertainty
        run = run.starting_from(block.init_from)
        start = made["teacher"].path / "model" if "teacher" in made else run.encoder.model
        levels = [float(level) for level in block.sparsities]
        losses_of: dict[str, list[Path]] = {"train": [], "dev": []}
        runs = [levels] if block.protocol == "trajectory" else [[level] for level in levels]
        for targets in runs:
            for trainer, level in zip(_stops(run, targets, start), targets, strict=True):
                for name, losses in losses_of.items():
                    losses.append(_losses(run, trainer, level, name))

        def fill(folder: Path) -> None:
            for name, files in losses_of.items():
                losses = [np.load(file, mmap_mode="r") for file in files]
                save_losses(folder / f"{name}.parquet", levels, losses, run.columns[name].labels)

        return fill


def _steps(config: Config, samples: int) -> int:
    return training_steps(config, samples, config.robust.sub_networks["epochs"])


def check(config: Config, samples: int) -> None:
    """Raise UserError now if the sub-networks do not fit into the training steps."""
    levels, steps = len(config.robust.uncertainty.sparsities), _steps(config, samples)
    if steps < levels:
        raise UserError(
            f"robust_compression.uncertainty: {levels} sparsities do not fit into {steps} "
            "training steps; raise uncertainty.epochs or lower train_batch_size."
        )


def check_model(config: Config, model: Path) -> None:
    """Raise UserError now if a model has no linear layers in blocks, which is what this stage prunes.

    Or if DeepSpeed's library masks, and would change its embeddings. model: directory of the run's
    encoder. Builds the shape on the meta device: no weights.
    """
    robust, key = config.robust, "model"
    name = robust.model
    if robust.uncertainty.init_from == "teacher" and robust.teacher.model is not None:
        name, key = robust.teacher.model, "teacher.model"
        model = encoders.directory(name, f"robust_compression.{key}")
    with torch.device("meta"):
        shape = encoders.fresh_from(model)
    try:
        linear_layers(shape)
    except UserError:
        raise UserError(
            f"robust_compression.{key}: the stage difficulty prunes the linear layers of Transformer "
            f"blocks, and '{name}' ({type(shape).__name__}) has none that can be found; take another "
            "model, or a loss without it (such as distil, or robust_compression.loss.difficulty "
            "'shallow' with a number as uncertainty.alpha)."
        ) from None
    resolved.check_embeddings(config, shape)


def _part(level: float, split: str) -> str:
    """Name of the losses of a split at a sparsity among the parts of this stage."""
    return f"{level!r} {split}"


def _parts(levels: list[float]) -> list[str]:
    """Names of all the losses at these sparsities."""
    return [_part(level, split) for level in levels for split in ("train", "dev")]


def _losses(run: Context, trainer: Trainer | None, level: float, split: str) -> Path:
    """The file of the losses [N] of a split at a sparsity.

    trainer: None if an earlier run has kept them.
    """

    def write(file: Path) -> None:
        assert trainer is not None, "what is kept is not made"
        trainer.engine.eval()
        score(run, split, trainer.forward, split_pass.losses(run.columns[split].labels), file)

    return run.unfinished.file(_part(level, split), write)


def _stops(context: Context, targets: list[float], start: Path) -> Iterator[Trainer | None]:
    """Train one pruning run and yield the trainer at each target sparsity, recovered.

    Nothing is trained, and None yielded, if all losses of the run are kept already.
    """
    epochs = context.config.robust.sub_networks["epochs"]
    total = _steps(context.config, len(context.data.train))
    if context.unfinished.has(*_parts(targets)):
        context.monitor.progress.skip(total)
        yield from [None] * len(targets)
        return
    model = start_model(context, start)
    ends = [round(total * (i + 1) / len(targets)) for i in range(len(targets))]
    begins = [0, *ends[:-1]]
    schedules = []
    for before, target, begin, end in zip([0.0, *targets], targets, begins, ends, strict=False):
        half = begin + max(1, (end - begin) // 2)
        stride = max(1, (half - begin) // UPDATES_PER_LEVEL)
        schedules.append(PruningSchedule(before, target, begin, half, stride))
    layers = linear_layers(model)
    pruner = Magnitude({"blocks": Weights(tuple(schedules), tuple(layers))})
    masks = Masks([pruner], kind=context.config.robust.masks)
    masks.attach(model)
    name = "difficulty" if len(targets) > 1 else f"difficulty {_short(targets[0])}"
    trainer = new_trainer(name, context, model, [masks, Vanilla()], epochs)
    del model  # the trainer frees it
    for end, target in zip(ends, targets, strict=True):
        trainer.run_until(end)
        if trainer.step != end and not context.unfinished.has(*_parts([target])):
            raise UserError(
                f"{context.unfinished.path}: has no losses at sparsity {target:g}, and its training is "
                "beyond that; delete this directory."
            )
        yield trainer
    trainer.close()
    context.unfinished.forget(name)


def _short(level: float) -> str:
    """A sparsity with two digits, or with as many as it has."""
    return f"{level:.2f}" if float(f"{level:.2f}") == level else repr(level)


def save_losses(
    file: Path,
    levels: list[float],
    losses: Sequence[NDArray[np.floating]],
    labels: NDArray[np.integer],
) -> None:
    """Write one row a sample: index, label, the loss under each sub-network, the variance.

    losses: [N] of each sub-network; a part of the samples is read at a time.
    """
    names = [f"loss_{level!r}" for level in levels]
    types = [("index", pa.int64()), ("label", pa.int64()), *((name, pa.float64()) for name in names)]
    with pq.ParquetWriter(file, pa.schema([*types, (VARIANCE, pa.float64())])) as writer:
        for begin in range(0, len(labels), ROWS):
            rows = slice(begin, begin + ROWS)
            matrix = np.stack([values[rows] for values in losses], axis=1).astype(np.float64)
            known = labels[rows].astype(np.int64)
            columns = [np.arange(begin, begin + len(known)), known, *matrix.T]
            writer.write_table(
                pa.table([*columns, uncertainty.variance(matrix)], schema=writer.schema), ROWS
            )


def load_variance(folder: Path, split: str) -> NDArray[np.float64]:
    """The variance of the loss of each sample of a split [N]."""
    return _column(folder / f"{split}.parquet", VARIANCE)


def mean_losses(folder: Path, split: str) -> NDArray[np.float64]:
    """The mean loss of a split under each sub-network [T]."""
    file = folder / f"{split}.parquet"
    names = [name for name in pq.read_schema(file).names if name.startswith("loss_")]
    return np.array([_column(file, name).mean() for name in names])


def _column(file: Path, name: str) -> NDArray[np.float64]:
    return np.asarray(pq.read_table(file, columns=[name])[name].to_numpy(), np.float64)


def sample_difficulty(context: Context, v: NDArray[np.float64]) -> NDArray[np.float64]:
    """v [N] -> d [N] of Eq. 1 with the configured alpha and normalisation."""
    block = context.config.robust.uncertainty
    assert isinstance(block.alpha, float), "alpha 'auto' is settled before it is used"
    return uncertainty.difficulty(v, block.alpha, block.normalisation, block.quantile)
