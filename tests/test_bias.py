"""F_bias of one run and its intervals against a bootstrap that draws sample by sample."""

import re
import time

import numpy as np
import pytest

from compress.scoring import bias, bootstrap, metrics

SIZES = {"ood_a": 300, "ood_b": 900}
"""Of the whole sets, of which 300 and 200 samples are scored."""
SCORED = {"dev": 400, "ood_a": 300, "ood_b": 200}


def outcomes(rates, seed):
    """Samples on which both models mostly agree: right where a common draw is below the rate."""
    generator = np.random.default_rng(seed)
    return [
        {
            name: np.random.default_rng([seed, n]).random(size) + generator.normal(0, 0.08, size) < rate
            for n, ((name, size), rate) in enumerate(zip(SCORED.items(), model, strict=True))
        }
        for model in rates
    ]


def pair(hits):
    """(acc_dev, pooled acc_ood)."""
    ood = sum(hits[name].mean() * size for name, size in SIZES.items()) / sum(SIZES.values())
    return float(hits["dev"].mean()), float(ood)


def plain(teacher, student, replicates, seed):
    """Deltas of both [R, 2]: indices drawn with replacement, the same for both models."""
    generator, out = np.random.default_rng(seed), []
    for _ in range(replicates):
        drawn = {name: generator.integers(size, size=size) for name, size in SCORED.items()}
        again = [{name: hits[name][drawn[name]] for name in SCORED} for hits in (teacher, student)]
        out.append([metrics.delta(*pair(hits)) for hits in again])
    return np.array(out)


@pytest.fixture(scope="module")
def run():
    return outcomes([(0.9, 0.75, 0.7), (0.88, 0.68, 0.62)], 3)


def test_intervals_are_those_of_a_plain_bootstrap(run):
    teacher, student = run
    found = bias.figures(pair(teacher), pair(student), bias.draw(teacher, student, SIZES))
    expected = plain(teacher, student, 4000, 1)
    columns = {
        "teacher": (found["teacher"]["delta_interval"], expected[:, 0]),
        "student": (found["student"]["delta_interval"], expected[:, 1]),
        "difference": (found["delta_difference"]["interval"], expected[:, 1] - expected[:, 0]),
        "ratio": (found["f_bias_interval"], expected[:, 1] / expected[:, 0]),
    }
    for name, (interval, values) in columns.items():
        wide = np.quantile(values, 0.975) - np.quantile(values, 0.025)
        assert interval == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.06 * wide), name
    assert found["f_bias"] == pytest.approx(metrics.relative_bias(pair(student), pair(teacher)))
    assert found["f_bias_reason"] is None
    ours, theirs = (metrics.delta(*pair(hits)) for hits in (student, teacher))
    assert found["delta_difference"]["value"] == pytest.approx(ours - theirs)


def test_the_difference_is_paired(run):
    """Unpaired, the two models' samples would vary by themselves."""
    teacher, student = run
    drawn = bias.draw(teacher, student, SIZES)
    together = np.std(drawn.student - drawn.teacher)
    assert together < 0.8 * np.sqrt(np.var(drawn.student) + np.var(drawn.teacher))
    same = bias.draw(teacher, teacher, SIZES)
    assert np.array_equal(same.teacher, same.student)


def test_the_same_run_gives_the_same_figures(run):
    first, second = (bias.draw(*run, SIZES) for _ in range(2))
    assert np.array_equal(first.student, second.student)


@pytest.mark.parametrize(
    ("dev", "ood", "told"),
    [
        (0.9, 0.9, "teacher .*OOD.*Delta 0.000, 95 %"),
        (0.9, 0.95, "teacher .*OOD.*Delta −0.056, 95 %"),
        (0.9, 0.8975, "chance .*Delta 0.003, 95 % .* −0."),
        (0.0, 0.5, "teacher .* nothing .* dev"),
        (0.9, 0.7, None),
    ],
)
def test_no_ratio_to_a_delta_that_may_be_nothing(dev, ood, told):
    """A ratio to 0.003 was 109.8 once, for a student that is no worse than its teacher."""
    teacher, student = (
        {"dev": np.arange(400) < 400 * a, "ood_a": np.arange(400) < 400 * b}
        for a, b in ((dev, ood), (0.9, 0.6))
    )
    drawn = bias.draw(teacher, student, {"ood_a": 400})
    found = bias.figures((dev, ood), (0.9, 0.6), drawn)
    assert (found["f_bias"] is None) == (found["f_bias_interval"] is None) == (told is not None)
    if told is None:
        low, _ = found["teacher"]["delta_interval"]
        assert low > 0 and found["f_bias"] == pytest.approx((0.3 / 0.9) / (0.2 / 0.9))
        return
    assert re.search(told, found["f_bias_reason"])
    if dev:
        assert found["delta_difference"]["value"] == pytest.approx(1 / 3 - (dev - ood) / dev)
        low, high = found["delta_difference"]["interval"]
        assert low < found["delta_difference"]["value"] < high
    else:
        assert found["delta_difference"] is None and found["teacher"]["delta_interval"] is None


def test_the_rule_is_the_interval_not_the_value():
    """The same Delta of 0.05 counts with many samples and not with few."""
    for size, there in ((20, False), (4000, True)):
        teacher = {"dev": np.arange(size) < 0.9 * size, "ood_a": np.arange(size) < 0.85 * size}
        accuracies = tuple(float(hits.mean()) for hits in teacher.values())
        drawn = bias.draw(teacher, teacher, {"ood_a": size})
        found = bias.figures(accuracies, accuracies, drawn)
        assert (found["f_bias"] is not None) == there
        low, high = np.quantile(plain_delta(teacher, 2000), [0.025, 0.975])
        assert (low > 0) == there and low < accuracies[0] - accuracies[1] < high


def plain_delta(hits, replicates):
    generator = np.random.default_rng(0)
    means = [
        [h[generator.integers(len(h), size=len(h))].mean() for h in hits.values()]
        for _ in range(replicates)
    ]
    return [metrics.delta(*pair) for pair in means]


def test_many_samples_take_little_time():
    hits = {name: np.arange(40_000) % 3 > 0 for name in ("dev", "ood_a", "ood_b")}
    began = time.perf_counter()
    bias.draw(hits, hits, SIZES)
    assert time.perf_counter() - began < 2


def test_paired_accuracies_have_the_right_covariance():
    """Of n samples the two are right together on a share c: covariance (c - p q) / n."""
    first, second = np.arange(1000) < 700, np.arange(1000) % 2 == 0
    ours, theirs = bootstrap.paired(first, second, np.random.default_rng(0), 20_000)
    both = (first & second).mean()
    expected = (both - first.mean() * second.mean()) / 1000
    assert np.cov(ours, theirs)[0, 1] == pytest.approx(expected, abs=1e-5)
    assert (ours.mean(), theirs.mean()) == pytest.approx((0.7, 0.5), abs=1e-3)
