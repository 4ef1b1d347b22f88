"""The user's own loss, tried on small random batches before anything is trained.

As in training: logits of the engine's type that carry a gradient, the scalars of the run, batches down
to one sample (the last of an epoch may be short), the start, the middle and the end of the training.
"""

from dataclasses import replace

import torch
from torch import Tensor

from compress import losses, user_loss

SIZES = (4, 1, 7)
PROGRESS = (0.0, 0.5, 0.99)
Kind = tuple[int, torch.dtype, torch.device]


def run(hook: str, weights: losses.LossWeights, kind: Kind, layerwise: bool) -> None:
    """Call the loss as a training does, and its gradient; leaves the random state as it was.

    kind: number of classes C, type and device of the logits; layerwise: the run has terms beside the
    hook, so that a constant 0 is a loss too. Raises UserError that names the hook.
    """
    function = losses.resolve(hook)
    device = kind[2]
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(0)
        for size in SIZES:
            for progress in PROGRESS:
                now = replace(weights, progress=progress)
                leaf, arguments = _batch(size, kind)
                returned = user_loss.call(hook, function, *arguments, now)
                loss = user_loss.checked(hook, function, returned, arguments[1])
                wrong = _wrong(hook, loss, leaf, layerwise)
                if wrong is not None:
                    where = f"({user_loss.place(function)}, tried on a random batch)"
                    raise user_loss.refusal(hook, f"{wrong} {where}")


def _batch(size: int, kind: Kind) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(what the gradient is taken for [B, C], the first four arguments of the loss)."""
    classes, dtype, device = kind
    leaf = torch.randn(size, classes, device=device).to(dtype).requires_grad_()
    labels = torch.arange(size, device=device) % classes
    teacher = torch.randn(size, classes, device=device).softmax(1)
    difficulty = torch.linspace(0.5, 1.0, size, device=device)
    return leaf, (leaf * 1, labels, teacher, difficulty)


def _wrong(hook: str, loss: Tensor, leaf: Tensor, layerwise: bool) -> str | None:
    """What is wrong with losses [B] that a training would add up and differentiate."""
    if not loss.requires_grad:
        if layerwise and not loss.any():
            return None
        return (
            "returned a loss without a gradient, so that nothing would be learned; leave out detach(), "
            "item(), argmax() and no_grad()"
        )
    if not torch.isfinite(loss).all():
        values = [f"{value:g}" for value in loss.detach().float().tolist()[:4]]
        return f"returned {', '.join(values)}: the loss is not finite at step 0"
    gradient = user_loss.call(hook, _gradient, loss, leaf)
    if not isinstance(gradient, Tensor):
        return "returned a loss that does not depend on the logits"
    return None if torch.isfinite(gradient).all() else "has a gradient that is not finite"


def _gradient(loss: Tensor, leaf: Tensor) -> Tensor | None:
    return torch.autograd.grad(loss.sum(), leaf, allow_unused=True)[0]
