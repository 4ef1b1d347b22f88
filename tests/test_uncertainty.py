"""Difficulty by hand: Eq. 1 with its numbers written out, and what holds for any variance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.uncertainty import (
    agreement,
    ceiling,
    cut_agreement,
    difficulty,
    hard_half,
    mistakes,
    relative_gap,
    variance,
)

variances = st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=30).map(np.array)
alphas = st.floats(0, 1)


def test_eq_1_by_hand():
    # sub-networks:   20 % 40 % 60 % 70 % 85 %    mean  squared distances      variance
    losses = np.array(
        [
            [1.0, 1.0, 1.0, 1.0, 1.0],  #          1    0 0 0 0 0              0
            [0.0, 1.0, 2.0, 3.0, 4.0],  #          2    4 1 0 1 4              10 / 5 = 2
            [2.0, 2.0, 2.0, 2.0, 7.0],  #          3    1 1 1 1 16             20 / 5 = 4
            [0.0, 0.0, 0.0, 5.0, 5.0],  #          2    4 4 4 9 9              30 / 5 = 6
            [8.0, 8.0, 8.0, 3.0, 3.0],  #          6    4 4 4 9 9              30 / 5 = 6
        ]
    )
    v = variance(losses)
    assert v.tolist() == pytest.approx([0, 2, 4, 6, 6])
    # alpha + (1 - alpha) (v - 0) / (6 - 0), alpha = 0.4
    assert difficulty(v, 0.4).tolist() == pytest.approx([0.4, 0.6, 0.8, 1.0, 1.0])


def test_lowest_variance_need_not_be_zero():
    assert difficulty(np.array([2.0, 3.0, 6.0]), 0.2).tolist() == pytest.approx([0.2, 0.4, 1.0])


def test_variance_is_computed_in_float64():
    losses = np.array([[1000.0, 1000.5], [4.0, 4.0]], dtype=np.float32)
    v = variance(losses)
    assert v.dtype == np.float64
    assert v.tolist() == [0.0625, 0.0]


def test_quantile_clips_outliers():
    v = np.array([0.0, 1.0, 2.0, 3.0, 100.0])
    assert difficulty(v, 0.5)[3] == pytest.approx(0.5 + 0.5 * 0.03)
    # the 75 % quantile of five values is the fourth: 3
    clipped = difficulty(v, 0.5, "quantile", 0.75)
    assert clipped.tolist() == pytest.approx([0.5, 0.5 + 0.5 / 3, 0.5 + 1 / 3, 1.0, 1.0])
    assert v.tolist() == [0.0, 1.0, 2.0, 3.0, 100.0]


def test_quantile_one_is_minmax():
    v = np.random.default_rng(0).exponential(size=50)
    assert difficulty(v, 0.3, "quantile", 1.0).tolist() == difficulty(v, 0.3).tolist()


def test_minmax_ignores_the_quantile():
    v = np.array([0.0, 1.0, 10.0])
    assert difficulty(v, 0.0, "minmax", 0.5).tolist() == pytest.approx([0.0, 0.1, 1.0])


@pytest.mark.parametrize("normalisation", ["minmax", "quantile"])
def test_equal_variance_is_easy(normalisation):
    assert difficulty(np.full(4, 0.7), 0.3, normalisation).tolist() == [0.3] * 4
    assert difficulty(np.zeros(1), 0.3, normalisation).tolist() == [0.3]


@given(variances, alphas, st.sampled_from(["minmax", "quantile"]), st.floats(0.05, 1))
def test_difficulty_stays_in_its_range_and_order(v, alpha, normalisation, quantile):
    d = difficulty(v, alpha, normalisation, quantile)
    assert d.shape == v.shape and d.dtype == np.float64
    assert np.all(d >= alpha) and np.all(d <= 1 + 1e-12)
    order = np.argsort(v, kind="stable")
    assert np.all(np.diff(d[order]) >= 0)


@given(variances, alphas)
def test_both_ends_are_reached(v, alpha):
    d = difficulty(v, alpha)
    assert d[np.argmin(v)] == alpha
    if v.min() < v.max():
        assert d[np.argmax(v)] == pytest.approx(1.0)


def test_rounding_does_not_leave_the_range():
    assert difficulty(np.array([0.0, 769157.0]), 0.1791401791097276).max() <= 1


def test_alpha_one_leaves_every_teacher_as_it_is():
    assert difficulty(np.array([0.0, 5.0, 1.0]), 1.0).tolist() == [1.0, 1.0, 1.0]


def test_hard_half():
    assert hard_half(np.array([3.0, 1.0, 4.0, 2.0])).tolist() == [True, False, True, False]
    assert hard_half(np.array([3.0, 1.0, 2.0])).tolist() == [True, False, False]
    assert hard_half(np.zeros(3)).tolist() == [False] * 3


def test_agreement():
    truth = np.array(["conflicting", "aligned", "neutral", "conflicting"])
    # pairs (conflicting, other): 4 > 1, 4 > 2, 1 = 1, 1 < 2 -> (1 + 1 + 0.5 + 0) / 4
    assert agreement(np.array([4.0, 1.0, 2.0, 1.0]), truth) == pytest.approx(0.625)
    assert agreement(np.ones(4), None) is None
    assert agreement(np.ones(2), np.array(["aligned", "aligned"])) is None


def test_mistakes_of_a_first_model():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    d = mistakes(probabilities, np.array([0, 1, 1]), upweight=2.0)
    assert d.tolist() == [0.5, 1.0, 0.5]
    weights = d / d.mean()
    assert weights[1] == 2 * weights[0] and weights.mean() == pytest.approx(1)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=40).map(np.array), st.floats(1, 5))
def test_ceiling_is_the_highest_that_keeps_the_bound(d, bound):
    def heaviest(c):
        return c / np.minimum(d, c).mean()

    c = ceiling(d, bound)
    assert c in d and heaviest(c) <= bound + 1e-9
    assert all(heaviest(other) > bound for other in d[d > c])


def test_ceiling_far_away_changes_nothing():
    assert ceiling(np.array([0.2, 0.5, 1.0]), 10) == 1.0


def test_relative_gap():
    assert relative_gap(0.8, 0.6) == pytest.approx(0.25)
    assert relative_gap(0.0, 0.5) == 1.0


def test_cut_agreement_cuts_at_the_other_splits_size():
    v, hard = np.array([5.0, 1.0, 4.0, 2.0, 3.0]), np.array([True, False, False, True, False])
    # the two highest variances are samples 0 and 2: agreement on 0, 1 and 4
    assert cut_agreement(v, hard) == pytest.approx(3 / 5)
    assert cut_agreement(v, v > 3) == 1.0
    assert cut_agreement(v, np.zeros(5, dtype=bool)) == 1.0
