"""The bootstrap of a study against closed forms: standard errors, intervals, paired differences."""

import numpy as np
import pytest
from studies import DEV

from compress.study import bootstrap


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
    """Samples that all agree leave the seeds: the variance of the mean of S draws from them."""
    accuracies = [0.0, 1.0, 1.0, 0.0]
    draws = bootstrap.draw({DEV: 50}, 4, replicates=8000)
    hits = {seed: np.full(50, value, dtype=bool) for seed, value in enumerate(accuracies)}
    values = bootstrap.accuracy(draws, DEV, hits)
    assert values.var() == pytest.approx(np.var(accuracies) / 4, rel=0.06)


def test_paired_difference_of_equal_models_is_zero():
    hits = {0: np.random.default_rng(0).random(200) < 0.6}
    draws = bootstrap.draw({DEV: 200}, 1, replicates=50)
    values = bootstrap.accuracy(draws, DEV, hits) - bootstrap.accuracy(draws, DEV, dict(hits))
    assert not values.any()


def test_a_replicate_without_the_models_seed_is_unknown():
    draws = bootstrap.draw({DEV: 10}, 2, replicates=2000)
    values = bootstrap.accuracy(draws, DEV, {1: np.ones(10, dtype=bool)})
    assert np.isnan(values).mean() == pytest.approx(0.25, abs=0.04)  # seed 0 drawn twice
    assert np.isnan(bootstrap.interval(values)).all()
    assert bootstrap.interval(np.array([*[1.0] * 99, np.nan])) == (1.0, 1.0)
    assert np.isnan(bootstrap.interval(np.full(10, np.nan))).all()


def test_draws_repeat():
    first, second = (bootstrap.draw({("a", ""): 30, ("b", "x"): 20}, 3, replicates=5) for _ in range(2))
    assert np.array_equal(first.samples["b", "x"], second.samples["b", "x"])
    assert np.allclose(first.samples["a", ""].sum(axis=1), 1) and np.allclose(
        first.seeds.sum(axis=1), 1
    )
