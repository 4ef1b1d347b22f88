"""The shallow classifier: its features, what it can learn, and that it never sees what it judges."""

import numpy as np
import pytest

from compress.data import draw
from compress.errors import UserError
from compress.stages import bag_of_words
from compress.stages.bag_of_words import fit, folds_of, out_of_fold
from compress.stages.bags import BUCKETS, pair_bags, text_bags

pytestmark = pytest.mark.slow


def lists(bags):
    return [bag.tolist() for bag in bags]


def test_a_text_is_its_words_and_pairs():
    assert [len(bag) for bag in text_bags("A b, a")] == [3 + 4]
    assert lists(text_bags("A b")) == lists(text_bags("a  B!"))
    assert lists(text_bags("a b")) != lists(text_bags("b a"))
    assert lists(text_bags("")) == lists(text_bags("?!")) and len(text_bags("")[0]) == 1
    assert all(0 <= index < BUCKETS for index in text_bags("some more words")[0])


def test_a_pair_is_its_texts_and_their_overlap():
    bags = lists(pair_bags("a cat sat", "A dog sat down"))
    assert [len(bag) for bag in bags] == [3 + 4, 4 + 5, 1, 2, 2, 4]
    _, second, _, only_second, both, overlap = bags
    swapped = lists(pair_bags("A dog sat down", "a cat sat"))
    assert swapped[4] == both
    assert not {*swapped[0], *swapped[2], *swapped[5]} & {*second, *only_second, *overlap}
    pairs = (("a b", "a b"), ("c d", "d c"), ("a b", "a c"))
    same, reordered, other = (lists(pair_bags(*pair))[5] for pair in pairs)
    assert same == reordered != other
    assert all(len(bag) >= 1 for bag in pair_bags("", ""))


def overlapping(count, seed):
    """Pairs of two of fifty words; label 1 where the second text repeats the first's words."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, count)
    firsts = draw.integers(0, 50, (count, 2))
    seconds = np.where(labels[:, None] == 1, firsts[:, ::-1], draw.integers(50, 100, (count, 2)))
    texts = ([" ".join(f"w{n % 50}" for n in row) for row in rows] for rows in (firsts, seconds))
    return [pair_bags(*pair) for pair in zip(*texts, strict=True)], labels


def given(rows):
    """The rows in blocks of seven."""

    def of(places):
        chosen = rows if places is None else [rows[place] for place in places]
        return (chosen[start : start + 7] for start in range(0, len(chosen), 7))

    return of


def test_overlap_is_learned_though_no_word_tells():
    (rows, labels), (test, gold) = overlapping(800, 0), overlapping(200, 1)
    p = fit(rows, labels, 2).predict(test)
    assert p.shape == (200, 2) and p.dtype == np.float32
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    assert (p.argmax(axis=1) == gold).mean() > 0.9
    words = [row[:2] for row in rows]
    assert (fit(words, labels, 2).predict([row[:2] for row in test]).argmax(1) == gold).mean() < 0.65


def test_no_row_is_judged_by_a_classifier_that_saw_it():
    rows, labels = overlapping(60, 2)
    before = out_of_fold(given(rows), labels, 2, 5, 999)
    fold = np.flatnonzero(folds_of(rows, 5) == 3)
    assert 3 < len(fold) < 25
    other = labels.copy()
    other[fold] = 1 - other[fold]
    after = out_of_fold(given(rows), other, 2, 5, 999)
    np.testing.assert_array_equal(before[fold], after[fold])
    rest = np.setdiff1d(np.arange(60), fold)
    assert not np.isclose(before[rest], after[rest]).all(axis=1).any()


def test_samples_with_the_same_features_are_in_one_fold():
    """Labels drawn at random cannot be known, though each text is there three times with its label."""
    random = np.random.default_rng(1)
    texts = [random.integers(0, 5000, 8).astype(np.int32) for _ in range(400)]
    labels = random.integers(0, 2, 400)
    places = random.permutation(np.repeat(np.arange(400), 3))
    p = out_of_fold(given([[texts[i]] for i in places]), labels[places], 2, 5, 9999)
    assert abs((p.argmax(axis=1) == labels[places]).mean() - 0.5) < 0.1
    sizes = np.bincount(folds_of([[text] for text in texts], 5), minlength=5)
    assert sizes.min() > 55


def test_a_text_that_is_the_same_everywhere_is_no_bias_model():
    rows = [[np.array([1, 2], np.int32)]] * 20
    with pytest.raises(UserError, match="the same in too many of its 20 samples"):
        out_of_fold(given(rows), np.arange(20) % 2, 2, 5, 99)


@pytest.mark.parametrize("folds", [2, 5])
def test_every_row_has_a_prediction(folds):
    rows, labels = overlapping(31, 3)
    p = out_of_fold(given(rows), labels, 2, folds, 20)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)


def test_a_large_set_trains_on_a_part_of_it(monkeypatch):
    seen, whole = [], fit

    def counting(rows, labels, classes):
        seen.append((len(rows), len(labels)))
        return whole(rows, labels, classes)

    monkeypatch.setattr(bag_of_words, "fit", counting)
    rows, labels = overlapping(50, 4)
    assert len(out_of_fold(given(rows), labels, 2, 5, 30)) == 50
    assert sum(count for count, _ in seen) == 4 * 30 and all(a == b for a, b in seen)


def test_a_part_of_a_file_whose_labels_alternate_has_both():
    """In every whole number of rows for one: an even step would see one class alone."""
    places = draw.evenly(200, 100)
    assert (np.diff(places) > 0).all() and (places // 2 == np.arange(100)).all()
    assert 30 < (places % 2).sum() < 70
    assert draw.evenly(7, 9).tolist() == list(range(7))
