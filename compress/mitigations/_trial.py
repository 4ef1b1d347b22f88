"""A trial of the student's loss on small random batches, before anything is trained.

As in training: logits of the engine's type with a gradient, the scalars of the run, batches down to one
sample (the last of an epoch may be short), at the start, the middle and the end of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from compress.errors import UserError, first_line
from compress.microbatch import Batch, SampleData, mistake_in
from compress.runtime import memory

if TYPE_CHECKING:
    from compress.configuration.config import Config
    from compress.mitigations._shared import Mitigation

SIZES = (4, 1, 7)
PROGRESS = (0.0, 0.5, 0.99)
SAMPLES = 64


def run(own: Mitigation, config: Config, classes: int, device: torch.device) -> None:
    """Call the loss as a training does, and its gradient; leaves the random state as it was.

    Raises UserError that names the user's function, or the file of a mitigation.
    """
    dtype, beside = _dtype(config), config.robust.layerwise.any
    generator = np.random.default_rng(0)
    known = _attempt(own, _known, own, generator, classes, config.robust.uncertainty.alpha)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(0)
        for size in SIZES:
            for progress in PROGRESS:
                leaf = torch.randn(size, classes, device=device).to(dtype).requires_grad_()
                labels = torch.arange(size, device=device) % classes
                indices = generator.integers(SAMPLES, size=size)
                batch = known.batch(indices, leaf * 1, labels, progress=progress)
                given = {name: value.detach().clone() for name, value in _tensors(batch).items()}
                loss = _attempt(own, _loss, own, batch)
                wrong = _changed(batch, given) or mistake_in(loss, labels)
                wrong = wrong or _wrong(own, loss, leaf, beside)
                if wrong is not None:
                    raise own.refusal(wrong)


def _known(
    own: Mitigation, generator: np.random.Generator, classes: int, alpha: float | str
) -> SampleData:
    """What the loss knows of made-up samples: a difficulty only if it says that it needs one."""
    teacher = generator.dirichlet(np.ones(classes), SAMPLES).astype(np.float32)
    difficulty = np.linspace(0.5, 1.0, SAMPLES) if own.uses("difficulty") else None
    bias = (
        generator.dirichlet(np.ones(classes), SAMPLES).astype(np.float32) if own.uses("bias") else None
    )
    if own.uses("mistakes"):
        difficulty = own.difficulty_of_mistakes(teacher, np.arange(SAMPLES) % classes)
    return own.sample_data(teacher, difficulty, alpha if isinstance(alpha, float) else 0.0, bias)


def _loss(own: Mitigation, batch: Batch) -> Tensor:
    """The loss, given the mean of its batch weights if it needs one."""
    if own.uses("batch_mean"):
        weight = own.batch_weight(batch)
        if (mistake := mistake_in(weight, batch.labels)) is not None:
            raise own.wrong("batch_weight", mistake)
        batch = replace(batch, batch_mean=weight.mean())
    return own.loss(batch)


def _tensors(batch: Batch) -> dict[str, Tensor]:
    """What a loss is given of each sample."""
    names = ("logits", "labels", "teacher", "difficulty", "bias")
    values = {name: getattr(batch, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _changed(batch: Batch, given: Mapping[str, Tensor]) -> str | None:
    """That a loss has written into what it was given, which layer-wise terms and figures see too."""
    for name, value in _tensors(batch).items():
        if not torch.equal(value.detach(), given[name]):
            return f"changes '{name}' in place; work on a copy ({name}.clone())"
    return None


def _attempt(own: Mitigation, function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401  what the call returns
    """What a call returns; what it raises becomes a UserError, except for missing memory."""
    try:
        return function(*arguments)
    except UserError:
        raise
    except Exception as error:
        if memory.exhausted(error):
            raise
        raise own.refusal(f"raises {type(error).__name__}: {first_line(error).rstrip('.')}") from None


def _dtype(config: Config) -> torch.dtype:
    """Type of the engine's logits."""
    engine = config.deepspeed
    if engine.fp16 and engine.fp16.enabled:
        return torch.float16
    return torch.bfloat16 if engine.bf16 and engine.bf16.enabled else torch.float32


def _wrong(own: Mitigation, loss: Tensor, leaf: Tensor, beside: bool) -> str | None:
    """What is wrong with losses [B] that a training would add up and differentiate.

    beside: the run has layer-wise terms, so that a constant 0 is a loss too.
    """
    if not loss.requires_grad:
        if beside and not loss.any():
            return None
        return (
            "returned a loss without a gradient, so that nothing would be learned; leave out detach(), "
            "item(), argmax() and no_grad()"
        )
    if not torch.isfinite(loss).all():
        values = [f"{value:g}" for value in loss.detach().float().tolist()[:4]]
        return f"returned {', '.join(values)}: the loss is not finite at step 0"
    gradient = _attempt(own, _gradient, loss, leaf)
    if not isinstance(gradient, Tensor):
        return "returned a loss that does not depend on the logits"
    return None if torch.isfinite(gradient).all() else "has a gradient that is not finite"


def _gradient(loss: Tensor, leaf: Tensor) -> Tensor | None:
    return torch.autograd.grad(loss.sum(), leaf, allow_unused=True)[0]
