"""A micro-batch after the forward pass, with the arithmetic that losses share.

Everything is computed from logits in log-space, so that probabilities of 0 and 1, bf16 logits and a
difficulty of 0 give finite losses and gradients. Source: Du et al. 2023, Sec. 5.2 and 6.2, Eq. 2 and 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from compress.data.batches import Indices


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B samples and C classes after the forward pass.

    logits: [B, C]; labels: [B]; teacher, bias: probabilities [B, C] of the teacher and of a bias
    model that was not trained on the sample; difficulty: d [B], 1 is the hardest; valid: 1, or 0 for
    padding, [B] or []; inputs, outputs: of the student's forward call; progress: fraction of the
    training that is done. Of the whole training set: mean_difficulty: mean of min(d, ceiling), so
    that sample weights have mean 1; ceiling: a harder sample weighs as if it had this difficulty;
    alpha: of Eq. 1, the lowest d. batch_mean: mean of `Method.batch_weight` over the whole batch of
    all ranks, [] (None: over these samples); settings: those of the loss, for a function of the
    user's; watched: see `watch`; shared: what several methods compute once; tokens: values of its
    tokens [B, L, ...], 0 on padding, by name (`Method.token_values`).
    """

    logits: Tensor
    labels: Tensor
    teacher: Tensor | None = None
    difficulty: Tensor | None = None
    bias: Tensor | None = None
    valid: Tensor = field(default_factory=lambda: torch.ones(()))
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Any = None
    progress: float = 1.0
    mean_difficulty: float = 1.0
    ceiling: float = 1.0
    alpha: float = 0.0
    batch_mean: Tensor | None = None
    settings: Any = None
    watched: dict[str, Tensor] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)
    tokens: Mapping[str, Tensor] = field(default_factory=dict)

    def watch(self, name: str, values: Tensor) -> None:
        """Log the mean of values [B] under this name; every batch must give the same names."""
        self.watched[name] = values

    def cross_entropy(self) -> Tensor:
        """-log q_y with the gold label, float32 [B]."""
        return F.cross_entropy(self.logits.float(), self.labels, reduction="none")

    def product_cross_entropy(self, warmup: float = 0.0) -> Tensor:
        """-log of the gold label's share in softmax(log q + w log b), b the bias model, float32 [B].

        Clark et al. 2019, "bias product", with w = 1, as it is from the end of the warm-up on. A
        probability b of 0 counts as the smallest float32.
        """
        log_b = self.onset(warmup) * _log(self.known_bias())
        return F.cross_entropy(self.logits.float() + log_b, self.labels, reduction="none")

    def known_bias(self) -> Tensor:
        """The bias model's probabilities [B, C], constants; ValueError if there are none."""
        if self.bias is None:
            raise ValueError("there is no bias model; give the function needs = {'bias'}")
        return self.bias.detach()

    def bias_of_gold(self) -> Tensor:
        """The bias model's probability of the gold label, float32 [B]."""
        return self.known_bias().float().gather(1, self.labels[:, None]).squeeze(1)

    def soft_target(self, d: Tensor) -> Tensor:
        """Log of the smoothed teacher, `s_ij = p_ij^{d_i} / sum_k p_ik^{d_i}` (Du et al. 2023, Eq. 2).

        d: [B] in [0, 1]. Returns log s, float32 [B, C], -inf where a probability of 0 stays 0. 0 to the
        power 0 is 1, so d = 0 gives the uniform target. Raises ValueError without a teacher.
        """
        if self.teacher is None:
            raise ValueError("this loss needs the teacher's probabilities")
        exponent = d.float().unsqueeze(1)
        powers = exponent * self.teacher.float().log()
        return F.log_softmax(torch.where(exponent == 0, 0.0, powers), dim=1)

    def divergence(self, d: Tensor) -> Tensor:
        """KL(s || q), s the teacher smoothed with d [B] (Eq. 2) and q the student, float32 [B].

        Terms of target probability 0 count 0, as x log x does in the limit.
        """
        target, log_q = self.soft_target(d), F.log_softmax(self.logits.float(), dim=1)
        finite = target.clamp_min(torch.finfo(torch.float32).min)
        terms = target.exp() * (finite - log_q)
        return torch.where(target == -torch.inf, 0.0, terms).sum(dim=1)

    def distillation(self, share: float | Tensor, d: Tensor) -> Tensor:
        """(1 - share) CE(y, q) + share KL(s || q), [B] (Eq. 3); share: lambda, one or [B]; d: [B]."""
        return (1 - share) * self.cross_entropy() + share * self.divergence(d)

    def constant(self, value: float) -> Tensor:
        """The value for every sample, float32 [B]."""
        return self.logits.new_full((len(self.logits),), value, dtype=torch.float32)

    def known_difficulty(self) -> Tensor:
        """The difficulty [B]; ValueError if there is none."""
        if self.difficulty is None:
            raise ValueError("this loss needs a difficulty")
        return self.difficulty

    def onset(self, warmup: float) -> float:
        """Progress of a warm-up: 0 at the start of training, 1 from `warmup` on."""
        return min(1.0, self.progress / warmup) if warmup else 1.0

    def sample_weight(self, warmup: float = 0.0) -> Tensor:
        """min(d_i, ceiling) over its mean over the training set, [B]; 1 before the warm-up."""
        d, onset = self.known_difficulty(), self.onset(warmup)
        full = d.float().clamp_max(self.ceiling) / self.mean_difficulty
        return full if onset == 1 else 1 + onset * (full - 1)

    def parts(self) -> dict[str, Tensor]:
        """The terms that are logged, [B] each: cross-entropy, and KL to the teacher if there is one."""
        terms = {"cross_entropy": self.cross_entropy()}
        if self.teacher is not None:
            terms["kl_teacher"] = self.divergence(self.constant(1.0))
        return terms


def _log(probabilities: Tensor) -> Tensor:
    """Log of probabilities, float32; 0 counts as the smallest float32."""
    return probabilities.float().clamp_min(torch.finfo(torch.float32).tiny).log()


@dataclass(frozen=True)
class SampleData:
    """What is known of each of the N training samples, and of all of them; see `Batch`.

    bias_exponent: to which the probabilities of the bias model are raised (`stages.calibration`).
    """

    teacher: NDArray[np.float32] | None = None
    difficulty: NDArray[np.float64] | None = None
    bias: NDArray[np.float32] | None = None
    mean_difficulty: float = 1.0
    ceiling: float = 1.0
    alpha: float = 0.0
    bias_exponent: float = 1.0

    def rows(self, indices: Indices) -> dict[str, NDArray[np.float32]]:
        """What is known of the samples `indices` [B]: `teacher`, `bias` [B, C] and `difficulty` [B]."""
        every = {"teacher": self.teacher, "difficulty": self.difficulty, "bias": self.bias}
        return {n: v[indices].astype(np.float32) for n, v in every.items() if v is not None}

    def of_rows(
        self,
        rows: Mapping[str, Tensor],
        logits: Tensor,
        labels: Tensor,
        **more: Any,  # noqa: ANN401  further fields
    ) -> Batch:
        """The batch of the samples of which `rows` holds what is known."""
        scalars = {key: getattr(self, key) for key in ("mean_difficulty", "ceiling", "alpha")}
        more = {**scalars, **more, "bias": self._calibrated(rows.get("bias"))}
        return Batch(logits, labels, rows.get("teacher"), rows.get("difficulty"), **more)

    def _calibrated(self, bias: Tensor | None) -> Tensor | None:
        """Probabilities [B, C] to the power of `bias_exponent`, normalised."""
        if bias is None or self.bias_exponent == 1:
            return bias
        return (self.bias_exponent * _log(bias)).softmax(dim=1)

    def batch(self, indices: Indices, logits: Tensor, labels: Tensor, **more: Any) -> Batch:  # noqa: ANN401  further fields
        """The batch of the samples `indices` [B]; more: further fields of `Batch`."""
        found = self.rows(indices).items()
        rows = {name: torch.as_tensor(values).to(logits.device) for name, values in found}
        return self.of_rows(rows, logits, labels, **more)


def mistake_in(returned: object, labels: Tensor) -> str | None:
    """What is wrong with what a method returned for labels [B]; None for one value a sample, [B]."""
    expected = f"one loss per sample is a tensor of shape {list(labels.shape)}"
    if not isinstance(returned, Tensor):
        what = "None" if returned is None else f"a {type(returned).__name__}"
        return f"returned {what}, but {expected}"
    if returned.layout != torch.strided:
        return f"returned a sparse tensor, but {expected}"
    if returned.shape != labels.shape:
        mean = "; leave the mean to the training" if returned.ndim == 0 else ""
        return f"returned a tensor of shape {list(returned.shape)}, but {expected}{mean}"
    if not returned.is_floating_point():
        kind = str(returned.dtype).removeprefix("torch.")
        return f"returned values of type {kind}, but a loss is of a float type"
    if returned.device != labels.device:
        return f"returned a tensor on {returned.device}, but the batch is on {labels.device}"
    return None
