"""Whether a model fits its tokenizer and the longest input: asked of the model before any training.

What: rows of its own tokenizer go through it on the CPU, of full length and in a padded batch.
Why: configuration keys mislead. Position tables have an offset in some families, -1 or an unused table
in others; a pad token that a model does not know raises in one, and in another the wrong token is read.
A model that cannot take the rows gives one sentence; what it ignores is no longer handed over.
"""

from functools import partial
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compress import ranks
from compress.errors import UserError
from compress.models import encoders, stand_in
from compress.models.model_questions import SHORT, Fit, Questions, made_up, runs, usable


def together(path: Path, key: str, name: str, max_length: int) -> Fit:
    """The same answer, or the same UserError, on all ranks; only the main rank asks.

    key, name: of the model in `robust_compression`; otherwise as `check`.
    """
    return ranks.on_main(lambda: check(path, f"robust_compression.{key}: '{name}'", max_length))


def check(path: Path, subject: str, max_length: int) -> Fit:
    """Ask a stand-in of the directory's model; subject: how to name it, such as "key: 'name'".

    Raises UserError where tokenizer, model and `max_length` do not fit.
    """
    tokenizer, config = encoders.load_tokenizer(path), encoders.load_config(path)
    reason: UserError | None = None
    for build in stand_in.builders(path, config):
        try:
            questions = Questions(build(), tokenizer, subject)
            questions.check_ids()
            questions.check_start()
        except UserError as error:
            reason = error
            continue
        longest = questions.usable(max_length)
        if longest < max_length:
            raise UserError(
                f"{subject} has {longest} positions, but robust_compression.task.max_length is "
                f"{max_length}; lower max_length, or take a model that reads more."
            )
        return questions.fit(max_length)
    if reason is not None:
        raise reason
    return Fit(tuple(tokenizer.model_input_names), tokenizer.padding_side)


def settled(path: Path) -> PreTrainedTokenizerBase:
    """The directory's tokenizer, handing over what its model uses; whether they fit is not asked."""
    tokenizer = encoders.load_tokenizer(path)
    for build in stand_in.builders(path, encoders.load_config(path))[:1]:
        names = Questions(build(), tokenizer, str(path)).names()
        Fit(names, tokenizer.padding_side).settle(tokenizer)
    return tokenizer


def fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, subject: str) -> Fit:
    """The same of a loaded model on the CPU, in evaluation mode; UserError as `check`."""
    questions = Questions(model, tokenizer, subject)
    questions.check_ids()
    questions.check_start()
    return questions.fit(questions.usable(SHORT))


def longest(path: Path, wanted: int) -> int:
    """The longest row, at most `wanted` tokens, that a stand-in of the directory's model takes.

    Needs no tokenizer. Raises UserError for a configuration that makes no model.
    """
    config = encoders.load_config(path)
    reason: UserError | None = None
    for build in stand_in.builders(path, config):
        try:
            model = build()
        except UserError as error:
            reason = error
            continue
        if runs(model, made_up(model, 2)):
            return usable(model, partial(made_up, model), 2, wanted)
    if reason is not None:
        raise reason
    return wanted
