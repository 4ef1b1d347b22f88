"""Whether a model fits its tokenizer and the longest input: tried on the model before any training.

Rows of its own tokenizer go through it on the CPU, of full length and in a padded batch, because keys
of config.json mislead: position tables have an offset in some families, -1 or an unused table in
others; an unknown padding token raises in one model, and in another a wrong token is read as padding.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from compress.errors import UserError
from compress.models import encoders, stand_in
from compress.models.model_questions import SHORT, Fit, Questions, made_up, runs, usable
from compress.runtime import ranks

Found = TypeVar("Found")


def together(path: Path, key: str, name: str, max_length: int, texts: int) -> Fit:
    """`check` on the main rank, with the same result or UserError on all ranks.

    key, name: of the model in `robust_compression`.
    """
    return ranks.on_main(lambda: check(path, f"robust_compression.{key}: '{name}'", max_length, texts))


def check(path: Path, subject: str, max_length: int, texts: int = 2) -> Fit:
    """Try a stand-in of the directory's model; subject: its name in messages, such as "key: 'name'".

    texts: of a sample, one or two.
    Raises UserError where tokenizer, model and `max_length` do not fit.
    """
    tokenizer, config = encoders.load_tokenizer(path), encoders.load_config(path)
    questions = _first(
        path, config, lambda model: Questions(model, tokenizer, subject, texts).checked()
    )
    if questions is None:
        return Fit(tuple(tokenizer.model_input_names), tokenizer.padding_side)
    positions = questions.usable(max_length)
    if positions < max_length:
        raise UserError(
            f"{subject} has {positions} positions, but robust_compression.task.max_length is "
            f"{max_length}; lower max_length, or take a model that reads more."
        )
    found, chosen = questions.fit(max_length), encoders.padding_note(path)
    return found if chosen is None else replace(found, notes=(*found.notes, f"{subject}: {chosen}"))


def settled(path: Path, texts: int = 2) -> PreTrainedTokenizerBase:
    """The directory's tokenizer, set to give what its model uses, without checking that they fit.

    texts: of a sample, one or two.
    """
    tokenizer = encoders.load_tokenizer(path)
    for build in stand_in.builders(path, encoders.load_config(path))[:1]:
        names = Questions(build(), tokenizer, str(path), texts).names()
        Fit(names, tokenizer.padding_side).settle(tokenizer)
    return tokenizer


def fit(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, subject: str, texts: int = 2
) -> Fit:
    """As `check`, for a loaded model on the CPU in evaluation mode and short rows."""
    questions = Questions(model, tokenizer, subject, texts).checked()
    return questions.fit(questions.usable(SHORT))


def longest(path: Path, wanted: int) -> int:
    """The longest row, at most `wanted` tokens, that a stand-in of the directory's model takes.

    Needs no tokenizer. Raises UserError for a configuration that makes no model.
    """

    def running(model: PreTrainedModel) -> PreTrainedModel | None:
        return model if runs(model, made_up(model, 2)) else None

    model = _first(path, encoders.load_config(path), running)
    return wanted if model is None else usable(model, partial(made_up, model), 2, wanted)


def _first(
    path: Path, config: PreTrainedConfig, attempt: Callable[[PreTrainedModel], Found | None]
) -> Found | None:
    """The first result of `attempt` on a stand-in; without one its last UserError, or None."""
    reason: UserError | None = None
    for build in stand_in.builders(path, config):
        try:
            if (found := attempt(build())) is not None:
                return found
        except UserError as error:
            reason = error
    if reason is not None:
        raise reason
    return None
