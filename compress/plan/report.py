"""The plan of a run: what every stage needs, as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from compress.compression import importance
from compress.compression.pruner import Pruner
from compress.configuration.config import Config, batch_split
from compress.layerwise import layer_map, states
from compress.mitigations._shared import TRAINED_BIAS
from compress.plan import communication, memory, sizes
from compress.plan.communication import GB, Step, Traffic
from compress.plan.engine import Engine
from compress.plan.memory import Load, Need
from compress.plan.sizes import Sizes
from compress.stages import latency

TEACHER = ("load", "train", "score", "export")
SHOWN = 4
"""Items that are named of the part that needs most."""


@dataclass(frozen=True)
class Rows:
    """Samples: of train, of dev and all OOD sets together, and classes."""

    train: int
    scored: int
    classes: int


@dataclass(frozen=True)
class Models:
    """On the meta device. model: the run's encoder; teacher: a given one, if there is one; student:
    what its training starts from, with these pruners.
    """

    model: PreTrainedModel
    teacher: PreTrainedModel | None
    student: PreTrainedModel
    pruners: Sequence[Pruner]


@dataclass(frozen=True)
class Plan:
    """needs: of each part of a run, on a rank; disk: bytes by what is written; step: of the student's
    training; about: the model and the ranks, in a line; parameters: of the model.
    """

    about: str
    parameters: int
    needs: Sequence[Need]
    disk: Mapping[str, int]
    step: Step

    @property
    def parts(self) -> list[Need]:
        """Those that are never left out."""
        return [need for need in self.needs if not need.optional]

    @property
    def most(self) -> Need:
        """The part that needs most on the device, of those that are not left out."""
        return max(self.parts, key=lambda need: need.on_device)

    def text(self, bandwidth: float | None = None, speed: float | None = None) -> str:
        """A table of GB a rank; the part that needs most, with its largest items; disk; communication.

        bandwidth: GB/s of a host's network; speed: TFLOP/s that a rank reaches.
        """
        width = max(len(need.stage) for need in self.needs)
        lines = [self.about, f"{'GB (10^9 bytes) a rank':{width}}  device    host"]
        for need in self.needs:
            note = "  left out if that is not free" if need.optional else ""
            sizes = f"{need.on_device / GB:7.2f} {need.on_host / GB:7.2f}"
            lines.append(f"{need.stage:{width}} {sizes}{note}")
        most = self.most
        items = sorted(most.device.items(), key=lambda item: -item[1])[:SHOWN]
        named = ", ".join(f"{name} {size / GB:.2f}" for name, size in items if size)
        lines.append(f"most on the device: {most.stage}, {most.on_device / GB:.2f} GB ({named})")
        disk = ", ".join(f"{name} {size / GB:.2f}" for name, size in self.disk.items())
        lines.append(f"disk, of all ranks together: {disk} GB")
        lines.append(self.step.text(bandwidth, speed))
        return "\n".join(lines)


def make(config: Config, ranks: int, rows: Rows, models: Models, device: str = "cuda") -> Plan:
    """The plan of a run on so many ranks; device: its type.

    Raises UserError if the batch cannot be shared among the ranks.
    """
    robust, run = config.robust, _Run(config, ranks, rows, gloo=device == "cpu")
    whole, small = sizes.of(models.model), sizes.of(models.student, models.pruners)
    teacher = sizes.of(models.teacher) if models.teacher is not None else whole
    finished = {"student": small}
    if robust.teacher.probabilities is None:
        finished = {"teacher": teacher, **finished}
    needs = _before(run, whole, None if models.teacher is None else teacher)
    if robust.difficulty_needed:
        start = teacher if robust.uncertainty.init_from == "teacher" else whole
        needs += run.needs("difficulty", _all_masked(start), TEACHER[:3])
    needs += _students(run, small, teacher, cuts=any(pruner.cuts for pruner in models.pruners))
    needs += _evaluation(run, finished, torch.device(device))
    keep = robust.checkpoint.keep if robust.checkpoint.enabled else -1
    largest = max(whole, small, key=lambda one: one.parameters)
    stored = [*finished.values(), *([whole] if robust.plain_teacher else [])]
    disk = {
        "checkpoints of a training": memory.checkpoints(largest, keep),
        "finished models": memory.FLOAT
        * (sum(one.finished for one in stored) + _others(config) * small.finished),
        **_states(config, rows, small, teacher),
    }
    about = _about(config, ranks, whole, run.engine(whole))
    return Plan(about, whole.parameters, needs, disk, _step(config, small, run.engine(small)))


@dataclass(frozen=True)
class _Run:
    """What is planned for; gloo: as `Engine`."""

    config: Config
    ranks: int
    rows: Rows
    gloo: bool

    def engine(self, one: Sizes) -> Engine:
        """Of a training of this model."""
        return Engine.of(self.config, self.ranks, one.parameters, self.gloo)

    def load(self, one: Sizes) -> Load:
        """Of a rank."""
        robust, (micro, _) = self.config.robust, batch_split(self.config, self.ranks)
        length, width = robust.task.max_length, self.engine(one).width
        gated = importance.batch_size(self.config, self.ranks)
        return Load(
            activations=memory.activations(one, width, micro, length),
            importance=memory.activations(one, width, gated, length),
            gated=gated,
            inputs=micro * length,
            tokens=max(micro, robust.evaluation.batch_size) * length,
            length=length,
            train=self.rows.train,
            scored=self.rows.scored,
            classes=self.rows.classes,
            checkpointing=robust.activation_checkpointing,
            saved=robust.checkpoint.enabled,
        )

    def needs(self, stage: str, one: Sizes, parts: tuple[str, ...], **more: Any) -> list[Need]:  # noqa: ANN401  fields of Load
        """Of the parts of a stage; more: fields of `Load`."""
        load = replace(self.load(one), **more)
        return memory.needs(stage, one, self.engine(one), load, parts)


def _before(run: _Run, whole: Sizes, given: Sizes | None) -> list[Need]:
    """Of a bias model that is trained, of the teacher and of a first model that is another one.

    given: a teacher that is only scored.
    """
    robust, needs = run.config.robust, list[Need]()
    asked = {loss.bias_model for loss in robust.losses if loss.uses("bias")}
    for name in sorted(asked & TRAINED_BIAS):
        needs += run.needs(name, whole, TEACHER[:3])
    if robust.teacher_trained:
        needs += run.needs("teacher", whole, TEACHER)
    elif given is not None:
        load = run.load(given)
        own = {"scores": memory.arrays(load, -(-run.rows.train // run.ranks))}
        needs.append(Need("teacher: score", memory.evaluating(given, run.engine(given), load), own))
    if robust.loss.first_model_epochs is not None and not robust.first_is_teacher:
        needs += run.needs("first", whole, TEACHER[:3])
    return needs


def _students(run: _Run, small: Sizes, teacher: Sizes, cuts: bool) -> list[Need]:
    """Of the student, and of the one with the plain loss."""
    robust, needs = run.config.robust, list[Need]()
    parts = ("load", *(["importance"] if cuts else []), "train", "export", "parity")
    best = robust.student.keep == "best_dev"
    if robust.evaluation.baseline:
        needs += run.needs("plain", small, parts, cuts=cuts, best=best)
    of_terms = teacher.parameters if robust.layerwise.any else 0
    return needs + run.needs("student", small, parts, cuts=cuts, best=best, teacher=of_terms)


def _others(config: Config) -> int:
    """Students that stay on the disk beside the run's own: of the plain loss, of each alpha tried."""
    block, chooses = config.robust.uncertainty, config.robust.difficulty_used
    tried = len(block.alpha_candidates) if block.alpha == "auto" and chooses else 0
    return config.robust.evaluation.baseline + tried


def _states(config: Config, rows: Rows, small: Sizes, teacher: Sizes) -> dict[str, int]:
    """The teacher's hidden states of train, if they may be kept: of samples of the greatest length."""
    block, length = config.robust.layerwise, config.robust.task.max_length
    if not block.cache_gib:
        return {}
    layers = {high for _, high in layer_map.pairs(small.layers, teacher.layers, block)}
    most = rows.train * length * teacher.hidden * len(layers) * states.TYPE.itemsize
    return {"the teacher's hidden states, at most": min(most, int(block.cache_gib * states.GIB))}


def _evaluation(run: _Run, finished: Mapping[str, Sizes], device: torch.device) -> list[Need]:
    """Of the finished models: the largest in scoring, and all in the look at the latency.

    The scores are those of the main rank, which reports on all samples.
    """
    load = run.load(finished["student"])
    each = [memory.evaluating(one, run.engine(one), load) for one in finished.values()]
    most = max(each, key=lambda items: sum(items.values()))
    found = [Need("evaluation: scores", most, {"scores": memory.arrays(load, load.scored)})]
    counts = {name: one.finished for name, one in finished.items()}
    if not latency.too_large(counts, dict.fromkeys(counts, load.length), device):
        timing = memory.timing(finished, load.length)
        found.append(Need("evaluation: latency", timing, {}, optional=True))
    return found


def _step(config: Config, small: Sizes, engine: Engine) -> Step:
    """A step of the student's training."""
    robust, (micro, accumulation) = config.robust, batch_split(config, engine.ranks)
    tokens, again = micro * accumulation * robust.task.max_length, robust.activation_checkpointing
    return Step(
        communication.sent(Traffic.of(small, engine, accumulation, again=again)),
        communication.operations(small, tokens, again=again),
    )


def _all_masked(whole: Sizes) -> Sizes:
    """With a mask for every weight of a block, as the sub-networks have."""
    return Sizes(**{**vars(whole), "masked": whole.layers * whole.block})


def _about(config: Config, ranks: int, whole: Sizes, engine: Engine) -> str:
    micro, steps = batch_split(config, ranks)
    precision = "bf16" if engine.width < memory.FLOAT else "float32"
    return (
        f"{whole.parameters:,} parameters, {ranks} rank{'s' * (ranks > 1)}, ZeRO {engine.zero}, "
        f"{precision}, micro-batch {micro} x {config.robust.task.max_length} tokens"
        + (f", {steps} accumulation steps" if steps > 1 else "")
    )
