"""Tokens of samples of one or two texts, cut to a length, as in training so in `compress.predict`.

A fast tokenizer works through the library `tokenizers`, without transformers, so that a process that
does nothing else starts quickly.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from compress.data.texts import Lists

Ids = list[list[int]]
IDS, TYPES, LENGTHS, LOST = "input_ids", "token_type_ids", "lengths", "lost"


class TextTokenizer(ABC):
    """A tokenizer, for lists of texts."""

    @abstractmethod
    def samples(self, texts: Lists, length: int, cut: str) -> dict[str, Ids]:
        """`IDS` of samples [N], and `TYPES` where they are used, of at most `length` tokens each.

        cut: "longest_first", "only_first" or "only_second".
        """

    @abstractmethod
    def ids(self, texts: list[str]) -> Ids:
        """Of whole texts [N], without special tokens."""

    @abstractmethod
    def special(self, texts: int) -> int:
        """Special tokens of a sample of one or two texts."""


@dataclass(frozen=True)
class Fast(TextTokenizer):
    """Through the library.

    types: whether the model reads token types; side: that is cut; split: whether the names of special
    tokens in a text are words as others (the library's pickle leaves that out).
    """

    backend: tokenizers.Tokenizer
    types: bool
    side: str
    split: bool = False

    def samples(self, texts: Lists, length: int, cut: str) -> dict[str, Ids]:
        """See `TextTokenizer`."""
        self.backend.encode_special_tokens = self.split
        self.backend.enable_truncation(length, strategy=cut, direction=self.side)
        self.backend.no_padding()
        rows = texts[0] if len(texts) == 1 else list(zip(*texts, strict=True))
        found = self.backend.encode_batch_fast(rows)
        ids = {IDS: [encoding.ids for encoding in found]}
        return ids | ({TYPES: [encoding.type_ids for encoding in found]} if self.types else {})

    def ids(self, texts: list[str]) -> Ids:
        """See `TextTokenizer`."""
        self.backend.encode_special_tokens = self.split
        self.backend.no_truncation()
        self.backend.no_padding()
        found = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def special(self, texts: int) -> int:
        """See `TextTokenizer`."""
        return self.backend.num_special_tokens_to_add(is_pair=texts > 1)


@dataclass(frozen=True)
class Slow(TextTokenizer):
    """A tokenizer in Python, of transformers."""

    tokenizer: Any

    def samples(self, texts: Lists, length: int, cut: str) -> dict[str, Ids]:
        """See `TextTokenizer`."""
        limits = {"truncation": cut, "max_length": length}
        return {**self.tokenizer(*texts, return_attention_mask=False, **limits)}

    def ids(self, texts: list[str]) -> Ids:
        """See `TextTokenizer`."""
        found: Ids = self.tokenizer(texts, add_special_tokens=False)[IDS]
        return found

    def special(self, texts: int) -> int:
        """See `TextTokenizer`."""
        return int(self.tokenizer.num_special_tokens_to_add(pair=texts > 1))


@dataclass(frozen=True)
class CutOff:
    """How many samples of a split were too long, of how many; tokens that were cut off, of how many."""

    samples: int
    of_samples: int
    tokens: int
    of_tokens: int

    def described(self) -> str:
        """Such as `1,412 of 9,399 samples (15.0 %; 9.3 % of its tokens lost)`."""
        share, lost = 100 * self.samples / self.of_samples, 100 * self.tokens / self.of_tokens
        shares = f"{share:.1f} %; {lost:.1f} % of its tokens lost"
        return f"{self.samples:,} of {self.of_samples:,} samples ({shares})"


@dataclass(frozen=True)
class Cut:
    """How samples are tokenised: to at most max_length tokens.

    keep: the text of a pair that is cut last (0 or 1); without one the longer text is cut first.
    """

    tokenizer: TextTokenizer
    max_length: int
    keep: int | None = None

    def lists(self, texts: Lists) -> dict[str, Ids]:
        """Tokens of N samples: `IDS`, and `TYPES` where used."""
        found = self.tokenizer.samples(texts, self.max_length, "longest_first")
        if self.keep is None:
            return found
        length = self.max_length - self.tokenizer.special(len(texts))
        cut = "only_second" if self.keep == 0 else "only_first"
        for row, ids in enumerate(self.tokenizer.ids(texts[self.keep])):
            if length // 2 < len(ids) < length and len(found[IDS][row]) == self.max_length:
                pair = [texts[0][row]], [texts[1][row]]
                for name, values in self.tokenizer.samples(pair, self.max_length, cut).items():
                    found[name][row] = values[0]
        return found

    def lost(self, texts: Lists, lengths: NDArray[np.int32]) -> NDArray[np.int32]:
        """How many tokens of each sample are cut off, [N]; lengths: of what is left, [N]."""
        lost = np.zeros(len(lengths), np.int32)
        (full,) = np.nonzero(lengths >= self.max_length)
        if len(full):
            whole = [self.tokenizer.ids([column[row] for row in full]) for column in texts]
            special = self.tokenizer.special(len(texts))
            counts = [special + sum(map(len, ids)) for ids in zip(*whole, strict=True)]
            lost[full] = np.maximum(np.array(counts) - lengths[full], 0)
        return lost

    def __call__(self, texts: Lists) -> dict[str, NDArray[Any]]:
        """The same one after another, int32 and uint8 [tokens]; `LENGTHS` and `LOST` [N]."""
        found = self.lists(texts)
        lengths = np.fromiter(map(len, found[IDS]), np.int32, len(found[IDS]))
        types = {IDS: np.int32, TYPES: np.uint8}
        flat = {
            name: np.fromiter(chain.from_iterable(rows), types[name], int(lengths.sum()))
            for name, rows in found.items()
        }
        return {**flat, LENGTHS: lengths, LOST: self.lost(texts, lengths)}
