"""What a model answers to rows of its tokenizer: which it takes, and on which side padding must be."""

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
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
"""Longest row that goes through all blocks; a longer one stops before the first block."""
TOLERANCE = 1e-3
"""Change of the logits, relative to the largest of them, that padding may make."""
WORDS = 64
SIDES = ("right", "left")

Row = dict[str, list[int]]


@dataclass(frozen=True)
class Fit:
    """How a tokenizer must be used so that training, `compress.predict` and ONNX agree.

    names: the inputs that it gives, in its order; side: of the padding; notes: for the user; table:
    tokens that the model has embeddings for, None if those are all that the tokenizer has.
    """

    names: tuple[str, ...]
    side: str
    notes: tuple[str, ...] = ()
    table: int | None = None

    def settle(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Set the tokenizer so, in place and in what it saves."""
        if tuple(tokenizer.model_input_names) != self.names:
            tokenizer.model_input_names = list(self.names)
            tokenizer.init_kwargs["model_input_names"] = list(self.names)
        if tokenizer.padding_side != self.side:
            tokenizer.padding_side = self.side
            tokenizer.init_kwargs["padding_side"] = self.side


def embeddings(model: PreTrainedModel) -> int | None:
    """Tokens that the model has embeddings for; None where that cannot be told."""
    with suppress(NotImplementedError):
        table = model.get_input_embeddings()
        return table.num_embeddings if isinstance(table, nn.Embedding) else None
    return None


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


class _BlocksReachedError(Exception):
    """A row has reached the Transformer blocks."""


def answer(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor | Exception:
    """Logits [B, C], or what the model raises; a long row stops at the blocks and gives none, [0]."""

    def stop(*_: object) -> None:
        raise _BlocksReachedError

    handle = None
    if inputs["input_ids"].shape[1] > WHOLE_PASS and (block := _first_block(model)) is not None:
        handle = block.register_forward_pre_hook(stop)
    try:
        with torch.inference_mode():
            logits: Tensor = model(**inputs).logits
        return logits
    except _BlocksReachedError:
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
    """A model in evaluation mode, the tokenizer that is to fit it, and how messages name it.

    texts: of a sample, one or two.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    subject: str
    texts: int = 2

    @property
    def sample(self) -> str:
        """What it reads, for messages."""
        return "a text" if self.texts == 1 else "a pair of texts"

    def checked(self) -> "Questions":
        """The same; UserError if the tokenizer does not fit the model's embeddings and classes."""
        self._check_ids()
        found = self.ask(self.least, names=("input_ids", "attention_mask"))
        if isinstance(found, Exception):
            raise UserError(f"{self.subject} cannot be run on {self.sample} ({first_line(found)}).")
        if isinstance(self.ask(self.least), (IndexError, RuntimeError)):
            table = getattr(self.model.config, "type_vocab_size", None)
            has = f" (type_vocab_size is {table})" if table is not None else ""
            raise UserError(
                f"{self.subject} has a tokenizer that gives segment ids (token_type_ids) up to "
                f"{max(self.row(self.least)[SEGMENTS])}, for which the model has no embeddings{has}; "
                "take the model's own tokenizer."
            )
        return self

    def _check_ids(self) -> None:
        """Raise UserError without a padding token, or for ids beyond the model's embeddings."""
        if self.tokenizer.pad_token_id is None:
            raise UserError(
                f"{self.subject} has a tokenizer without a padding token; name one as pad_token in its "
                "tokenizer_config.json, and its id as pad_token_id in config.json."
            )
        table, highest = embeddings(self.model), tokens.highest(self.tokenizer)
        if table is not None and highest >= table:
            raise UserError(
                f"{self.subject} has a tokenizer with token ids up to {highest}, but embeddings for "
                f"{table} tokens only (ids up to {table - 1}); take the model's own tokenizer."
            )

    def usable(self, wanted: int) -> int:
        """The longest row that runs, at most `wanted` tokens."""
        return usable(self.model, lambda length: self.inputs([length]), self.least, wanted)

    def fit(self, max_length: int) -> Fit:
        """How the tokenizer must be used; UserError if the model reads padding as text.

        max_length: tokens that the model is known to take.
        """
        side, note = self.side(min(SHORT, max_length))
        notes = tuple(filter(None, (note, self.other_padding())))
        table, largest = embeddings(self.model), max(self.tokenizer.get_vocab().values())
        return Fit(self.names(), side, notes, None if table is None or largest < table else table)

    def names(self) -> tuple[str, ...]:
        """Inputs that the tokenizer must give, in its order: the mask, and segment ids that matter."""
        names = dict.fromkeys((*self.tokenizer.model_input_names, "attention_mask"))
        needed = {"input_ids", "attention_mask", *([SEGMENTS] if self.uses_segments else [])}
        return tuple(name for name in names if name in needed)

    @cached_property
    def least(self) -> int:
        """Tokens of the shortest sample."""
        return self.tokenizer.num_special_tokens_to_add(pair=self.texts > 1) + self.texts

    @cached_property
    def text(self) -> str:
        """About `WORDS` words of the vocabulary."""
        names = [name for name, _ in sorted(self.tokenizer.get_vocab().items(), key=lambda i: i[1])]
        special = set(self.tokenizer.all_special_tokens)
        plain = (re.sub(r"[\W_]", "", name) for name in names if name not in special)
        words = [word for word in plain if word.isalpha()]
        return " ".join(words[:: max(1, len(words) // WORDS)]) or "a"

    def row(self, length: int) -> Row:
        """A sample of exactly `length` tokens; a shorter one is repeated in the middle."""
        text = " ".join([self.text] * (length // WORDS + 1))
        try:
            found = tokens.cut(self.tokenizer, length).lists(([text],) * self.texts)
        except Exception as error:  # noqa: BLE001  what tokenizers raise has no common base
            what = f"a tokenizer that cannot encode {self.sample}"
            raise UserError(f"{self.subject} has {what} ({first_line(error)}).") from None
        row = {name: list(found[name][0]) for name in ("input_ids", SEGMENTS) if name in found}
        middle = len(row["input_ids"]) // 2
        for values in row.values():
            values[middle:middle] = [values[middle]] * (length - len(values))
        ids, padding = row["input_ids"], self.model.config.pad_token_id
        if padding != self.tokenizer.pad_token_id and padding in ids:
            # what only the model takes for padding might use no position
            other = max((token for token in ids if token != padding), key=ids.count, default=padding)
            row["input_ids"] = [other if token == padding else token for token in ids]
        return row

    def inputs(
        self, lengths: Sequence[int], side: str = "right", names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Model inputs of rows of these lengths, padded as in training."""
        rows = [self.row(length) for length in lengths]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        padded = batches.pad(columns, self.tokenizer.pad_token_id, side)
        if names is None and SEGMENTS in padded and not self.takes_segments:
            names = ("input_ids", "attention_mask")
        return {name: value for name, value in padded.items() if names is None or name in names}

    def ask(self, length: int, names: Sequence[str] | None = None) -> Tensor | Exception:
        """Logits [1, C] of one row, or what the model raises."""
        return answer(self.model, self.inputs([length], names=names))

    @cached_property
    def takes_segments(self) -> bool:
        """Whether the model's call has an argument for segment ids at all."""
        inputs = batches.pad({k: [v] for k, v in self.row(self.least).items()}, 0)
        return SEGMENTS in inputs and not isinstance(answer(self.model, inputs), TypeError)

    @cached_property
    def uses_segments(self) -> bool:
        """Whether segment ids change the logits."""
        if not self.takes_segments:
            return False
        answers = [self.ask(self.least), self.ask(self.least, ("input_ids", "attention_mask"))]
        logits = [found for found in answers if isinstance(found, Tensor)]
        return len(logits) < 2 or not torch.equal(*logits)

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
                note = f"{self.subject} is padded on the {side}: it misreads padding on the {own}"
                return side, None if side == own else note
        self._check_known_padding(sides, length)
        best = min(sides, key=lambda side: shifts[side])
        raised = self.padded(length, best)
        if isinstance(raised, Exception):
            raise UserError(f"{self.subject} cannot be run on a padded batch ({first_line(raised)}).")
        return best, (
            f"{self.subject} gives a text other scores when it is padded (by up to "
            f"{shifts[best]:.0%} of the largest), so scores depend on how texts are batched"
        )

    def _check_known_padding(self, sides: Sequence[str], length: int) -> None:
        """Raise UserError if only the model's pad_token_id is wrong."""
        config, right = self.model.config, self.tokenizer.pad_token_id
        wrong = config.pad_token_id
        if wrong == right:
            return
        config.pad_token_id = right
        try:
            shifts = [self.shift(length, side) for side in sides]
        finally:
            config.pad_token_id = wrong
        if min(shifts) <= TOLERANCE:
            has = "has no pad_token_id" if wrong is None else f"has pad_token_id {wrong}"
            raise UserError(
                f"{self.subject} {has} in its config.json, so it takes padding for text; set "
                f"pad_token_id to {right}, the id of its tokenizer's '{self.tokenizer.pad_token}'."
            )

    def padded(self, length: int, side: str) -> Tensor | Exception:
        """Logits [2, C] of a row and a shorter, padded one, or what the model raises."""
        return answer(self.model, self.inputs([length, max(self.least, length // 2)], side))

    def shift(self, length: int, side: str) -> float:
        """How much padding changes the logits of a short row, relative to the largest of them.

        Infinite where the model raises.
        """
        alone, batch = self.ask(max(self.least, length // 2)), self.padded(length, side)
        if isinstance(alone, Exception) or isinstance(batch, Exception):
            return math.inf
        largest = float(alone.abs().max()) or 1.0
        return float((batch[1] - alone[0]).abs().max()) / largest

    def other_padding(self) -> str | None:
        """A note if the model takes an ordinary token for padding without failing."""
        padding, own = self.model.config.pad_token_id, self.tokenizer.pad_token_id
        if padding is None or padding == own or padding < 0:
            return None
        name = self.tokenizer.convert_ids_to_tokens(padding)
        return (
            f"{self.subject} has pad_token_id {padding} in its config.json, which is '{name}' for its "
            f"tokenizer; its padding is {own}: the model may not learn, or skip, '{name}'"
        )
