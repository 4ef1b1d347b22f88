"""A trial of the user's loss on small random batches, before anything is trained.

As in training: logits of the engine's type with a gradient, the scalars of the run, batches down to one
sample (the last of an epoch may be short), at the start, the middle and the end of the training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from compress.mitigations import _function

if TYPE_CHECKING:
    from compress.configuration.config import Config
    from compress.mitigations.user import UserLoss

SIZES = (4, 1, 7)
PROGRESS = (0.0, 0.5, 0.99)
SAMPLES = 64


def run(own: UserLoss, config: Config, classes: int, device: torch.device) -> None:
    """Call the loss as a training does, and its gradient; leaves the random state as it was.

    Raises UserError that names the function.
    """
    dtype, beside = _dtype(config), config.robust.layerwise.any
    alpha = config.robust.uncertainty.alpha
    generator = np.random.default_rng(0)
    teacher = generator.dirichlet(np.ones(classes), SAMPLES).astype(np.float32)
    difficulty = np.linspace(0.5, 1.0, SAMPLES) if own.uses("difficulty") else None
    known = own.sample_data(teacher, difficulty, alpha if isinstance(alpha, float) else 0.0)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(0)
        for size in SIZES:
            for progress in PROGRESS:
                leaf = torch.randn(size, classes, device=device).to(dtype).requires_grad_()
                labels = torch.arange(size, device=device) % classes
                indices = generator.integers(SAMPLES, size=size)
                batch = known.batch(indices, leaf * 1, labels, progress=progress)
                wrong = _wrong(own.hook, own.loss(batch), leaf, beside)
                if wrong is not None:
                    where = f"({_function.place(own.function)}, tried on a random batch)"
                    raise _function.refusal(own.hook, f"{wrong} {where}")


def _dtype(config: Config) -> torch.dtype:
    """Type of the engine's logits."""
    engine = config.deepspeed
    if engine.fp16 and engine.fp16.enabled:
        return torch.float16
    return torch.bfloat16 if engine.bf16 and engine.bf16.enabled else torch.float32


def _wrong(hook: str, loss: Tensor, leaf: Tensor, beside: bool) -> str | None:
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
    gradient = _function.call(hook, _gradient, loss, leaf)
    if not isinstance(gradient, Tensor):
        return "returned a loss that does not depend on the logits"
    return None if torch.isfinite(gradient).all() else "has a gradient that is not finite"


def _gradient(loss: Tensor, leaf: Tensor) -> Tensor | None:
    return torch.autograd.grad(loss.sum(), leaf, allow_unused=True)[0]
