"""The partial-input classifier: what one text gives away it finds, what it does not it does not."""

import numpy as np
import torch

from compress.data.splits import Split
from compress.stages.bags import OfText
from compress.stages.partial_input import classify


def pairs(count, seed, label_word):
    """The second text holds `good` or `bad`; it tells the label where label_word is true."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, count)
    words = labels if label_word else draw.integers(0, 2, count)
    seconds = [f"item {draw.integers(50)} is {('bad', 'good')[w]}" for w in words]
    firsts = [f"text {draw.integers(50)}" for _ in range(count)]
    return Split.of((firsts, seconds), labels, ("a", "b"), (0, 1))


def test_a_telling_text_is_learned():
    train, dev = pairs(600, 0, True), pairs(200, 1, True)
    assert (classify(train, dev, OfText(1), 2) == dev.labels).mean() > 0.98
    assert (classify(train, dev, OfText(0), 2) == dev.labels).mean() < 0.65


def test_a_text_that_tells_nothing_gives_nothing():
    train, dev = pairs(600, 0, False), pairs(400, 1, False)
    assert abs((classify(train, dev, OfText(1), 2) == dev.labels).mean() - 0.5) < 0.1


def test_answers_repeat_and_leave_the_random_state_alone():
    train, dev = pairs(100, 0, True), pairs(50, 1, True)
    state = torch.get_rng_state()
    first = classify(train, dev, OfText(1), 2)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(5)
    assert np.array_equal(first, classify(train, dev, OfText(1), 2))
