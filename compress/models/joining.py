"""What stands between the two texts of a pair: the tokenizer's own, or a line break put there.

Tokenizers of decoders (Qwen, GPT-2) append the second text to the first, so that no token says where it
begins. Where a training starts from such a model, a line break is added to the template by which the
tokenizer joins pairs. It is saved with the tokenizer, so that evaluation, `compress.predict`, plain
transformers and the tokenizer beside an ONNX file join pairs as the training did. A finished classifier
is read as its own tokenizer makes pairs.
"""

import json
from typing import Any

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerBase

from compress.data import tokens
from compress.data.cutting import IDS

BETWEEN = "\n"
MARK = "between_texts"
"""Entry of tokenizer_config.json: ids of the tokens that this program has put between two texts."""
NAME = "between texts"
"""How the tokenizer's template calls them."""
LONG = 4096
GLUED = "its tokenizer puts nothing between the two texts of a pair"
JsonObject = dict[str, Any]


def separated(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether any token stands between the two texts of a pair, seen by encoding one."""
    encode = tokens.cut(tokenizer, LONG).tokenizer
    for text in ("a", *tokenizer.get_vocab()):
        if alone := encode.ids([text])[0]:
            pair = encode.samples(([text], [text]), LONG, "longest_first")[IDS][0]
            return not _holds(pair, [*alone, *alone])
    return True


def _holds(ids: list[int], part: list[int]) -> bool:
    return any(ids[n : n + len(part)] == part for n in range(len(ids) - len(part) + 1))


def settle(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Put a line break between the texts of pairs where nothing stands; a note of what was done.

    In place, and in what the tokenizer saves. Without a token for a line break it is the separator or
    the end of a text. A slow tokenizer stays as it is.
    """
    if separated(tokenizer):
        return None
    ids = _ids(tokenizer) if tokenizer.is_fast else []
    if not ids:
        return f"{GLUED}, and cannot be made to: a model may not know where the second begins"
    backend = tokenizer.backend_tokenizer
    names = [backend.id_to_token(number) for number in ids]
    known = json.loads(backend.to_str())["post_processor"]
    backend.post_processor = _processor(_added(known, ids, names))
    tokenizer.init_kwargs[MARK] = ids
    shown = "a line break" if ids == _line_break(tokenizer) else f"'{' '.join(names)}'"
    return f"{GLUED}; {shown} is put there (ids {', '.join(map(str, ids))}), and saved with it"


def note(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What to say of a finished classifier whose pairs run together; None for any other."""
    return None if separated(tokenizer) else f"{GLUED}; it is read in this way, as it was trained"


def key(fingerprint: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The fingerprint of a model's directory, and what was put between texts, if anything was."""
    ids = tokenizer.init_kwargs.get(MARK)
    return fingerprint if ids is None else f"{fingerprint} {MARK} {ids}"


def _ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens to put between texts; none where the tokenizer has nothing that serves."""
    if found := _line_break(tokenizer):
        return found
    named = (tokenizer.sep_token_id, tokenizer.eos_token_id)
    return [number for number in named if number is not None][:1]


def _line_break(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    found = tokens.cut(tokenizer, LONG).tokenizer.ids([BETWEEN])[0]
    return [] if tokenizer.unk_token_id in found else found


def _added(known: JsonObject | None, ids: list[int], names: list[str]) -> JsonObject:
    """The description of a post-processor, with these tokens between the texts of a pair."""
    if known is not None and known["type"] == "TemplateProcessing":
        pair = list(known["pair"])
        place = next(n for n, piece in enumerate(pair) if piece.get("Sequence", {}).get("id") == "B")
        pair.insert(place, {"SpecialToken": {"id": NAME, "type_id": 0}})
        special = {**known["special_tokens"], NAME: {"id": NAME, "ids": ids, "tokens": names}}
        return {**known, "pair": pair, "special_tokens": special}
    if known is not None and known["type"] == "Sequence":
        every = list(known["processors"])
        templates = [n for n, one in enumerate(every) if one["type"] == "TemplateProcessing"]
        for place in templates[-1:]:
            every[place] = _added(every[place], ids, names)
        return {**known, "processors": every if templates else [*every, _added(None, ids, names)]}
    one, two = ({"Sequence": {"id": text, "type_id": n}} for n, text in enumerate("AB"))
    plain = {"type": "TemplateProcessing", "single": [one], "pair": [one, two], "special_tokens": {}}
    template = _added(plain, ids, names)
    return template if known is None else {"type": "Sequence", "processors": [known, template]}


def _processor(description: JsonObject) -> Any:  # noqa: ANN401  the library has no common type
    """The post-processor of a description."""
    holder = json.loads(Tokenizer(models.BPE()).to_str())
    return Tokenizer.from_str(json.dumps({**holder, "post_processor": description})).post_processor
