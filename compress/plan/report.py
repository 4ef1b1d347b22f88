"""The plan of a run: what every stage needs, as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from compress.compression import importance
from compress.compression.pruner import Pruner
from compress.configuration.config import Config, batch_split
from compress.plan import communication, memory, sizes
from compress.plan.communication import Step, Traffic
from compress.plan.memory import Engine, Load, Need
from compress.plan.sizes import Sizes
from compress.stages import difficulty, latency

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
    model: PreTrainedModel,
    student: tuple[PreTrainedModel, Sequence[Pruner]],
    device: str = "cuda",
) -> Plan:
    """The plan of a run on so many ranks; models: on the meta device.

    model: of the teacher's fine-tuning and the difficulty; student: and its pruners; device: its type.
    Raises UserError if the batch cannot be shared among the ranks.
    """
    robust, engine = config.robust, Engine.of(config, ranks, gloo=device == "cpu")
    whole, small = sizes.of(model), sizes.of(*student)
    needs = []
    if robust.teacher_trained:
        needs += memory.needs("teacher", whole, engine, _load(config, ranks, rows, whole), TEACHER)
    if difficulty.needed(robust):
        masked = _all_masked(whole)
        load = _load(config, ranks, rows, whole)
        needs += memory.needs("difficulty", masked, engine, load, TEACHER[:3])
        losses = 8 * rows.train * len(robust.uncertainty.sparsities)
        needs[-1] = _with(needs[-1], losses, memory.arrays(load, rows.train))
    cuts = any(pruner.cuts for pruner in student[1])
    teacher = whole.parameters if robust.layerwise.any else 0
    load = replace(_load(config, ranks, rows, small), teacher=teacher, cuts=cuts)
    parts = ("load", *(["importance"] if cuts else []), "train", "export", "parity")
    needs += memory.needs("student", small, engine, load, parts)
    held = {"scores": memory.arrays(load, rows.scored)}
    needs.append(Need("evaluation: scores", memory.evaluating(whole, engine, load), held))
    timed = {"teacher": whole.parameters, "student": small.parameters}
    if not latency.too_large(timed, dict.fromkeys(timed, load.length), torch.device(device)):
        timing = memory.timing(whole, small, load.length)
        needs.append(Need("evaluation: latency", timing, {}, spared=True))
    keep = robust.checkpoint.keep if robust.checkpoint.enabled else -1
    largest = max(whole, small, key=lambda one: one.parameters)
    disk = {
        "checkpoints of a training": memory.checkpoints(largest, keep),
        "finished models": memory.FLOAT * (whole.parameters + small.parameters),
    }
    micro, accumulation = batch_split(config, ranks)
    tokens, again = micro * accumulation * robust.task.max_length, robust.activation_checkpointing
    step = Step(
        communication.sent(Traffic.of(small, engine, accumulation, again=again)),
        communication.operations(small, tokens, again=again),
    )
    return Plan(_about(config, ranks, whole, engine), needs, disk, step)


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
