"""The features of the bag of words: hashed words of texts, computed by several processes.

Of pairs `text_bags` sees one text (Gururangan et al. 2018), `pair_bags` both texts and how their words
overlap, as the bias models of Clark et al. 2019 do. Of single texts `keyword_bags` sees which words a
text has and how long it is, but not their order, which a sentence cannot be understood without.
"""

import math
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from compress.data.tasks import Task
from compress.data.texts import Lists

BUCKETS, MOST_WORDS = 1 << 18, 1000
"""Features that are told apart; words of a text that are read."""

Bags = Sequence[NDArray[np.int32]]


Features = Callable[[Lists], list[Bags]]
"""Gives the bags of a block of samples; can be sent to another process."""


def partial_input(task: Task) -> Features:
    """What the classifier sees that cuts dev into easy and hard: a part of what the models see.

    Of a pair the one text that the task names, of a single text its words without their order.
    """
    return Keywords() if task.single else OfText(task.partial)


def shallow(task: Task) -> Features:
    """What the shallow classifier sees: of a pair both texts, of a single text the same as above."""
    return Keywords() if task.single else OfPair()


@dataclass(frozen=True)
class Keywords:
    """The bags of single texts."""

    def __call__(self, texts: Lists) -> list[Bags]:
        """Of a block of texts."""
        return [keyword_bags(text) for text in texts[0]]


@dataclass(frozen=True)
class OfText:
    """The bags of one text of each pair; which: 0 or 1."""

    which: int

    def __call__(self, texts: Lists) -> list[Bags]:
        """Of a block of pairs."""
        return [text_bags(text) for text in texts[self.which]]


@dataclass(frozen=True)
class OfPair:
    """The bags of both texts of each pair."""

    def __call__(self, texts: Lists) -> list[Bags]:
        """Of a block of pairs."""
        return [pair_bags(*pair) for pair in zip(*texts, strict=True)]


def text_bags(text: str) -> Bags:
    """One bag: the words and neighbouring word pairs of a text, hashed."""
    return [_hashed(_grams(_words(text)))]


def keyword_bags(text: str) -> Bags:
    """Two bags: the words of a text, each once, and its length, doubled in two steps."""
    words = _words(text)
    return [_bag("words", sorted(set(words))), _bag("length", [f"{2 * math.log2(len(words) + 1):.0f}"])]


def pair_bags(first: str, second: str) -> Bags:
    """Six bags: the grams of each text, the words only in one, in both, and measures of overlap."""
    a, b = _words(first), _words(second)
    one, two = set(a), set(b)
    return [
        _bag("first", _grams(a)),
        _bag("second", _grams(b)),
        _bag("only first", sorted(one - two)),
        _bag("only second", sorted(two - one)),
        _bag("both", sorted(one & two)),
        _bag("overlap", _overlap(one, two)),
    ]


def _overlap(one: set[str], two: set[str]) -> Iterable[str]:
    """Of each text, in tenths the words that the other has, and the number of those that it lacks."""
    for name, own, other in (("first", one, two), ("second", two, one)):
        yield f"{name} shared {round(10 * len(own & other) / max(1, len(own)))}"
        yield f"{name} missing {min(10, len(own - other))}"


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())[:MOST_WORDS]


def _grams(words: list[str]) -> list[str]:
    return [*words, *(f"{a} {b}" for a, b in pairwise(["<s>", *words, "</s>"]))]


def _bag(name: str, grams: Iterable[str]) -> NDArray[np.int32]:
    """Hashed features of a bag, which are its own; at least one."""
    return _hashed([f"{name}: {gram}" for gram in grams] or [f"{name}:"])


def _hashed(grams: Sequence[str]) -> NDArray[np.int32]:
    return np.array([zlib.crc32(gram.encode()) % BUCKETS for gram in grams], dtype=np.int32)
