"""Tokenizers of models: how they tokenise samples, what they do not know, whether two are alike."""

import json
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from compress.data.columns import CHUNK, Columns
from compress.data.cutting import Cut, Fast, Slow
from compress.data.texts import Texts
from compress.errors import UserError

SAMPLE = 1000
NAMED = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")
"""The special tokens that texts are encoded with."""


def cut(tokenizer: PreTrainedTokenizerBase, max_length: int, keep: int | None = None) -> Cut:
    """How a model's tokenizer tokenises samples; see `Cut`."""
    if not tokenizer.is_fast:
        return Cut(Slow(tokenizer), max_length, keep)
    types = "token_type_ids" in tokenizer.model_input_names
    side, split = tokenizer.truncation_side, tokenizer.split_special_tokens
    return Cut(Fast(tokenizer.backend_tokenizer, types, side, split), max_length, keep)


def highest(tokenizer: PreTrainedTokenizerBase) -> int:
    """The highest id that a text needs, unless it holds the name of an added special token.

    Models of texts lack the embeddings of such tokens where their tokenizer serves images as well.
    """
    named = {getattr(tokenizer, f"{name}_token_id") for name in NAMED} - {None}
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return max(({*tokenizer.get_vocab().values()} - added) | named)


def without_embedding(tokenizer: PreTrainedTokenizerBase, number: int, place: str) -> UserError:
    """The error of a text that holds a token for which the model has no embedding."""
    return UserError(
        f"{place} holds '{tokenizer.convert_ids_to_tokens(number)}' (token id {number}), for which the "
        "model has no embedding; take it out of the text."
    )


def first_beyond(columns: Columns, table: int) -> tuple[int, int] | None:
    """The first sample that holds an id of `table` or more, and that id; None if none does."""
    ids = columns.tokens["input_ids"]
    for start in range(0, len(ids), CHUNK):
        part = ids[start : start + CHUNK]
        if int(part.max()) >= table:
            place = int((part >= table).argmax())
            sample = int(np.searchsorted(columns.offsets, start + place, side="right")) - 1
            return sample, int(part[place])
    return None


def unknown_share(tokenizer: PreTrainedTokenizerBase, columns: Columns) -> float:
    """Share of the tokenizer's unknown token among the tokens of at most `SAMPLE` samples.

    Special tokens are not counted; 0 for a tokenizer without an unknown token of its own.
    """
    unknown, special = tokenizer.unk_token_id, set(tokenizer.all_special_ids)
    others = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    if unknown is None or unknown in others:
        return 0.0
    step = max(1, len(columns) // SAMPLE)
    ids = columns.tokens["input_ids"][columns.places(np.arange(0, len(columns), step))]
    counted = ids[~np.isin(ids, list(special - {unknown}))]
    return float((counted == unknown).mean()) if len(counted) else 0.0


def equal(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers are defined alike, so that they produce the same of any text."""
    definitions = [_definition(tokenizer) for tokenizer in (one, other)]
    return definitions[0] is not None and definitions[0] == definitions[1]


def _definition(tokenizer: PreTrainedTokenizerBase) -> tuple[Any, ...] | None:
    """What a fast tokenizer does, less the length that it was last used with; None for a slow one."""
    if not tokenizer.is_fast:
        return None
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend = {key: value for key, value in backend.items() if key not in ("truncation", "padding")}
    names = set(tokenizer.model_input_names)
    return names, tokenizer.pad_token_id, tokenizer.truncation_side, backend


def agree(
    one: PreTrainedTokenizerBase,
    other: PreTrainedTokenizerBase,
    texts: Texts,
    max_length: int,
    keep: int | None = None,
) -> bool:
    """Whether two tokenizers produce the same of the texts of samples.

    At most `SAMPLE` samples are compared, spread evenly; max_length, keep: as for `cut`.
    """
    some = texts.spread(SAMPLE)
    inputs = [cut(tokenizer, max_length, keep).lists(some) for tokenizer in (one, other)]
    return inputs[0] == inputs[1]
