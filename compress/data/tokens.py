"""Pairs of texts become tokens, cut to a length: in training and in `compress.predict` alike."""

from typing import Any

from transformers import PreTrainedTokenizerBase


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
