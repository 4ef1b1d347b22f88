"""The plan of a run: what every stage needs, as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from compress.compression import importance
from compress.compression.pruner import Pruner
from compress.configuration.config import Config, batch_split
from compress.configuration.robust_schema import RobustCompression
from compress.mitigations._shared import Mitigation
from compress.plan import communication, memory, sizes
from compress.plan.communication import Step, Traffic
from compress.plan.memory import Engine, Load, Need
from compress.plan.sizes import Sizes
from compress.stages import bias, difficulty, latency
from compress.stages.plain import Plain
from compress.stages.weak import Weak

GB = 10**9
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
    training; about: the model and the ranks, in a line.
    """

    about: str
    needs: Sequence[Need]
    disk: Mapping[str, int]
    step: Step

    @property
    def most(self) -> Need:
        """The part that needs most on the device, of those that no run leaves out."""
        needed = [need for need in self.needs if not need.spared]
        return max(needed, key=lambda need: need.on_device)

    def text(self, bandwidth: float | None = None, speed: float | None = None) -> str:
        """A table of GB a rank; the part that needs most, with its largest items; disk; communication.

        bandwidth: GB/s of a host's network; speed: TFLOP/s that a rank reaches.
        """
        width = max(len(need.stage) for need in self.needs)
        lines = [self.about, f"{'GB (10^9 bytes) a rank':{width}}  device    host"]
        for need in self.needs:
            lines.append(f"{need.stage:{width}} {need.on_device / GB:7.2f} {need.on_host / GB:7.2f}")
        most = self.most
        items = sorted(most.device.items(), key=lambda item: -item[1])[:SHOWN]
        named = ", ".join(f"{name} {size / GB:.2f}" for name, size in items if size)
        lines.append(f"most on the device: {most.stage}, {most.on_device / GB:.2f} GB ({named})")
        disk = ", ".join(f"{name} {size / GB:.2f}" for name, size in self.disk.items())
        lines.append(f"disk, of all ranks together: {disk} GB")
        lines.append(self.step.text(bandwidth, speed))
        return "\n".join(lines)


def make(
    config: Config,
    ranks: int,
    rows: Rows,
    models: Models,
    device: str = "cuda",
) -> Plan:
    """The plan of a run on so many ranks; device: its type.

    Raises UserError if the batch cannot be shared among the ranks.
    """
    robust, engine = config.robust, Engine.of(config, ranks, gloo=device == "cpu")
    whole, small = sizes.of(models.model), sizes.of(models.student, models.pruners)
    teacher = sizes.of(models.teacher) if models.teacher is not None else whole
    needs, load = list[Need](), _load(config, ranks, rows, whole)
    if any(stage.name == Weak.name for one in _losses(robust) for stage in bias.needed(one)):
        needs += memory.needs(Weak.name, whole, engine, load, TEACHER[:3])
    if robust.teacher_trained:
        needs += memory.needs("teacher", whole, engine, load, TEACHER)
    elif models.teacher is not None:
        own = {"scores": memory.arrays(load, -(-rows.train // ranks))}
        needs.append(Need("teacher: score", memory.evaluating(teacher, engine, load), own))
    if difficulty.needed(robust):
        masked = _all_masked(teacher if robust.uncertainty.init_from == "teacher" else whole)
        load = _load(config, ranks, rows, masked)
        needs += memory.needs("difficulty", masked, engine, load, TEACHER[:3])
        losses = 8 * rows.train * len(robust.uncertainty.sparsities)
        needs[-1] = _with(needs[-1], losses, memory.arrays(load, rows.train))
    cuts = any(pruner.cuts for pruner in models.pruners)
    best = robust.student.keep == "best_dev"
    load = replace(_load(config, ranks, rows, small), cuts=cuts, best=best)
    parts = ("load", *(["importance"] if cuts else []), "train", "export", "parity")
    if robust.evaluation.baseline:
        needs += memory.needs(Plain.name, small, engine, load, parts)
    of_terms = teacher.parameters if robust.layerwise.any else 0
    needs += memory.needs("student", small, engine, replace(load, teacher=of_terms), parts)
    finished = {"student": small}
    if robust.teacher.probabilities is None:
        finished = {"teacher": teacher, **finished}
    needs += _evaluation(finished, engine, load, torch.device(device))
    keep = robust.checkpoint.keep if robust.checkpoint.enabled else -1
    largest = max(whole, small, key=lambda one: one.parameters)
    disk = {
        "checkpoints of a training": memory.checkpoints(largest, keep),
        "finished models": memory.FLOAT * sum(one.finished for one in finished.values()),
    }
    micro, accumulation = batch_split(config, ranks)
    tokens, again = micro * accumulation * robust.task.max_length, robust.activation_checkpointing
    step = Step(
        communication.sent(Traffic.of(small, engine, accumulation, again=again)),
        communication.operations(small, tokens, again=again),
    )
    return Plan(_about(config, ranks, whole, engine), needs, disk, step)


def _losses(robust: RobustCompression) -> list[Mitigation]:
    return [robust.loss, *([robust.teacher.loss] if robust.teacher_trained else [])]


def _evaluation(
    finished: Mapping[str, Sizes], engine: Engine, load: Load, device: torch.device
) -> list[Need]:
    """Of the finished models: the largest in scoring, and all in the look at the latency."""
    each = [memory.evaluating(one, engine, load) for one in finished.values()]
    most = max(each, key=lambda items: sum(items.values()))
    found = [Need("evaluation: scores", most, {"scores": memory.arrays(load, load.scored)})]
    counts = {name: one.finished for name, one in finished.items()}
    if not latency.too_large(counts, dict.fromkeys(counts, load.length), device):
        timing = memory.timing(finished, load.length)
        found.append(Need("evaluation: latency", timing, {}, spared=True))
    return found


def _load(config: Config, ranks: int, rows: Rows, one: Sizes) -> Load:
    robust, (micro, _) = config.robust, batch_split(config, ranks)
    length, width = robust.task.max_length, Engine.of(config, ranks).width
    gated = importance.batch_size(config, ranks)
    return Load(
        activations=memory.activations(one, width, micro, length),
        importance=memory.activations(one, width, gated, length),
        gated=gated,
        inputs=micro * length,
        tokens=max(micro, robust.evaluation.batch_size) * length,
        length=length,
        train=rows.train,
        scored=rows.scored,
        classes=rows.classes,
        checkpointing=robust.activation_checkpointing,
        saved=robust.checkpoint.enabled,
    )


def _all_masked(whole: Sizes) -> Sizes:
    """With a mask for every weight of a block, as the sub-networks have."""
    return Sizes(**{**vars(whole), "masked": whole.layers * whole.block})


def _with(need: Need, losses: int, scores: int) -> Need:
    """With the losses of the samples under each sub-network, and the scores of all under one."""
    return Need(need.stage, need.device, {**need.host, "scores": scores, "losses": losses})


def _about(config: Config, ranks: int, whole: Sizes, engine: Engine) -> str:
    micro, steps = batch_split(config, ranks)
    precision = "bf16" if engine.width < memory.FLOAT else "float32"
    return (
        f"{whole.parameters:,} parameters, {ranks} rank{'s' * (ranks > 1)}, ZeRO {engine.zero}, "
        f"{precision}, micro-batch {micro} x {config.robust.task.max_length} tokens"
        + (f", {steps} accumulation steps" if steps > 1 else "")
    )
