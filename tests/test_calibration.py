"""The exponent of a bias model's calibration against a grid, and what a batch makes of it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from configs import BASE, OURS

from compress.configuration.config import build
from compress.data import draw
from compress.errors import UserError
from compress.microbatch import SampleData
from compress.mitigations.confidence import Confidence
from compress.mitigations.poe import ProductOfExperts
from compress.stages import bias, calibration

COUNT, CLASSES = 4000, 3


def drawn(sharpness):
    """Probabilities [N, C], raised to a power, and labels that were drawn from them before."""
    draw = np.random.default_rng(0)
    true = draw.dirichlet(np.ones(CLASSES), COUNT)
    labels = np.array([draw.choice(CLASSES, p=row) for row in true])
    said = true**sharpness
    return (said / said.sum(axis=1, keepdims=True)).astype(np.float32), labels


def cross_entropy(power, said, labels):
    logs = torch.as_tensor(said, dtype=torch.float64).clamp_min(1e-38).log() * power
    return float(F.cross_entropy(logs, torch.as_tensor(labels)))


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_it_is_where_the_labels_fit_best(sharpness):
    said, labels = drawn(sharpness)
    found = calibration.exponent(said, labels)
    best = min(np.arange(0.1, 4, 0.005), key=lambda power: cross_entropy(power, said, labels))
    assert found == pytest.approx(best, abs=0.005)
    assert found == pytest.approx(1 / sharpness, rel=0.1), "that it was sharpened by"


def test_a_model_that_knows_nothing_is_left_out():
    labels = drawn(1.0)[1]
    wrong = (labels + 1) % CLASSES
    assert calibration.exponent(np.eye(CLASSES, dtype=np.float32)[wrong], labels) == 0


def test_one_that_is_always_right_is_made_surer():
    labels = drawn(1.0)[1]
    sure = np.full((COUNT, CLASSES), 0.1, np.float32) + 0.7 * np.eye(CLASSES, dtype=np.float32)[labels]
    assert 10 < calibration.exponent(sure, labels) <= calibration.HIGHEST


def test_many_samples_are_looked_at_in_part(monkeypatch):
    monkeypatch.setattr(calibration, "MOST", 1000)
    said, labels = drawn(2.0)
    part = draw.evenly(len(labels), 1000)
    assert calibration.exponent(said, labels) == calibration.exponent(said[part], labels[part])
    right = said[part].argmax(axis=1) == labels[part]
    assert calibration.accuracy(said, labels) == pytest.approx(right.mean())


@pytest.mark.parametrize("exponent", [0.0, 0.36, 1.0, 2.0])
def test_a_batch_has_the_calibrated_probabilities(exponent):
    said, labels = drawn(1.0)
    places, logits = np.array([5, 2, 8]), torch.randn(3, CLASSES)
    known = SampleData(teacher=said, bias=said, bias_exponent=exponent)
    batch = known.batch(places, logits, torch.as_tensor(labels[places]))
    expected = said[places].astype(np.float64) ** exponent
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(batch.known_bias().numpy(), expected, rtol=1e-5)
    product = logits.double().softmax(dim=1) * torch.as_tensor(expected)
    product /= product.sum(dim=1, keepdim=True)
    plain = F.cross_entropy(logits, batch.labels, reduction="none")
    wanted = -product[range(3), batch.labels].log() + 0.3 * plain
    found = ProductOfExperts(hook="poe").loss(batch)
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-5, atol=1e-6)
    smoothed = batch.teacher.double() ** (1 - expected[range(3), batch.labels])[:, None]
    smoothed /= smoothed.sum(dim=1, keepdim=True)
    divergence = (smoothed * (smoothed.log() - logits.double().log_softmax(dim=1))).sum(dim=1)
    found = Confidence(hook="confidence").loss(batch)
    torch.testing.assert_close(found.double(), divergence, rtol=1e-4, atol=1e-5)


def test_it_is_found_unless_it_is_turned_off(capsys):
    said, labels = drawn(3.0)
    known = SampleData(bias=said)
    plain = bias.known_with(
        known, ProductOfExperts(hook="poe", bias="partial", calibrate=False), labels
    )
    right = (said.argmax(axis=1) == labels).mean()
    line = f"bias model 'partial': right for {right:.1%} of the training samples, each out of fold"
    assert plain == known and capsys.readouterr().out == line + "\n"
    found = bias.known_with(known, ProductOfExperts(hook="poe"), labels)
    assert found.bias_exponent == calibration.exponent(said, labels) != 1
    assert capsys.readouterr().out.endswith(f"; calibrated by the exponent {found.bias_exponent:.2f}\n")
    assert bias.known_with(SampleData(), ProductOfExperts(hook="poe"), labels) == SampleData()
    wrong = bias.known_with(known, ProductOfExperts(hook="poe"), said.argmin(axis=1))
    assert wrong.bias_exponent == 0
    assert "exponent 0.00: it knows nothing of the labels" in capsys.readouterr().out


def test_it_is_in_the_name_of_the_loss():
    robust = BASE[OURS] | {"loss": {"hook": "poe", "bias": "partial", "calibrate": False}}
    assert build(BASE | {OURS: robust}, {}).mitigation_label == "poe+partial+uncalibrated"


def test_a_function_without_a_bias_model_has_none_to_calibrate():
    robust = BASE[OURS] | {"loss": {"hook": "stage_runs:own_loss", "calibrate": True}}
    with pytest.raises(UserError, match=r"loss.calibrate: has no effect: the function"):
        build(BASE | {OURS: robust}, {}).robust.loss.load()
