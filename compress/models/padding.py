"""The padding token of a model that was published without one, as decoders are.

A classifier of decoder type reads its answer at the last token that is no padding, and takes no batch
without knowing which that is. The token is chosen once, from tokenizer and configuration together, and
both are saved with the student.
"""

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

OTHERS = ("image", "video", "vision", "audio", "fim")
"""Padding of something else than texts, by a part of its name."""


def settle(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> str | None:
    """Give both the same padding token, in place, where one of them has none; a note of what was done.

    Taken is, in this order: the tokenizer's own, the configuration's, an added token with "pad" in its
    name, the end of a text. Nothing is done where none is found.
    """
    known, given = tokenizer.pad_token_id, getattr(config, "pad_token_id", None)
    if known is not None and given is not None:
        return None
    token = _choose(tokenizer, given)
    if token is None:
        return None
    if known is None:
        tokenizer.pad_token = token
    if given is None:
        config.pad_token_id = tokenizer.pad_token_id
    lacking = "tokenizer" if given is not None else "config.json"
    lacking = "tokenizer and config.json" if known is None and given is None else lacking
    return f"padding token is '{token}', id {tokenizer.pad_token_id}: its {lacking} named none"


def _choose(tokenizer: PreTrainedTokenizerBase, given: int | None) -> str | None:
    if tokenizer.pad_token is not None:
        return str(tokenizer.pad_token)
    if given is not None and 0 <= given < len(tokenizer):
        return str(tokenizer.convert_ids_to_tokens(given))
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    named = [t for t in added if "pad" in t.lower() and not any(part in t.lower() for part in OTHERS)]
    end = tokenizer.eos_token
    return named[0] if named else None if end is None else str(end)
