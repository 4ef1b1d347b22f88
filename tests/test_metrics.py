"""Relative bias against every published entry; AUROC against counting pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.scoring.metrics import accuracy, auroc, by_class, delta, pooled, relative_bias
from compress.study.published import ENTRIES, OOD_SIZES, TEACHER

TOLERANCE = 0.004
EXCEPTIONS = {
    ("table2", "distilbert", "mnli"): 1.304,
    ("table2", "minilm", "mnli"): 1.316,
    ("table2", "pretrained-l6", "mnli"): 1.243,
    ("table5", "vanilla", "mnli"): 1.316,
}
"""Entries in which the paper disagrees with itself -> the value that follows from its accuracies."""


def brute_force_auroc(scores, positive):
    """Count pairs: a win is 1, a tie 1/2."""
    wins = pairs = 0.0
    for i, hit in enumerate(positive):
        for j, other in enumerate(positive):
            if hit and not other:
                pairs += 1
                wins += 1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0
    return wins / pairs if pairs else None


def follows(task, entry):
    """F_bias that follows from the printed accuracies."""
    dev, ood = TEACHER[task]
    return relative_bias(
        (100 * entry.dev, 100 * pooled(entry.ood, OOD_SIZES)), (dev, pooled(ood, OOD_SIZES))
    )


@pytest.mark.parametrize("key", ENTRIES, ids="-".join)
def test_published_bias(key):
    expected, tolerance = (
        (EXCEPTIONS[key], 5e-4) if key in EXCEPTIONS else (ENTRIES[key].f_bias, TOLERANCE)
    )
    assert follows(key[2], ENTRIES[key]) == pytest.approx(expected, abs=tolerance)


def test_published_entries_are_all_there():
    assert len(ENTRIES) == 12 + 12 + 3 + 18 + 18
    assert ENTRIES.keys() >= EXCEPTIONS.keys()


def test_exceptions_are_the_only_ones():
    apart = {
        key for key, entry in ENTRIES.items() if abs(follows(key[2], entry) - entry.f_bias) > TOLERANCE
    }
    assert apart == set(EXCEPTIONS)


def test_pooling_is_by_size():
    assert pooled({"a": 1.0, "b": 0.0}, {"a": 1, "b": 3, "unused": 100}) == 0.25
    assert pooled({"a": 0.7}, {"a": 9}) == pytest.approx(0.7)


def test_percent_and_fractions_agree():
    assert relative_bias((84.0, 54.7), (84.2, 59.8)) == pytest.approx(
        relative_bias((0.840, 0.547), (0.842, 0.598))
    )


def test_bias_of_the_teacher_is_one():
    assert relative_bias((0.9, 0.6), (0.9, 0.6)) == pytest.approx(1.0)
    assert delta(0.8, 0.6) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((0.8, 0.6), (0.8, 0.8)),
        ((0.8, 0.6), (0.8, 0.9)),
        ((0.0, 0.6), (0.8, 0.6)),
        ((0.8, 0.6), (0.0, 0.0)),
    ],
)
def test_no_bias_where_the_ratio_says_nothing(student, teacher):
    assert relative_bias(student, teacher) is None


def test_student_better_out_of_distribution_is_negative():
    assert relative_bias((0.8, 0.9), (0.8, 0.6)) == pytest.approx(-0.5)


def test_accuracy():
    assert accuracy(np.array([True, False, True, True])) == 0.75


@given(
    st.lists(
        st.tuples(st.sampled_from([-np.inf, -1.5, 0.0, 1e-9, 0.3, 2.0, 1e30]), st.booleans()),
        min_size=1,
        max_size=25,
    )
)
def test_auroc_with_many_ties(rows):
    scores, positive = (np.array(column) for column in zip(*rows, strict=True))
    expected = brute_force_auroc(scores, positive)
    found = auroc(scores, positive)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-12))


@pytest.mark.parametrize("seed", range(3))
def test_auroc_of_many_distinct_scores(seed):
    random = np.random.default_rng(seed)
    scores, positive = random.normal(size=150), random.random(150) < 0.2
    assert auroc(scores, positive) == pytest.approx(brute_force_auroc(scores, positive), abs=1e-12)
    assert auroc(-scores, positive) == pytest.approx(1 - auroc(scores, positive), abs=1e-12)


def test_auroc_landmarks():
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    upper = np.array([False, False, True, True])
    assert auroc(scores, upper) == 1.0
    assert auroc(scores, ~upper) == 0.0
    assert auroc(np.zeros(4), upper) == 0.5
    assert auroc(scores, np.ones(4, dtype=bool)) is None
    assert auroc(scores, np.zeros(4, dtype=bool)) is None


def counted_by_class(predicted, gold):
    """F1 and recall of each gold class, in words of the definitions; correlation of indicators."""
    classes = sorted({*predicted, *gold})
    f1, recalls = [], []
    for one in classes:
        both = sum(p == g == one for p, g in zip(predicted, gold, strict=True))
        precision = both / predicted.count(one) if one in predicted else 0.0
        recall = both / gold.count(one) if one in gold else 0.0
        score = 2 * precision * recall / (precision + recall) if both else 0.0
        f1 += [score] if one in gold else []
        recalls += [recall] if one in gold else []
    x, y = (
        np.array([[value == one for one in classes] for value in s], float) for s in (predicted, gold)
    )
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    spread = np.sqrt((x * x).sum() * (y * y).sum())
    return np.mean(f1), np.mean(recalls), (x * y).sum() / spread if spread else 0.0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_rare_classes_count_as_frequent_ones(pairs):
    predicted, gold = ([pair[n] for pair in pairs] for n in (0, 1))
    found = by_class(np.array(predicted), np.array(gold, np.int16))
    expected = counted_by_class(predicted, gold)
    assert list(found.values()) == pytest.approx(expected, abs=1e-9)


def test_a_model_that_says_always_the_same():
    found = by_class(np.zeros(10, int), np.array([0] * 9 + [1]))
    assert found["balanced_accuracy"] == 0.5 and found["matthews"] == 0
    assert found["macro_f1"] == pytest.approx((18 / 19) / 2)
