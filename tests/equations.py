"""Eq. 1-3 and the other losses in plain float64, and batches to compare the real ones on."""

import numpy as np
import torch
from hypothesis import strategies as st

from compress.microbatch import Batch
from compress.mitigations import MITIGATIONS

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


def weight64(loss, batch):
    """min(d, ceiling) / mean, mixed with 1 during the warm-up, one sample after the other."""
    onset = min(1.0, batch.progress / loss.warmup) if loss.warmup else 1.0
    d = batch.difficulty.double().numpy()
    return np.array([1 - onset + onset * min(x, batch.ceiling) / batch.mean_difficulty for x in d])


def plus64(loss, batch, x, y, p, d):
    """rmc_plus, one sample after the other, each with its own lambda."""
    onset = min(1.0, batch.progress / loss.warmup) if loss.warmup else 1.0
    losses = []
    for i, scale in enumerate(weight64(loss, batch)):
        hard = (d[i] - batch.alpha) / (1 - batch.alpha) if batch.alpha < 1 else 0.0
        share = loss.lambda_ * max(loss.floor, 1 - onset * hard)
        row = slice(i, i + 1)
        losses.append(scale * eq3(x[row], y[row], p[row], d[row], share)[0])
    return np.array(losses)


def focal64(loss, batch, gold):
    raw = (-np.expm1(-gold)) ** loss.gamma
    mean = raw.mean() if batch.batch_mean is None else float(batch.batch_mean)
    return raw / max(mean, 1e-38) * gold


def bias64(batch):
    return batch.bias.double().numpy()


def poe64(loss, batch, x, y):
    """Sum over the classes by hand, in log space because the factors span many orders."""
    losses, onset = [], min(1.0, batch.progress / loss.warmup) if loss.warmup else 1.0
    for row, b, gold in zip(softmax64(x), bias64(batch), y, strict=True):
        product = row + onset * np.log(np.maximum(b, 2.0**-126))
        losses.append(np.logaddexp.reduce(product) - product[gold] - loss.plain_weight * row[gold])
    return np.array(losses)


def confidence64(batch, x, y, p):
    """KL to a teacher raised to 1 minus the bias model's probability of the gold label."""
    d = [1 - b[gold] for b, gold in zip(bias64(batch), y, strict=True)]
    return eq3(x, y, p, d, 1.0)


def gold64(x, y):
    return -softmax64(x)[np.arange(len(x)), y]


REFERENCES = {
    "vanilla": lambda loss, batch, x, y, p, d: gold64(x, y),
    "distil": lambda loss, batch, x, y, p, d: eq3(x, y, p, np.ones(len(x)), loss.lambda_),
    "smooth": lambda loss, batch, x, y, p, d: eq3(
        x, y, p, np.full(len(x), loss.smoothing), loss.lambda_
    ),
    "focal": lambda loss, batch, x, y, p, d: focal64(loss, batch, gold64(x, y)),
    "weighted": lambda loss, batch, x, y, p, d: gold64(x, y) * weight64(loss, batch),
    "jtt": lambda loss, batch, x, y, p, d: gold64(x, y) * weight64(loss, batch),
    "rmc": lambda loss, batch, x, y, p, d: eq3(x, y, p, d, loss.lambda_),
    "rmc_weighted": lambda loss, batch, x, y, p, d: (
        eq3(x, y, p, d, loss.lambda_) * weight64(loss, batch)
    ),
    "rmc_plus": plus64,
    "poe": lambda loss, batch, x, y, p, d: poe64(loss, batch, x, y),
    "confidence": lambda loss, batch, x, y, p, d: confidence64(batch, x, y, p),
}
"""Hook -> function (settings, batch, logits, labels, teacher, difficulty; float64) -> losses [B]."""


def reference(loss, batch):
    """The losses of the batch in float64."""
    tensors = (batch.logits.detach(), batch.labels, batch.teacher, batch.difficulty)
    x, y, p, d = (
        tensor.numpy() if tensor is batch.labels else tensor.double().numpy() for tensor in tensors
    )
    return REFERENCES[loss.hook](loss, batch, x, y, p, d)


def mitigation(hook, **settings):
    """The mitigation with those of the settings that it has."""
    names = {info.alias or name for name, info in MITIGATIONS[hook].model_fields.items()}
    return MITIGATIONS[hook](hook=hook, **{k: v for k, v in settings.items() if k in names})


@st.composite
def batches(draw, largest=30.0, dtypes=DTYPES):
    """(settings by their names in JSON, batch)."""
    b, c = draw(st.integers(1, 8)), draw(st.integers(2, 5))
    value = st.floats(-largest, largest, width=32) | st.sampled_from([0.0, largest, -largest])
    share = st.floats(0, 1, width=32) | st.sampled_from([0.0, 1.0, 1e-30])

    def matrix(elements):
        return torch.tensor(draw(st.lists(elements, min_size=b * c, max_size=b * c))).view(b, c)

    logits = matrix(value).to(draw(st.sampled_from(dtypes)))

    def probabilities():
        found = matrix(share)
        found[found.sum(dim=1) < 1e-3] = torch.eye(c)[draw(st.integers(0, c - 1))]
        return found / found.sum(dim=1, keepdim=True)

    d = st.floats(0, 1, width=32) | st.sampled_from([0.0, 1.0, 0.5])
    fraction = st.sampled_from([0.0, 0.25, 1.0])
    settings = {
        "lambda": draw(st.sampled_from([0.0, 0.3, 0.9, 1.0])),
        "smoothing": draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])),
        "gamma": draw(st.sampled_from([0.0, 1.0, 2.0])),
        "floor": draw(fraction),
        "warmup": draw(fraction),
        "plain_weight": draw(fraction),
    }
    batch = Batch(
        logits=logits,
        labels=torch.tensor(draw(st.lists(st.integers(0, c - 1), min_size=b, max_size=b))),
        teacher=probabilities(),
        bias=probabilities(),
        difficulty=torch.tensor(draw(st.lists(d, min_size=b, max_size=b))),
        mean_difficulty=draw(st.floats(0.1, 1)),
        ceiling=draw(st.sampled_from([0.5, 1.0])),
        progress=draw(fraction),
        batch_mean=draw(st.sampled_from([None, torch.tensor(0.25)])),
    )
    return settings, batch


def an_ordinary_batch(b=6, c=3, seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(b, c, generator=generator) * 2
    teacher = torch.randn(b, c, generator=generator).mul(3).softmax(dim=1)
    difficulty = torch.rand(b, generator=generator)
    labels = torch.randint(c, (b,), generator=generator)
    bias = torch.randn(b, c, generator=generator).softmax(dim=1)
    return Batch(logits, labels, teacher, difficulty, **{"bias": bias, **more})
