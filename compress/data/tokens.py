"""Tokens of pairs of texts, cut to a length, the same in training and in `compress.predict`."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from compress.data.columns import Columns

SAMPLE = 1000


def of_pairs(
    tokenizer: PreTrainedTokenizerBase,
    first: list[str],
    second: list[str],
    max_length: int,
    keep: int | None = None,
) -> dict[str, list[Any]]:
    """Tokens of N pairs, at most max_length each: input_ids, and token_type_ids where used.

    keep: the text that is cut last (0 or 1); without it the longer one is cut first.
    """

    def tokens(truncation: str, *texts: list[str]) -> dict[str, list[Any]]:
        limits = {"truncation": truncation, "max_length": max_length}
        return {**tokenizer(*texts, return_attention_mask=False, **limits)}

    texts = first, second
    found = tokens("longest_first", *texts)
    if keep is None:
        return found
    length = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    kept = tokenizer(texts[keep], add_special_tokens=False)["input_ids"]
    for row, ids in enumerate(kept):
        if length // 2 < len(ids) < length and len(found["input_ids"][row]) == max_length:
            pair = ([text[row]] for text in texts)
            for name, values in tokens("only_second" if keep == 0 else "only_first", *pair).items():
                found[name][row] = values[0]
    return found


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
    texts: tuple[Sequence[str], Sequence[str]],
    max_length: int,
    keep: int | None = None,
) -> bool:
    """Whether two tokenizers produce the same of pairs of texts, two lists [N].

    At most `SAMPLE` pairs are compared, spread evenly; max_length, keep: as for `of_pairs`.
    """
    step = max(1, len(texts[0]) // SAMPLE)
    first, second = (list(some[::step]) for some in texts)
    inputs = [of_pairs(t, first, second, max_length, keep) for t in (one, other)]
    return inputs[0] == inputs[1]
