"""Tokenizers of models: how they tokenise samples, what they do not know, whether two are alike."""

import json
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from compress.data.columns import Columns
from compress.data.cutting import Cut, Fast, Slow
from compress.data.texts import Texts

SAMPLE = 1000


def cut(tokenizer: PreTrainedTokenizerBase, max_length: int, keep: int | None = None) -> Cut:
    """How a model's tokenizer tokenises samples; see `Cut`."""
    if not tokenizer.is_fast:
        return Cut(Slow(tokenizer), max_length, keep)
    types = "token_type_ids" in tokenizer.model_input_names
    side, split = tokenizer.truncation_side, tokenizer.split_special_tokens
    return Cut(Fast(tokenizer.backend_tokenizer, types, side, split), max_length, keep)


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
