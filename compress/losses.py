"""Per-sample losses of the student: pure functions, chosen by name or by dotted path.

A loss takes `(logits [B, C], labels [B], teacher [B, C] or None, difficulty [B] or None, weights)`
and returns one loss per sample `[B]` in float32; the trainer reduces it once. Teacher entries are
probabilities, `weights` is a `LossWeights`. Everything is computed from logits in log-space, so that
probabilities of 0 and 1, bf16 logits and a difficulty of 0 give finite losses and gradients.

Add one without touching the package: `"loss": {"hook": "my_module:my_loss"}` with the same
signature. Source: Du et al. 2023, Sec. 5.2 and 6.2, Eq. 2 and 3; `weighted` and `rmc_plus` are ours.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compress import user_loss
from compress.errors import UserError, nearest


@dataclass(frozen=True)
class LossWeights:
    """Scalars of a loss.

    distillation: lambda of Eq. 3, the share of the distillation term, in [0, 1].
    mean_difficulty: mean of min(d, ceiling) over the training set, so that sample weights have mean 1.
    ceiling: a harder sample weighs as if its difficulty were this; alpha: of Eq. 1, the lowest d.
    smoothing: the one d of `smooth`; gamma: of `focal`; floor: least share of lambda in `rmc_plus`.
    warmup: fraction of training over which sample weights and lambda_i set in; progress: fraction done.
    batch_mean: mean of `BATCH_WEIGHTS[hook]` over the whole batch of all ranks, [] or None.
    """

    distillation: float = 0.9
    mean_difficulty: float = 1.0
    ceiling: float = 1.0
    alpha: float = 0.0
    smoothing: float = 0.9
    gamma: float = 2.0
    floor: float = 0.0
    warmup: float = 0.0
    progress: float = 1.0
    batch_mean: Tensor | None = None

    @property
    def onset(self) -> float:
        """How far sample weights have set in: 0 at the start of training, 1 from `warmup` on."""
        return min(1.0, self.progress / self.warmup) if self.warmup else 1.0


Loss = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, LossWeights], Tensor]
BatchWeight = Callable[[Tensor, Tensor, LossWeights], Tensor]


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
    """`rmc` with every sample weighted by its difficulty, mean 1 over the training set."""
    loss = rmc(logits, labels, teacher, difficulty, weights)
    assert difficulty is not None
    return loss * sample_weight(difficulty, weights)


def smooth(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
    difficulty: Tensor | None,
    weights: LossWeights,
) -> Tensor:
    """Eq. 3 with one d for all samples (Du et al. 2023, Sec. 6.2: 0.9)."""
    d = torch.full((len(logits),), weights.smoothing, device=logits.device)
    return rmc(logits, labels, teacher, d, weights)


def focal_weight(logits: Tensor, labels: Tensor, weights: LossWeights) -> Tensor:
    """(1 - p_i)^gamma, p_i the probability of the gold label: logits [B, C], labels [B] -> [B].

    A constant for the gradient. From log p, so that 1 - p keeps its digits near p = 1.
    """
    log_p = -F.cross_entropy(logits.detach().float(), labels, reduction="none")
    return (-torch.expm1(log_p)).clamp_min(0.0) ** weights.gamma


def focal(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
    difficulty: Tensor | None,
    weights: LossWeights,
) -> Tensor:
    """Batch-normalised focal loss, -w_i log p_i (Du et al. 2023, Sec. 6.2; after Lin et al. 2017).

    w_i = (1 - p_i)^gamma / mean_k (1 - p_k)^gamma, k over the batch of all ranks (`batch_mean`; without
    it over these samples). The weights are constants for the gradient: the paper does not say.
    """
    raw = focal_weight(logits, labels, weights)
    mean = raw.mean() if weights.batch_mean is None else weights.batch_mean
    scale = raw / mean.clamp_min(torch.finfo(torch.float32).tiny)
    return scale * vanilla(logits, labels, None, None, weights)


def sample_weight(difficulty: Tensor, weights: LossWeights) -> Tensor:
    """Weight of each sample, [B] -> [B]: min(d_i, ceiling) over its mean, set in over the warm-up."""
    full = difficulty.float().clamp_max(weights.ceiling) / weights.mean_difficulty
    return full if weights.onset == 1 else 1 + weights.onset * (full - 1)


def weighted(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
    difficulty: Tensor | None,
    weights: LossWeights,
) -> Tensor:
    """Cross-entropy weighted by difficulty, no teacher: how much is re-weighting alone?"""
    if difficulty is None:
        raise ValueError("weighted and jtt need a difficulty")
    gold = vanilla(logits, labels, None, None, weights)
    return gold * sample_weight(difficulty, weights)


def jtt(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
    difficulty: Tensor | None,
    weights: LossWeights,
) -> Tensor:
    """Just train twice (Liu et al. 2021): `weighted`, the difficulty being a first model's mistakes.

    `compress.uncertainty.mistakes` makes that difficulty; misclassified samples weigh `upweight` times
    the others, mean 1 (Du et al. 2023, Sec. 6.2).
    """
    return weighted(logits, labels, teacher, difficulty, weights)


def rmc_plus(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
    difficulty: Tensor | None,
    weights: LossWeights,
) -> Tensor:
    """`rmc_weighted` with a lambda per sample: the easy follow the teacher, the hard the gold label.

    lambda_i = lambda max(floor, 1 - (d_i - alpha) / (1 - alpha)); it sets in over the warm-up, as the
    sample weights do. Ours.
    """
    if teacher is None or difficulty is None:
        raise ValueError("rmc_plus needs the teacher's probabilities and the difficulty")
    d = difficulty.float()
    hardness = (d - weights.alpha) / (1 - weights.alpha) if weights.alpha < 1 else torch.zeros_like(d)
    share = weights.distillation * (1 - weights.onset * hardness).clamp_min(weights.floor)
    gold = vanilla(logits, labels, None, None, weights)
    soft = divergence(smoothed_teacher(teacher, difficulty), logits)
    return sample_weight(d, weights) * ((1 - share) * gold + share * soft)


LOSSES: dict[str, Loss] = {
    "vanilla": vanilla,
    "distil": distil,
    "smooth": smooth,
    "focal": focal,
    "jtt": jtt,
    "rmc": rmc,
    "rmc_weighted": rmc_weighted,
    "weighted": weighted,
    "rmc_plus": rmc_plus,
}
NEED_DIFFICULTY = frozenset({"rmc", "rmc_weighted", "weighted", "rmc_plus"})
NEED_MISTAKES = frozenset({"jtt"})
BATCH_WEIGHTS: dict[str, BatchWeight] = {"focal": focal_weight}
"""Weights that a loss normalises over the whole batch: the trainer takes their mean over all ranks."""


def parts(logits: Tensor, labels: Tensor, teacher: Tensor | None) -> dict[str, Tensor]:
    """The terms worth watching, per sample [B]: cross-entropy, and KL to the teacher if given."""
    terms = {"cross_entropy": vanilla(logits, labels, None, None, LossWeights())}
    if teacher is not None:
        ones = torch.ones(len(logits), device=logits.device)
        terms["kl_teacher"] = divergence(smoothed_teacher(teacher, ones), logits)
    return terms


def resolve(hook: str) -> Loss:
    """Return the loss named in `LOSSES`, or the function at the dotted path `module:function`.

    Raises UserError if there is no such name, module or function, or if its module cannot be imported.
    """
    if ":" not in hook:
        if hook not in LOSSES:
            raise UserError(
                f"robust_compression.loss.hook: no loss is called '{hook}'"
                f"{nearest(hook, LOSSES)} (or give 'package.module:function')."
            )
        return LOSSES[hook]
    return user_loss.load(hook)
