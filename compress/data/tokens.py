"""Pairs of texts become tokens, cut to a length: in training and in `compress.predict` alike."""

import json
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from compress.data.batches import Columns

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
    out = tokens("longest_first", *texts)
    if keep is None:
        return out
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    own = tokenizer(texts[keep], add_special_tokens=False)["input_ids"]
    for row, ids in enumerate(own):
        if room // 2 < len(ids) < room and len(out["input_ids"][row]) == max_length:
            pair = ([text[row]] for text in texts)
            cut = tokens("only_second" if keep == 0 else "only_first", *pair)
            for name, values in cut.items():
                out[name][row] = values[0]
    return out


def unknown_share(tokenizer: PreTrainedTokenizerBase, columns: Columns) -> float:
    """Share of the tokenizer's unknown token among the tokens of at most `SAMPLE` samples.

    Special tokens are not counted; 0 for a tokenizer that spells out what it does not know.
    """
    unknown, special = tokenizer.unk_token_id, set(tokenizer.all_special_ids)
    others = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    if unknown is None or unknown in others:
        return 0.0
    step = max(1, len(columns) // SAMPLE)
    rows = columns.table[range(0, len(columns), step)]["input_ids"]
    counts = [sum(i == unknown for i in ids) for ids in rows]
    total = sum(sum(i == unknown or i not in special for i in ids) for ids in rows)
    return sum(counts) / total if total else 0.0


def equal(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers are defined alike, so that they produce the same of any text."""
    if set(one.model_input_names) != set(other.model_input_names):
        return False
    for trait in ("pad_token_id", "truncation_side"):
        if getattr(one, trait) != getattr(other, trait):
            return False
    definitions = [_definition(tokenizer) for tokenizer in (one, other)]
    return definitions[0] is not None and definitions[0] == definitions[1]


def _definition(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """What a fast tokenizer does, less the length that it was last used with; None for a slow one."""
    if not tokenizer.is_fast:
        return None
    found: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in found.items() if key not in ("truncation", "padding")}


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
    found = [of_pairs(t, first, second, max_length, keep) for t in (one, other)]
    return found[0] == found[1]
