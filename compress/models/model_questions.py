"""What a model answers to rows of its own tokenizer: which it takes, and how padding must lie.

What: `Questions` puts those of `probe` to one model; `answer` is one forward pass or an exception.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compress.data import batches, tokens
from compress.errors import UserError, first_line

SEGMENTS = "token_type_ids"
SHORT = 24
WHOLE_PASS = 1024
"""Longest row that goes through all blocks; a longer one stops before the first, after the tables."""
TOLERANCE = 1e-3
"""Change of the logits, relative to the largest of them, that padding beside a row may make."""
WORDS = 64
SIDES = ("right", "left")

Row = dict[str, list[int]]


@dataclass(frozen=True)
class Fit:
    """How a tokenizer must be used so that training, `compress.predict` and ONNX agree.

    names: what it hands over, in its order; side: of the padding; notes: what a user should know.
    """

    names: tuple[str, ...]
    side: str
    notes: tuple[str, ...] = ()

    def settle(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Set the tokenizer so, in place and in what it saves."""
        if tuple(tokenizer.model_input_names) != self.names:
            tokenizer.model_input_names = list(self.names)
            tokenizer.init_kwargs["model_input_names"] = list(self.names)
        if tokenizer.padding_side != self.side:
            tokenizer.padding_side = self.side
            tokenizer.init_kwargs["padding_side"] = self.side


def made_up(model: PreTrainedModel, length: int) -> dict[str, Tensor]:
    """Inputs [1, length] of one ordinary token, the last one as the family ends a text."""
    config = model.config
    special = {config.pad_token_id, config.eos_token_id, getattr(config, "bos_token_id", None)}
    ids = torch.full((1, length), next(number for number in range(4, 99) if number not in special))
    if config.is_encoder_decoder and isinstance(config.eos_token_id, int):
        ids[0, -1] = config.eos_token_id
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def usable(
    model: PreTrainedModel, row: Callable[[int], dict[str, Tensor]], good: int, wanted: int
) -> int:
    """The largest length up to `wanted` whose row runs, by bisection; `good` is known to run."""
    if wanted <= good or runs(model, row(wanted)):
        return wanted
    bad = wanted
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if runs(model, row(middle)) else (good, middle)
    return good


def runs(model: PreTrainedModel, inputs: dict[str, Tensor]) -> bool:
    """Whether the model takes the inputs [B, L]."""
    return not isinstance(answer(model, inputs), Exception)


class _EnoughError(Exception):
    """A row has reached the Transformer blocks."""


def answer(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor | Exception:
    """Logits [B, C], or what the model raises; a long row stops at the blocks and gives none, [0]."""

    def stop(*_: object) -> None:
        raise _EnoughError

    handle = None
    if inputs["input_ids"].shape[1] > WHOLE_PASS and (block := _first_block(model)) is not None:
        handle = block.register_forward_pre_hook(stop)
    try:
        with torch.inference_mode():
            logits: Tensor = model(**inputs).logits
        return logits
    except _EnoughError:
        return torch.zeros(0)
    except Exception as error:  # noqa: BLE001  whatever a model raises is its answer
        return error
    finally:
        if handle is not None:
            handle.remove()


def _first_block(model: nn.Module) -> nn.Module | None:
    lists = (m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m))
    return next((blocks[0] for blocks in lists), None)


@dataclass(frozen=True)
class Questions:
    """A model in evaluation mode, the tokenizer that is to fit it, and how messages name it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    subject: str

    def check_ids(self) -> None:
        """Raise UserError without a padding token, or for ids beyond the model's embeddings."""
        if self.tokenizer.pad_token_id is None:
            raise UserError(
                f"{self.subject} has a tokenizer without a padding token; name one as pad_token in its "
                "tokenizer_config.json, and its id as pad_token_id in config.json."
            )
        try:
            table = self.model.get_input_embeddings()
        except NotImplementedError:
            return
        if not isinstance(table, nn.Embedding):
            return
        rows = table.num_embeddings
        highest = max(max(self.tokenizer.get_vocab().values()), *self.tokenizer.all_special_ids)
        if highest >= rows:
            raise UserError(
                f"{self.subject} has a tokenizer with token ids up to {highest}, but embeddings for "
                f"{rows} tokens only (ids up to {rows - 1}); take the model's own tokenizer."
            )

    def check_start(self) -> None:
        """Raise UserError if the shortest pair cannot be run, or only without its segment ids."""
        found = self.ask(self.least, names=("input_ids", "attention_mask"))
        if isinstance(found, Exception):
            raise UserError(f"{self.subject} cannot be run on a pair of texts ({first_line(found)}).")
        found = self.ask(self.least)
        if isinstance(found, (IndexError, RuntimeError)):
            table = getattr(self.model.config, "type_vocab_size", None)
            has = f" (type_vocab_size is {table})" if table is not None else ""
            raise UserError(
                f"{self.subject} has a tokenizer that gives segment ids (token_type_ids) up to "
                f"{max(self.row(self.least)[SEGMENTS])}, for which the model has no embeddings{has}; "
                "take the model's own tokenizer."
            )

    def usable(self, wanted: int) -> int:
        """The longest row that runs, at most `wanted` tokens."""
        return usable(self.model, lambda length: self.inputs([length]), self.least, wanted)

    def fit(self, max_length: int) -> Fit:
        """How the tokenizer must be used; UserError if padding cannot be told from text.

        max_length: tokens that the model is known to take.
        """
        side, note = self.side(min(SHORT, max_length))
        notes = tuple(text for text in (note, self.other_padding()) if text)
        return Fit(self.names(), side, notes)

    def names(self) -> tuple[str, ...]:
        """What the tokenizer must hand over, in its order: the mask, and segment ids that matter."""
        given = tuple(self.tokenizer.model_input_names)
        names = given if "attention_mask" in given else (*given, "attention_mask")
        kept = {"input_ids", "attention_mask", *([SEGMENTS] if self.uses_segments else [])}
        return tuple(name for name in names if name in kept)

    @cached_property
    def least(self) -> int:
        """Tokens of the shortest pair."""
        return self.tokenizer.num_special_tokens_to_add(pair=True) + 2

    @cached_property
    def text(self) -> str:
        """Words of the vocabulary, about as many as the longest row has tokens so far asked for."""
        names = [name for name, _ in sorted(self.tokenizer.get_vocab().items(), key=lambda i: i[1])]
        special = set(self.tokenizer.all_special_tokens)
        plain = (re.sub(r"[\W_]", "", name) for name in names if name not in special)
        words = [word for word in plain if word.isalpha()]
        return " ".join(words[:: max(1, len(words) // WORDS)]) or "a"

    def row(self, length: int) -> Row:
        """A pair of texts as the tokenizer gives it, of exactly `length` tokens where it can."""
        text = " ".join([self.text] * (length // WORDS + 1))
        try:
            made = tokens.of_pairs(self.tokenizer, [text], [text], length)
        except Exception as error:  # noqa: BLE001  what tokenizers raise has no common base
            raise UserError(
                f"{self.subject} has a tokenizer that cannot encode a pair ({first_line(error)})."
            ) from None
        row = {name: list(made[name][0]) for name in ("input_ids", SEGMENTS) if name in made}
        middle = len(row["input_ids"]) // 2
        for values in row.values():
            values[middle:middle] = [values[middle]] * (length - len(values))
        row["input_ids"] = self._all_text(row["input_ids"])
        return row

    def _all_text(self, ids: list[int]) -> list[int]:
        """The ids without one that only the model takes for padding: it may cost no position."""
        theirs = self.model.config.pad_token_id
        if theirs == self.tokenizer.pad_token_id or theirs not in ids:
            return ids
        other = max((number for number in ids if number != theirs), key=ids.count, default=theirs)
        return [other if number == theirs else number for number in ids]

    def inputs(
        self, lengths: Sequence[int], side: str = "right", names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Model inputs of rows of these lengths, padded as in training."""
        rows = [self.row(length) for length in lengths]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        made = batches.pad(columns, self.tokenizer.pad_token_id, side)
        if names is None and SEGMENTS in made and not self.takes_segments:
            names = ("input_ids", "attention_mask")
        return {name: value for name, value in made.items() if names is None or name in names}

    def ask(self, length: int, names: Sequence[str] | None = None) -> Tensor | Exception:
        """Logits [1, C] of one row, or what the model raises."""
        return answer(self.model, self.inputs([length], names=names))

    @cached_property
    def takes_segments(self) -> bool:
        """Whether the model's call has an argument for segment ids at all."""
        made = batches.pad({k: [v] for k, v in self.row(self.least).items()}, 0)
        return SEGMENTS in made and not isinstance(answer(self.model, made), TypeError)

    @cached_property
    def uses_segments(self) -> bool:
        """Whether segment ids change the logits."""
        if not self.takes_segments:
            return False
        given, without = self.ask(self.least), self.ask(self.least, ("input_ids", "attention_mask"))
        return not (
            isinstance(given, Tensor) and isinstance(without, Tensor) and torch.equal(given, without)
        )

    def side(self, length: int) -> tuple[str, str | None]:
        """The side on which padding leaves the logits as they are, the tokenizer's first, and a note.

        Raises UserError if a padded batch cannot be run, or is read wrongly because the model takes
        another token for padding.
        """
        own = self.tokenizer.padding_side
        sides = sorted(SIDES, key=lambda side: side != own)
        shifts = {side: self.shift(length, side) for side in sides}
        for side in sides:
            if shifts[side] <= TOLERANCE:
                changed = f"{self.subject} is padded on the {side}: it misreads padding on the {own}"
                return side, None if side == own else changed
        self._check_known_padding(sides, length)
        best = min(sides, key=lambda side: shifts[side])
        raised = self.padded(length, best)
        if isinstance(raised, Exception):
            raise UserError(f"{self.subject} cannot be run on a padded batch ({first_line(raised)}).")
        return best, (
            f"{self.subject} gives a text other scores when padding stands beside it (by up to "
            f"{shifts[best]:.0%} of the largest), so scores depend on how texts are batched"
        )

    def _check_known_padding(self, sides: Sequence[str], length: int) -> None:
        """Raise UserError if only the model's pad_token_id is wrong."""
        config, ours = self.model.config, self.tokenizer.pad_token_id
        theirs = config.pad_token_id
        if theirs == ours:
            return
        config.pad_token_id = ours
        try:
            shifts = [self.shift(length, side) for side in sides]
        finally:
            config.pad_token_id = theirs
        if min(shifts) <= TOLERANCE:
            said = "has no pad_token_id" if theirs is None else f"has pad_token_id {theirs}"
            raise UserError(
                f"{self.subject} {said} in its config.json, so it takes padding for text; set "
                f"pad_token_id to {ours}, the id of its tokenizer's '{self.tokenizer.pad_token}'."
            )

    def padded(self, length: int, side: str) -> Tensor | Exception:
        """Logits [2, C] of a row and a short one with padding beside it, or what the model raises."""
        return answer(self.model, self.inputs([length, max(self.least, length // 2)], side))

    def shift(self, length: int, side: str) -> float:
        """How much padding beside a short row changes its logits, relative to the largest of them.

        Infinite where the model raises.
        """
        alone, both = self.ask(max(self.least, length // 2)), self.padded(length, side)
        if isinstance(alone, Exception) or isinstance(both, Exception):
            return math.inf
        largest = float(alone.abs().max()) or 1.0
        return float((both[1] - alone[0]).abs().max()) / largest

    def other_padding(self) -> str | None:
        """A note if the model takes an ordinary token for padding without failing."""
        theirs, ours = self.model.config.pad_token_id, self.tokenizer.pad_token_id
        if theirs is None or theirs == ours or theirs < 0:
            return None
        name = self.tokenizer.convert_ids_to_tokens(theirs)
        return (
            f"{self.subject} has pad_token_id {theirs} in its config.json, which is '{name}' for its "
            f"tokenizer; its padding is {ours}: the model may not learn, or skip, '{name}'"
        )
