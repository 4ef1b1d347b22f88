"""Losses against a plain float64 transcription of Eq. 1-3, at ordinary and at extreme inputs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from equations import DTYPES, an_ordinary_batch, batches, reference, smooth64
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.losses import (
    LOSSES,
    LossWeights,
    divergence,
    focal_weight,
    parts,
    sample_weight,
    smoothed_teacher,
)

quick = settings(deadline=None, max_examples=25, derandomize=True, database=None)


@pytest.mark.parametrize("hook", LOSSES)
@quick
@given(batches())
def test_agrees_with_the_equations(hook, batch):
    found = LOSSES[hook](*batch)
    assert found.shape == batch[1].shape and found.dtype == torch.float32
    assert found.numpy() == pytest.approx(reference(hook, *batch), rel=2e-5, abs=2e-5)


@pytest.mark.parametrize("hook", LOSSES)
@quick
@given(batches(largest=1e4))
def test_extreme_logits(hook, batch):
    logits = batch[0].clone().requires_grad_()
    found = LOSSES[hook](logits, *batch[1:])
    assert bool(found.isfinite().all())
    assert found.detach().numpy() == pytest.approx(reference(hook, *batch), rel=2e-5, abs=2e-2)
    found.sum().backward()
    assert bool(logits.grad.isfinite().all())
    assert logits.grad.dtype == logits.dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hook", LOSSES)
def test_impossible_and_certain_teacher(hook, dtype):
    teacher = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 1.0, 0.0]])
    logits = torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, 1.0], [0.0, 0.0, 0.0]], dtype=dtype)
    logits.requires_grad_()
    batch = (torch.tensor([0, 1, 2]), teacher, torch.tensor([0.0, 1.0, 0.3]), LossWeights(0.9, 0.5))
    found = LOSSES[hook](logits, *batch)
    assert found.detach().numpy() == pytest.approx(reference(hook, logits, *batch), rel=1e-5)
    found.sum().backward()
    assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize("hook", ["distil", "smooth", "rmc", "rmc_weighted", "rmc_plus"])
def test_float16_probabilities_and_float64_difficulty(hook):
    logits, labels, teacher, d = an_ordinary_batch()
    batch = (logits, labels, teacher.half(), d.double(), LossWeights())
    found = LOSSES[hook](*batch)
    assert found.dtype == torch.float32
    assert found.numpy() == pytest.approx(reference(hook, *batch), rel=1e-5)


def test_rmc_by_hand():
    # p = (0.64, 0.36), d = 1/2 -> (0.8, 0.6) / 1.4; q = (1/2, 1/2)
    s = np.array([0.8, 0.6]) / 1.4
    expected = 0.1 * np.log(2) + 0.9 * (np.sum(s * np.log(s)) + np.log(2))
    teacher, d = torch.tensor([[0.64, 0.36]]), torch.tensor([0.5])
    found = LOSSES["rmc"](torch.zeros(1, 2), torch.tensor([0]), teacher, d, LossWeights(0.9))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_default_share_is_the_papers():
    assert LossWeights().distillation == 0.9


@quick
@given(batches())
def test_smoothed_teacher_is_a_distribution(batch):
    _, _, teacher, d, _ = batch
    s = smoothed_teacher(teacher, d).exp()
    assert s.sum(dim=1).numpy() == pytest.approx(1.0, abs=1e-5)
    assert s.numpy() == pytest.approx(smooth64(teacher.double().numpy(), d.double().numpy()), abs=1e-5)


def test_smoothing_at_its_limits():
    teacher = torch.tensor([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [0.0, 0.4, 0.6]])
    same = smoothed_teacher(teacher, torch.ones(3)).exp()
    assert same.numpy() == pytest.approx(teacher.numpy(), abs=1e-6)
    flat = smoothed_teacher(teacher, torch.zeros(3)).exp()
    assert flat.numpy() == pytest.approx(1 / 3)
    half = smoothed_teacher(teacher, torch.full((3,), 0.5))
    assert bool((half[teacher == 0] == -torch.inf).all())


def test_less_difficulty_is_a_flatter_target():
    teacher = torch.tensor([[0.9, 0.07, 0.03]]).expand(11, 3)
    top = smoothed_teacher(teacher, torch.linspace(0, 1, 11)).exp()[:, 0]
    assert bool((top.diff() > 0).all())


@quick
@given(batches())
def test_divergence_is_zero_at_the_target_and_positive_elsewhere(batch):
    logits, _, teacher, d, _ = batch
    target = smoothed_teacher(teacher, d)
    assert bool((divergence(target, logits) >= -1e-5).all())
    at_target = divergence(target, target.clamp_min(-200.0))
    assert at_target.numpy() == pytest.approx(0.0, abs=1e-5)


@quick
@given(batches())
def test_rmc_with_full_difficulty_is_distil(batch):
    logits, labels, teacher, d, weights = batch
    full = LOSSES["rmc"](logits, labels, teacher, torch.ones_like(d), weights)
    assert torch.equal(full, LOSSES["distil"](logits, labels, teacher, d, weights))
    assert torch.equal(full, LOSSES["distil"](logits, labels, teacher, None, weights))


@pytest.mark.parametrize("hook", ["distil", "rmc"])
@quick
@given(batches())
def test_no_distillation_is_torchs_cross_entropy(hook, batch):
    logits, labels, teacher, d, _ = batch
    plain = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
    found = LOSSES[hook](logits, labels, teacher, d, LossWeights(distillation=0.0))
    assert found.numpy() == pytest.approx(plain.numpy(), rel=1e-6)
    assert torch.equal(LOSSES["vanilla"](logits, labels, None, None, LossWeights()), plain)


def test_full_distillation_ignores_the_gold_label():
    logits, labels, teacher, d = an_ordinary_batch()
    weights = LossWeights(distillation=1.0)
    other = LOSSES["rmc"](logits, (labels + 1) % 3, teacher, d, weights)
    assert torch.equal(other, LOSSES["rmc"](logits, labels, teacher, d, weights))


def test_without_warmup_and_ceiling_a_weight_is_relative_difficulty():
    d = torch.rand(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sample_weight(d, LossWeights(mean_difficulty=0.4)), d / 0.4)


def test_weights_set_in_over_the_warmup():
    d = torch.tensor([0.2, 1.0])
    at = {
        p: sample_weight(d, LossWeights(mean_difficulty=0.5, warmup=0.2, progress=p))
        for p in (0, 0.1, 0.2, 0.9)
    }
    assert at[0].tolist() == [1.0, 1.0]
    assert at[0.1].tolist() == pytest.approx([0.7, 1.5])
    assert at[0.2].tolist() == at[0.9].tolist() == pytest.approx([0.4, 2.0])


@quick
@given(batches())
def test_focal_without_gamma_is_cross_entropy(batch):
    logits, labels, teacher, d, weights = batch
    plain = LOSSES["vanilla"](logits, labels, None, None, weights)
    weights = replace(weights, gamma=0.0, batch_mean=None)
    assert torch.equal(LOSSES["focal"](logits, labels, teacher, d, weights), plain)


def test_focal_weights_have_mean_one_and_fall_with_confidence():
    logits, labels, _, _ = an_ordinary_batch(32)
    raw = focal_weight(logits, labels, LossWeights(gamma=2.0))
    right = logits.softmax(dim=1)[torch.arange(32), labels]
    assert raw.numpy() == pytest.approx(((1 - right) ** 2).numpy(), rel=1e-5)
    focal = LOSSES["focal"](logits, labels, None, None, LossWeights())
    plain = LOSSES["vanilla"](logits, labels, None, None, LossWeights())
    assert float((focal / plain).mean()) == pytest.approx(1.0, rel=1e-5)


def test_focal_of_a_batch_without_mistakes_is_finite():
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4]], requires_grad=True)
    loss = LOSSES["focal"](logits, torch.tensor([0, 1]), None, None, LossWeights())
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0] and bool(logits.grad.isfinite().all())


@quick
@given(batches())
def test_smooth_at_one_is_distil(batch):
    logits, labels, teacher, d, weights = batch
    found = LOSSES["smooth"](logits, labels, teacher, d, replace(weights, smoothing=1.0))
    assert torch.equal(found, LOSSES["distil"](logits, labels, teacher, d, weights))


@quick
@given(batches(), st.sampled_from([0.3, 1.0]))
def test_rmc_plus_with_equal_difficulty_is_a_scaled_distillation(batch, level):
    logits, labels, teacher, d, weights = batch
    weights = replace(weights, alpha=level, warmup=0.0, ceiling=1.0)
    equal = torch.full_like(d, level)
    found = LOSSES["rmc_plus"](logits, labels, teacher, equal, weights)
    plain = LOSSES["smooth"](logits, labels, teacher, None, replace(weights, smoothing=level))
    assert found.numpy() == pytest.approx((plain * level / weights.mean_difficulty).numpy(), rel=1e-5)


def test_rmc_plus_gives_the_hardest_its_gold_label():
    logits, labels, teacher, _ = an_ordinary_batch()
    weights = LossWeights(alpha=0.2)
    found = LOSSES["rmc_plus"](logits, labels, teacher, torch.ones(len(labels)), weights)
    assert torch.equal(found, LOSSES["vanilla"](logits, labels, None, None, weights))
    kept = LOSSES["rmc_plus"](
        logits, labels, teacher, torch.ones(len(labels)), replace(weights, floor=0.5)
    )
    half = LOSSES["distil"](logits, labels, teacher, None, replace(weights, distillation=0.45))
    assert kept.numpy() == pytest.approx(half.numpy(), rel=1e-5)


def test_jtt_is_weighted_with_mistakes_as_difficulty():
    batch = (*an_ordinary_batch(), LossWeights(mean_difficulty=0.6))
    assert torch.equal(LOSSES["jtt"](*batch), LOSSES["weighted"](*batch))


def test_weights_have_mean_one():
    d = torch.linspace(0.3, 1.0, 50)
    weights = LossWeights(0.9, float(d.mean()))
    # a teacher without opinion stays so at any d, so rmc is the same for all samples
    logits, labels = torch.tensor([[1.0, -1.0]]).expand(50, 2), torch.zeros(50, dtype=torch.int64)
    batch = (logits, labels, torch.full((50, 2), 0.5), d, weights)
    plain, weighted = LOSSES["rmc"](*batch), LOSSES["rmc_weighted"](*batch)
    assert float(plain.std()) == pytest.approx(0.0, abs=1e-6)
    assert float(weighted.mean()) == pytest.approx(float(plain.mean()), rel=1e-5)
    assert float(weighted[-1] / weighted[0]) == pytest.approx(1.0 / 0.3, rel=1e-5)


@pytest.mark.parametrize("hook", LOSSES)
def test_samples_do_not_see_each_other(hook):
    logits, labels, teacher, d = an_ordinary_batch()
    weights = LossWeights(0.9, 0.4, batch_mean=torch.tensor(0.3))
    whole = LOSSES[hook](logits, labels, teacher, d, weights)
    for i in range(len(labels)):
        row = slice(i, i + 1)
        alone = LOSSES[hook](logits[row], labels[row], teacher[row], d[row], weights)
        assert float(alone) == pytest.approx(float(whole[i]), rel=1e-6)


@pytest.mark.parametrize("hook", LOSSES)
def test_inputs_are_left_alone_and_answers_repeat(hook):
    batch = (*an_ordinary_batch(), LossWeights())
    before = [tensor.clone() for tensor in batch[:4]]
    state = torch.get_rng_state()
    first, second = LOSSES[hook](*batch), LOSSES[hook](*batch)
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(before, batch[:4], strict=True))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("hook", [hook for hook in LOSSES if hook != "focal"])
@pytest.mark.parametrize("seed", range(3))
def test_gradient_is_the_numerical_one(hook, seed):
    logits, labels, teacher, d = an_ordinary_batch(4, 3, seed)
    teacher[0] = torch.tensor([0.0, 1.0, 0.0])
    batch = (labels, teacher, d, LossWeights(0.9, 0.6))
    x = logits.clone().requires_grad_()
    LOSSES[hook](x, *batch).sum().backward()
    numerical, width = torch.zeros(4, 3, dtype=torch.float64), 1e-5
    for i in range(4):
        for j in range(3):
            step = torch.zeros(4, 3, dtype=torch.float64)
            step[i, j] = width
            above = reference(hook, logits.double() + step, *batch).sum()
            below = reference(hook, logits.double() - step, *batch).sum()
            numerical[i, j] = (above - below) / (2 * width)
    assert x.grad.numpy() == pytest.approx(numerical.numpy(), rel=1e-4, abs=1e-5)


def test_focal_weights_are_constants_for_the_gradient():
    logits, labels, _, _ = an_ordinary_batch()
    x = logits.clone().requires_grad_()
    weights = LossWeights(batch_mean=torch.tensor(0.4))
    LOSSES["focal"](x, labels, None, None, weights).sum().backward()
    q, y = logits.double().softmax(dim=1), torch.eye(3, dtype=torch.float64)[labels]
    scale = (1 - (q * y).sum(dim=1, keepdim=True)) ** 2 / 0.4
    assert x.grad.numpy() == pytest.approx((scale * (q - y)).numpy(), abs=1e-6)


def test_gradient_of_rmc_in_closed_form():
    # d L / d x = (1 - lambda) (q - y) + lambda (q - s)
    logits, labels, teacher, d = an_ordinary_batch()
    x = logits.clone().requires_grad_()
    LOSSES["rmc"](x, labels, teacher, d, LossWeights(0.9)).sum().backward()
    q = logits.double().softmax(dim=1)
    s = torch.tensor(smooth64(teacher.double().numpy(), d.double().numpy()))
    y = torch.eye(3, dtype=torch.float64)[labels]
    assert x.grad.numpy() == pytest.approx((0.1 * (q - y) + 0.9 * (q - s)).numpy(), abs=1e-6)


def test_parts():
    logits, labels, teacher, _ = an_ordinary_batch()
    terms = parts(logits, labels, teacher)
    zeros = LossWeights(0.0), LossWeights(1.0)
    args = (logits, labels, teacher, torch.ones(len(labels)))
    assert terms["cross_entropy"].numpy() == pytest.approx(
        reference("vanilla", *args, zeros[0]), rel=1e-5
    )
    assert terms["kl_teacher"].numpy() == pytest.approx(reference("distil", *args, zeros[1]), rel=1e-4)
    assert set(parts(logits, labels, None)) == {"cross_entropy"}
