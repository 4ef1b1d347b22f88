"""Per-sample losses of the student: pure functions, chosen by name or by dotted path.

A loss takes `(logits [B, C], labels [B], teacher [B, C] or None, difficulty [B] or None, weights)`
and returns one loss per sample `[B]` in float32; the trainer reduces it once. Teacher entries are
probabilities, `weights` is a `LossWeights`. Everything is computed from logits in log-space, so that
probabilities of 0 and 1, bf16 logits and a difficulty of 0 give finite losses and gradients.

Add one without touching the package: `"loss": {"hook": "my_module:my_loss"}` with the same
signature. Source: Du et al. 2023, Sec. 5.2, Eq. 2 and 3.
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.errors import UserError, nearest


@dataclass(frozen=True)
class LossWeights:
    """Scalars of a loss.

    distillation: lambda of Eq. 3, the share of the distillation term, in [0, 1].
    mean_difficulty: mean of d over the training set, so that d / mean_difficulty has mean 1.
    """

    distillation: float = 0.9
    mean_difficulty: float = 1.0


Loss = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, LossWeights], Tensor]


def smoothed_teacher(teacher: Tensor, difficulty: Tensor) -> Tensor:
    """Log of the smoothed teacher, `s_ij = p_ij^{d_i} / sum_k p_ik^{d_i}` (Eq. 2).

    teacher: probabilities [B, C]; difficulty: d [B] in [0, 1]. Returns log s, float32 [B, C], -inf
    where a probability of 0 stays 0. 0 to the power 0 is 1, so d = 0 gives the uniform target.
    """
    exponent = difficulty.float().unsqueeze(1)
    return F.log_softmax(torch.where(exponent == 0, 0.0, exponent * teacher.float().log()), dim=1)


def divergence(log_target: Tensor, logits: Tensor) -> Tensor:
    """KL(target || softmax(logits)) per sample: log_target [B, C], logits [B, C] -> [B].

    Terms of target probability 0 count 0, as x log x does in the limit.
    """
    log_q = F.log_softmax(logits.float(), dim=1)
    finite = log_target.clamp_min(torch.finfo(torch.float32).min)
    terms = torch.where(log_target == -torch.inf, 0.0, log_target.exp() * (finite - log_q))
    return terms.sum(dim=1)


def vanilla(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
    difficulty: Tensor | None,
    weights: LossWeights,
) -> Tensor:
    """Cross-entropy with the gold label, -log q_y (Du et al. 2023, Sec. 6.2)."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


def distil(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
    difficulty: Tensor | None,
    weights: LossWeights,
) -> Tensor:
    """Eq. 3 with the teacher as it is: (1 - lambda) CE(y, q) + lambda KL(p || q)."""
    ones = torch.ones(len(logits), device=logits.device)
    return rmc(logits, labels, teacher, ones, weights)


def rmc(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
    difficulty: Tensor | None,
    weights: LossWeights,
) -> Tensor:
    """Robust model compression: (1 - lambda) CE(y, q) + lambda KL(s || q) (Eq. 3, s from Eq. 2)."""
    if teacher is None or difficulty is None:
        raise ValueError("distil and rmc need the teacher's probabilities and the difficulty")
    share = weights.distillation
    gold = vanilla(logits, labels, None, None, weights)
    return (1 - share) * gold + share * divergence(smoothed_teacher(teacher, difficulty), logits)


def rmc_weighted(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
    difficulty: Tensor | None,
    weights: LossWeights,
) -> Tensor:
    """`rmc` with every sample weighted by d_i / mean(d): mean 1 over the training set."""
    loss = rmc(logits, labels, teacher, difficulty, weights)
    assert difficulty is not None
    return loss * difficulty.float() / weights.mean_difficulty


LOSSES: dict[str, Loss] = {
    "vanilla": vanilla,
    "distil": distil,
    "rmc": rmc,
    "rmc_weighted": rmc_weighted,
}
NEED_DIFFICULTY = frozenset({"rmc", "rmc_weighted"})


def parts(logits: Tensor, labels: Tensor, teacher: Tensor | None) -> dict[str, Tensor]:
    """The terms worth watching, per sample [B]: cross-entropy, and KL to the teacher if given."""
    terms = {"cross_entropy": vanilla(logits, labels, None, None, LossWeights())}
    if teacher is not None:
        ones = torch.ones(len(logits), device=logits.device)
        terms["kl_teacher"] = divergence(smoothed_teacher(teacher, ones), logits)
    return terms


def resolve(hook: str) -> Loss:
    """Return the loss named in `LOSSES`, or the function at the dotted path `module:function`.

    Raises UserError if there is no such name, module or function.
    """
    if ":" not in hook:
        if hook not in LOSSES:
            raise UserError(
                f"robust_compression.loss.hook: no loss is called '{hook}'"
                f"{nearest(hook, LOSSES)} (or give 'package.module:function')."
            )
        return LOSSES[hook]
    module, _, name = hook.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"robust_compression.loss.hook: '{hook}' cannot be imported ({error})."
        ) from None
    if not inspect.isfunction(function):
        raise UserError(f"robust_compression.loss.hook: '{hook}' is not a function.")
    return function
