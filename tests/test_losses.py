"""Every mitigation: against a plain float64 transcription, at ordinary and at extreme inputs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from equations import (
    DTYPES,
    REFERENCES,
    an_ordinary_batch,
    batches,
    mitigation,
    reference,
    smooth64,
)
from hypothesis import given
from hypothesis import strategies as st

from compress.microbatch import Batch
from compress.mitigations import MITIGATIONS

HOOKS = sorted(MITIGATIONS)
every = pytest.mark.parametrize("hook", HOOKS)
with_reference = pytest.mark.parametrize("hook", sorted(REFERENCES))
VANILLA = mitigation("vanilla")
GIVEN = ("logits", "labels", "teacher", "difficulty", "bias")


def test_every_reference_has_a_mitigation():
    assert set(REFERENCES) <= set(MITIGATIONS)


@every
@given(batches(largest=1e4))
def test_extreme_logits_give_finite_losses_and_gradients(hook, drawn):
    loss, batch = mitigation(hook, **drawn[0]), drawn[1]
    logits = batch.logits.clone().requires_grad_()
    found = loss.loss(replace(batch, logits=logits))
    assert found.shape == batch.labels.shape and found.dtype == torch.float32
    assert bool(found.isfinite().all())
    found.sum().backward()
    assert bool(logits.grad.isfinite().all()) and logits.grad.dtype == logits.dtype


@with_reference
@given(batches(), batches(largest=1e4))
def test_agrees_with_the_equations(hook, ordinary, extreme):
    for (scalars, batch), error in ((ordinary, 2e-5), (extreme, 2e-2)):
        loss = mitigation(hook, **scalars)
        assert loss.loss(batch).numpy() == pytest.approx(reference(loss, batch), rel=2e-5, abs=error)


@pytest.mark.parametrize("dtype", DTYPES)
@with_reference
def test_impossible_and_certain_teacher(hook, dtype):
    teacher = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 1.0, 0.0]])
    logits = torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, 1.0], [0.0, 0.0, 0.0]], dtype=dtype)
    d = torch.tensor([0.0, 1.0, 0.3])
    labels = torch.tensor([0, 1, 2])
    batch = Batch(logits.requires_grad_(), labels, teacher, d, teacher.flip(1), mean_difficulty=0.5)
    found = mitigation(hook).loss(batch)
    assert found.detach().numpy() == pytest.approx(reference(mitigation(hook), batch), rel=1e-5)
    found.sum().backward()
    assert bool(logits.grad.isfinite().all())


@every
def test_float16_probabilities_and_float64_difficulty(hook):
    batch = an_ordinary_batch()
    other = replace(batch, teacher=batch.teacher.half(), difficulty=batch.difficulty.double())
    found = mitigation(hook).loss(other)
    assert found.dtype in (torch.float32, torch.float64)
    assert found.numpy() == pytest.approx(mitigation(hook).loss(batch).numpy(), rel=1e-2)


def test_rmc_by_hand():
    # p = (0.64, 0.36), d = 1/2 -> (0.8, 0.6) / 1.4; q = (1/2, 1/2)
    s = np.array([0.8, 0.6]) / 1.4
    expected = 0.1 * np.log(2) + 0.9 * (np.sum(s * np.log(s)) + np.log(2))
    teacher, d = torch.tensor([[0.64, 0.36]]), torch.tensor([0.5])
    found = mitigation("rmc").loss(Batch(torch.zeros(1, 2), torch.tensor([0]), teacher, d))
    assert float(found) == pytest.approx(expected, rel=1e-5), "0.9 is the paper's lambda"


@given(batches())
def test_the_smoothed_teacher_is_a_distribution_that_kl_is_smallest_at(drawn):
    batch = drawn[1]
    target = batch.soft_target(batch.difficulty)
    expected = smooth64(batch.teacher.double().numpy(), batch.difficulty.double().numpy())
    assert target.exp().sum(dim=1).numpy() == pytest.approx(1.0, abs=1e-5)
    assert target.exp().numpy() == pytest.approx(expected, abs=1e-5)
    assert bool((batch.divergence(batch.difficulty) >= -1e-5).all())
    there = replace(batch, logits=target.clamp_min(-200.0))
    assert there.divergence(batch.difficulty).numpy() == pytest.approx(0.0, abs=1e-5)


def smoothed(teacher, d):
    return Batch(torch.zeros_like(teacher), torch.zeros(len(teacher)).long(), teacher).soft_target(d)


def test_smoothing_at_its_limits_and_between():
    teacher = torch.tensor([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [0.0, 0.4, 0.6]])
    assert smoothed(teacher, torch.ones(3)).exp().numpy() == pytest.approx(teacher.numpy(), abs=1e-6)
    assert smoothed(teacher, torch.zeros(3)).exp().numpy() == pytest.approx(1 / 3)
    half = smoothed(teacher, torch.full((3,), 0.5))
    assert bool((half[teacher == 0] == -torch.inf).all())
    top = smoothed(teacher[:1].expand(11, 3), torch.linspace(0, 1, 11)).exp()[:, 0]
    assert bool((top.diff() > 0).all()), "less difficulty is a flatter target"


@given(batches())
def test_limits_of_the_distillation(drawn):
    scalars, batch = drawn
    distil = mitigation("distil", **scalars).loss(replace(batch, difficulty=None))
    full = replace(batch, difficulty=torch.ones_like(batch.difficulty))
    assert torch.equal(mitigation("rmc", **scalars).loss(full), distil)
    assert torch.equal(mitigation("smooth", **scalars | {"smoothing": 1.0}).loss(batch), distil)
    plain = torch.nn.functional.cross_entropy(batch.logits.float(), batch.labels, reduction="none")
    assert torch.equal(VANILLA.loss(batch), plain)
    for hook in ("distil", "rmc"):
        found = mitigation(hook, **{"lambda": 0.0}).loss(batch)
        assert found.numpy() == pytest.approx(plain.numpy(), rel=1e-6)


def test_full_distillation_ignores_the_gold_label():
    batch, rmc = an_ordinary_batch(), mitigation("rmc", **{"lambda": 1.0})
    other = replace(batch, labels=(batch.labels + 1) % 3)
    assert torch.equal(rmc.loss(other), rmc.loss(batch))


def test_sample_weights_set_in_over_the_warmup():
    batch = replace(an_ordinary_batch(2), difficulty=torch.tensor([0.2, 1.0]), mean_difficulty=0.5)
    assert batch.sample_weight().tolist() == pytest.approx([0.4, 2.0])
    at = {p: replace(batch, progress=p).sample_weight(0.2).tolist() for p in (0, 0.1, 0.2, 0.9)}
    assert at[0] == [1.0, 1.0] and at[0.1] == pytest.approx([0.7, 1.5])
    assert at[0.2] == at[0.9] == pytest.approx([0.4, 2.0])


@given(batches())
def test_focal_without_gamma_is_cross_entropy(drawn):
    batch = replace(drawn[1], batch_mean=None)
    assert torch.equal(mitigation("focal", gamma=0.0).loss(batch), VANILLA.loss(batch))


def test_focal_weights_have_mean_one_and_fall_with_confidence():
    batch, focal = an_ordinary_batch(32), mitigation("focal")
    right = batch.logits.softmax(dim=1)[torch.arange(32), batch.labels]
    assert focal.batch_weight(batch).numpy() == pytest.approx(((1 - right) ** 2).numpy(), rel=1e-5)
    scales = focal.loss(batch) / VANILLA.loss(batch)
    assert float(scales.mean()) == pytest.approx(1.0, rel=1e-5)


def test_focal_of_a_batch_without_mistakes_is_finite():
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4]], requires_grad=True)
    loss = mitigation("focal").loss(Batch(logits, torch.tensor([0, 1])))
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0] and bool(logits.grad.isfinite().all())


@given(batches(), st.sampled_from([0.3, 1.0]))
def test_rmc_plus_with_equal_difficulty_is_a_scaled_distillation(drawn, level):
    scalars, batch = drawn
    equal = torch.full_like(batch.difficulty, level)
    batch = replace(batch, alpha=level, ceiling=1.0, difficulty=equal)
    found = mitigation("rmc_plus", **scalars | {"warmup": 0.0}).loss(batch)
    plain = mitigation("smooth", **scalars | {"smoothing": level}).loss(batch)
    assert found.numpy() == pytest.approx((plain * level / batch.mean_difficulty).numpy(), rel=1e-5)


def test_rmc_plus_gives_the_hardest_its_gold_label():
    batch = replace(an_ordinary_batch(alpha=0.2), difficulty=torch.ones(6))
    assert torch.equal(mitigation("rmc_plus").loss(batch), VANILLA.loss(batch))
    kept = mitigation("rmc_plus", floor=0.5).loss(batch)
    half = mitigation("distil", **{"lambda": 0.45}).loss(batch)
    assert kept.numpy() == pytest.approx(half.numpy(), rel=1e-5)


def test_jtt_is_weighted_with_mistakes_as_difficulty():
    batch = an_ordinary_batch(mean_difficulty=0.6)
    assert torch.equal(mitigation("jtt").loss(batch), mitigation("weighted").loss(batch))


def test_rmc_weighted_has_mean_weight_one():
    d = torch.linspace(0.3, 1.0, 50)
    # a teacher without opinion stays so at any d, so rmc is the same for all samples
    logits, labels = torch.tensor([[1.0, -1.0]]).expand(50, 2), torch.zeros(50, dtype=torch.int64)
    batch = Batch(logits, labels, torch.full((50, 2), 0.5), d, mean_difficulty=float(d.mean()))
    plain, weighted = mitigation("rmc").loss(batch), mitigation("rmc_weighted").loss(batch)
    assert float(plain.std()) == pytest.approx(0.0, abs=1e-6)
    assert float(weighted.mean()) == pytest.approx(float(plain.mean()), rel=1e-5)
    assert float(weighted[-1] / weighted[0]) == pytest.approx(1.0 / 0.3, rel=1e-5)


@every
def test_samples_do_not_see_each_other(hook):
    loss = mitigation(hook)
    batch = an_ordinary_batch(mean_difficulty=0.4, batch_mean=torch.tensor(0.3))
    whole = loss.loss(batch)
    for i in range(len(whole)):
        rows = {k: getattr(batch, k)[i : i + 1] for k in GIVEN}
        assert float(loss.loss(replace(batch, **rows))) == pytest.approx(float(whole[i]), rel=1e-6)


@every
def test_inputs_are_left_alone_and_answers_repeat(hook):
    batch, loss, state = an_ordinary_batch(), mitigation(hook), torch.get_rng_state()
    before = [getattr(batch, name).clone() for name in GIVEN]
    assert torch.equal(loss.loss(batch), loss.loss(batch))
    after = [getattr(batch, name) for name in GIVEN]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("hook", [hook for hook in REFERENCES if hook != "focal"])
@pytest.mark.parametrize("seed", range(3))
def test_gradient_is_the_numerical_one(hook, seed):
    batch, loss = an_ordinary_batch(4, 3, seed, mean_difficulty=0.6), mitigation(hook)
    batch.teacher[0] = torch.tensor([0.0, 1.0, 0.0])
    x = batch.logits.clone().requires_grad_()
    loss.loss(replace(batch, logits=x)).sum().backward()
    numerical, width = torch.zeros(4, 3, dtype=torch.float64), 1e-5
    for i in range(4):
        for j in range(3):
            step = torch.zeros(4, 3, dtype=torch.float64)
            step[i, j] = width
            ends = [replace(batch, logits=batch.logits.double() + s) for s in (step, -step)]
            above, below = (reference(loss, end).sum() for end in ends)
            numerical[i, j] = (above - below) / (2 * width)
    assert x.grad.numpy() == pytest.approx(numerical.numpy(), rel=1e-4, abs=1e-5)


def test_gradients_in_closed_form():
    """rmc: (1 - lambda) (q - y) + lambda (q - s); the weights of focal are constants."""
    batch = an_ordinary_batch(batch_mean=torch.tensor(0.4))
    q, y = batch.logits.double().softmax(dim=1), torch.eye(3, dtype=torch.float64)[batch.labels]
    s = torch.tensor(smooth64(batch.teacher.double().numpy(), batch.difficulty.double().numpy()))
    scale = (1 - (q * y).sum(dim=1, keepdim=True)) ** 2 / 0.4
    for hook, expected in (("rmc", 0.1 * (q - y) + 0.9 * (q - s)), ("focal", scale * (q - y))):
        x = batch.logits.clone().requires_grad_()
        mitigation(hook).loss(replace(batch, logits=x)).sum().backward()
        assert x.grad.numpy() == pytest.approx(expected.numpy(), abs=1e-6)


def test_parts():
    batch = an_ordinary_batch()
    terms = batch.parts()
    for name, loss in (
        ("cross_entropy", VANILLA),
        ("kl_teacher", mitigation("distil", **{"lambda": 1.0})),
    ):
        assert terms[name].numpy() == pytest.approx(reference(loss, batch), rel=1e-4)
    assert set(replace(batch, teacher=None).parts()) == {"cross_entropy"}


@every
def test_what_it_needs_is_what_it_cannot_do_without(hook):
    loss, batch = mitigation(hook), an_ordinary_batch()
    for need, field in (
        ("teacher", "teacher"),
        ("difficulty", "difficulty"),
        ("mistakes", "difficulty"),
        ("bias", "bias"),
    ):
        if need in loss.needs:
            with pytest.raises(ValueError, match=field):
                loss.loss(replace(batch, **{field: None}))


def test_product_with_a_bias_model_that_knows_nothing_is_the_cross_entropy():
    batch = an_ordinary_batch(bias=torch.full((6, 3), 1 / 3))
    found = mitigation("poe", plain_weight=0.4).loss(batch)
    assert found.numpy() == pytest.approx(1.4 * batch.cross_entropy().numpy(), rel=1e-6)


def test_product_without_the_bias_model_before_its_warm_up_is_the_cross_entropy():
    batch = an_ordinary_batch(progress=0.0)
    found = mitigation("poe", plain_weight=0.4, warmup=0.5).loss(batch)
    assert found.numpy() == pytest.approx(1.4 * batch.cross_entropy().numpy(), rel=1e-6)
    late = replace(batch, progress=0.5)
    assert found.numpy() != pytest.approx(mitigation("poe").loss(late).numpy(), rel=1e-2)
    for one, other in ((0.5, 0.0), (0.25, 0.25)):
        found = [mitigation("poe", warmup=w).loss(late).numpy() for w in (one, other)]
        np.testing.assert_array_equal(*found)


def test_product_gives_little_gradient_where_the_bias_model_is_right():
    bias = torch.tensor([[0.98, 0.01, 0.01], [0.01, 0.98, 0.01]])
    x = torch.zeros(2, 3, requires_grad=True)
    batch = Batch(x, torch.tensor([0, 0]), bias=bias)
    mitigation("poe", plain_weight=0.0).loss(batch).sum().backward()
    right, wrong = x.grad.norm(dim=1)
    assert float(wrong) > 20 * float(right)


def test_confidence_without_bias_has_the_gradient_of_full_distillation():
    batch = an_ordinary_batch()
    others = torch.nn.functional.one_hot((batch.labels + 1) % 3, 3).float()
    gradients = []
    for loss in (mitigation("confidence"), mitigation("distil", **{"lambda": 1.0})):
        x = batch.logits.clone().requires_grad_()
        loss.loss(replace(batch, logits=x, bias=others)).sum().backward()
        gradients.append(x.grad.numpy())
    assert gradients[0] == pytest.approx(gradients[1], abs=1e-7)


@pytest.mark.parametrize("hook", ["poe", "confidence"])
def test_no_gradient_reaches_the_bias_model(hook):
    batch = an_ordinary_batch()
    x, bias = batch.logits.clone().requires_grad_(), batch.bias.clone().requires_grad_()
    mitigation(hook).loss(replace(batch, logits=x, bias=bias)).sum().backward()
    assert bias.grad is None and bool(x.grad.any())
