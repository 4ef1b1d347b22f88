"""Eq. 1-3 and the other losses in plain float64, and batches to hold the real ones against them."""

import numpy as np
import torch
from hypothesis import strategies as st

from compress.losses import LossWeights

DTYPES = [torch.float32, torch.bfloat16]


def softmax64(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def smooth64(teacher, d):
    """Eq. 2, one sample and one class after the other."""
    powers = np.array([[p**exponent for p in row] for row, exponent in zip(teacher, d, strict=True)])
    return powers / powers.sum(axis=1, keepdims=True)


def eq3(logits, labels, teacher, d, share):
    """(1 - lambda) CE(y, q) + lambda KL(s || q) per sample, float64."""
    log_q = softmax64(logits)
    losses = []
    for i, row in enumerate(smooth64(teacher, d)):
        gold = -log_q[i, labels[i]]
        kl = sum(s * (np.log(s) - log_q[i, j]) for j, s in enumerate(row) if s > 0)
        losses.append((1 - share) * gold + share * kl)
    return np.array(losses)


def reference(hook, logits, labels, teacher, d, weights):
    """The named loss in float64; all arguments are tensors."""
    x, p = logits.detach().double().numpy(), teacher.double().numpy()
    hardness = d.double().numpy()
    if hook == "vanilla":
        return -softmax64(x)[np.arange(len(x)), labels.numpy()]
    gold = -softmax64(x)[np.arange(len(x)), labels.numpy()]
    if hook == "distil":
        return eq3(x, labels, p, np.ones(len(x)), weights.distillation)
    if hook == "smooth":
        return eq3(x, labels, p, np.full(len(x), weights.smoothing), weights.distillation)
    if hook == "focal":
        raw = (-np.expm1(-gold)) ** weights.gamma
        mean = raw.mean() if weights.batch_mean is None else float(weights.batch_mean)
        return raw / max(mean, 1e-38) * gold
    if hook in ("weighted", "jtt"):
        return gold * weight64(hardness, weights)
    if hook == "rmc_plus":
        return plus64(x, labels, p, hardness, weights)
    loss = eq3(x, labels, p, hardness, weights.distillation)
    return loss * weight64(hardness, weights) if hook == "rmc_weighted" else loss


def weight64(d, weights):
    """min(d, ceiling) / mean, mixed with 1 during the warm-up."""
    onset = min(1.0, weights.progress / weights.warmup) if weights.warmup else 1.0
    return np.array(
        [1 - onset + onset * min(one, weights.ceiling) / weights.mean_difficulty for one in d]
    )


def plus64(x, labels, p, d, weights):
    """rmc_plus, one sample after the other, each with its own lambda."""
    onset = min(1.0, weights.progress / weights.warmup) if weights.warmup else 1.0
    losses = []
    for i, scale in enumerate(weight64(d, weights)):
        hard = (d[i] - weights.alpha) / (1 - weights.alpha) if weights.alpha < 1 else 0.0
        share = weights.distillation * max(weights.floor, 1 - onset * hard)
        row = slice(i, i + 1)
        losses.append(scale * eq3(x[row], labels[row], p[row], d[row], share)[0])
    return np.array(losses)


@st.composite
def batches(draw, largest=30.0, dtypes=DTYPES):
    """(logits [B, C], labels [B], teacher [B, C], difficulty [B], weights)."""
    b, c = draw(st.integers(1, 8)), draw(st.integers(2, 5))
    value = st.floats(-largest, largest, width=32) | st.sampled_from([0.0, largest, -largest])
    share = st.floats(0, 1, width=32) | st.sampled_from([0.0, 1.0, 1e-30])

    def matrix(elements):
        return torch.tensor(draw(st.lists(elements, min_size=b * c, max_size=b * c))).view(b, c)

    logits = matrix(value).to(draw(st.sampled_from(dtypes)))
    teacher = matrix(share)
    sure = draw(st.integers(0, c - 1))
    teacher[teacher.sum(dim=1) < 1e-3] = torch.eye(c)[sure]
    teacher = teacher / teacher.sum(dim=1, keepdim=True)
    d = st.floats(0, 1, width=32) | st.sampled_from([0.0, 1.0, 0.5])
    difficulty = torch.tensor(draw(st.lists(d, min_size=b, max_size=b)))
    labels = torch.tensor(draw(st.lists(st.integers(0, c - 1), min_size=b, max_size=b)))
    fraction = st.sampled_from([0.0, 0.25, 1.0])
    weights = LossWeights(
        distillation=draw(st.sampled_from([0.0, 0.3, 0.9, 1.0])),
        mean_difficulty=draw(st.floats(0.1, 1)),
        ceiling=draw(st.sampled_from([0.5, 1.0])),
        smoothing=draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])),
        gamma=draw(st.sampled_from([0.0, 1.0, 2.0])),
        floor=draw(fraction),
        warmup=draw(fraction),
        progress=draw(fraction),
        batch_mean=draw(st.sampled_from([None, torch.tensor(0.25)])),
    )
    return logits, labels, teacher, difficulty, weights


def an_ordinary_batch(b=6, c=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(b, c, generator=generator) * 2
    teacher = torch.randn(b, c, generator=generator).mul(3).softmax(dim=1)
    difficulty = torch.rand(b, generator=generator)
    labels = torch.randint(c, (b,), generator=generator)
    return logits, labels, teacher, difficulty
