"""The bootstrap of a study against closed forms: standard errors, intervals, paired differences."""

import numpy as np
import pytest
from studies import DEV

from compress.scoring import bootstrap

pytestmark = pytest.mark.slow


def test_bootstrap_of_a_proportion_is_the_closed_form():
    """With one seed the standard error is sqrt(p (1 - p) / n), and the interval is normal."""
    n, p = 500, 0.8
    hits = np.arange(n) < n * p
    draws = bootstrap.draw({DEV: n}, 1, replicates=4000)
    values = bootstrap.accuracy(draws, DEV, {0: hits})
    error = np.sqrt(p * (1 - p) / n)
    assert values.std() == pytest.approx(error, rel=0.05)
    assert values.mean() == pytest.approx(p, abs=3 * error / np.sqrt(4000))
    low, high = bootstrap.interval(values)
    assert (low, high) == pytest.approx((p - 1.96 * error, p + 1.96 * error), abs=error * 0.2)


def test_bootstrap_over_seeds_is_the_closed_form():
    """Samples that all agree leave the seeds: Student's standard error, t / 1.96 * s / sqrt(S)."""
    accuracies = [0.0, 1.0, 1.0, 0.0]
    draws = bootstrap.draw({DEV: 50}, 4, replicates=8000)
    hits = {seed: np.full(50, value, dtype=bool) for seed, value in enumerate(accuracies)}
    values = bootstrap.accuracy(draws, DEV, hits)
    student = 3.182 / 1.96 * np.std(accuracies, ddof=1) / np.sqrt(4)
    assert values.std() == pytest.approx(student, rel=0.03)


@pytest.mark.parametrize(("seeds", "quantile"), [(5, 2.776), (12, 2.201), (41, 2.021)])
def test_the_stretch_is_students(seeds, quantile):
    expected = np.sqrt(seeds / (seeds - 1)) * quantile / 1.96
    assert bootstrap.stretch(seeds) == pytest.approx(expected, rel=2e-3)
    assert bootstrap.stretch(1) == 1


@pytest.mark.parametrize(
    ("seeds", "quantile", "tolerance"), [(2, 12.706, 1e-4), (3, 4.303, 0.05), (5, 2.776, 0.05)]
)
def test_intervals_over_seeds_are_as_wide_as_students(seeds, quantile, tolerance):
    """With every sample drawn once, only the seeds vary: half an interval is t s / sqrt(S)."""
    generator, ratios = np.random.default_rng(0), []
    draws = bootstrap.draw({DEV: 1000}, seeds, replicates=2000)
    steady = {DEV: np.full((2000, 1000), 1 / 1000, dtype=np.float32)}
    for rates in generator.normal(0.5, 0.1, size=(60, seeds)):
        hits = {s: np.arange(1000) < 1000 * rate for s, rate in enumerate(rates)}
        low, high = bootstrap.interval(
            bootstrap.accuracy(bootstrap.Draws(draws.seeds, steady), DEV, hits)
        )
        error = np.std([h.mean() for h in hits.values()], ddof=1) / np.sqrt(seeds)
        ratios.append((high - low) / 2 / (quantile * error))
    assert np.mean(ratios) == pytest.approx(1, abs=tolerance)
    if seeds == 2:
        assert ratios == pytest.approx(np.ones(60), rel=1e-4)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seeds_that_differ_by_chance_are_rarely_told_apart(seeds):
    """Two models whose accuracy varies alike with the seed: about 5 % of intervals miss zero."""
    generator, missed, tries = np.random.default_rng(seeds), 0, 300
    draws = bootstrap.draw({DEV: 400}, seeds, replicates=300)
    for _ in range(tries):
        models = []
        for rates in generator.normal(0.7, 0.04, size=(2, seeds)):
            hits = {s: generator.random(400) < rate for s, rate in enumerate(rates)}
            models.append(bootstrap.accuracy(draws, DEV, hits))
        low, high = bootstrap.interval(models[0] - models[1])
        missed += low > 0 or high < 0
    assert missed / tries < 0.08


def test_bootstrap_of_a_paired_difference_is_the_closed_form():
    """Of n samples a are right with the first model only, b with the second only (McNemar)."""
    n, a, b = 400, 60, 20
    first, second = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    second[:a], first[a : a + b] = False, False
    draws = bootstrap.draw({DEV: n}, 1, replicates=4000)
    values = bootstrap.accuracy(draws, DEV, {0: first}) - bootstrap.accuracy(draws, DEV, {0: second})
    error = np.sqrt((a + b) / n - ((a - b) / n) ** 2) / np.sqrt(n)
    assert values.mean() == pytest.approx((a - b) / n, abs=3 * error / np.sqrt(4000))
    assert values.std() == pytest.approx(error, rel=0.05)


def test_paired_difference_of_equal_models_is_zero():
    hits = {0: np.random.default_rng(0).random(200) < 0.6}
    draws = bootstrap.draw({DEV: 200}, 1, replicates=50)
    values = bootstrap.accuracy(draws, DEV, hits) - bootstrap.accuracy(draws, DEV, dict(hits))
    assert not values.any()


def test_a_model_with_some_of_the_seeds_draws_from_those():
    draws = bootstrap.draw({DEV: 300}, 3, replicates=2000)
    assert np.array_equal(draws.over([0, 1, 2]), draws.seeds)
    for positions in ([2], [0, 2]):
        weights = draws.over(positions)
        assert weights.sum(axis=1) == pytest.approx(np.ones(2000))
        assert weights.mean(axis=0) == pytest.approx(1 / len(positions), abs=0.03)
    assert not np.array_equal(draws.over([0, 2]), draws.over([1, 2]))
    hits = np.arange(300) < 240
    values = bootstrap.accuracy(draws, DEV, {1: hits})
    assert values.std() == pytest.approx(np.sqrt(0.8 * 0.2 / 300), rel=0.05)  # of the samples alone


def test_an_interval_with_too_many_unknown_replicates_is_unknown():
    assert bootstrap.interval(np.array([*[1.0] * 99, np.nan])) == (1.0, 1.0)
    assert np.isnan(bootstrap.interval(np.full(10, np.nan))).all()
    assert np.isnan(bootstrap.interval(np.array([*[1.0] * 9, np.nan]))).all()
