"""Checks of the models that the configuration names: labels, vocabulary, equal tokens."""

from collections.abc import Mapping
from pathlib import Path

from compress.data import tokens
from compress.data.splits import TaskData
from compress.data.texts import KINDS
from compress.errors import UserError
from compress.layerwise import layer_map
from compress.models import encoders, given_zeros
from compress.runtime import ranks
from compress.stages.context import Encoder

MOST_UNKNOWN = 0.2
"""Share of unknown words in train above which a warning is given."""


def check(folders: Mapping[str, Path], data: TaskData) -> None:
    """Warn of changes to the labels of each model; UserError if they cannot be the task's.

    Nor may a given teacher have been trained by this program on another number of texts a sample.

    folders: the models' directories by key.
    """
    for key, folder in folders.items():
        trained = key == "teacher.model"
        order = encoders.find_labels(folder, data.labels, data.task, trained)
        if trained:
            encoders.check_weights(folder)
            _check_texts(folder, len(data.task.texts))
        if order.note is not None:
            ranks.say(f"WARNING: robust_compression.{key} {folder}: {order.note}.")


def check_zeros(key: str, folder: Path) -> None:
    """Say, on the main rank, that the zeros of a pruned model are not held when it is trained."""
    if ranks.is_main() and (zeros := given_zeros.note(folder)) is not None:
        ranks.say(f"note: robust_compression.{key} {folder}: {zeros}.")


def _check_texts(folder: Path, texts: int) -> None:
    """Raise UserError for a teacher of pairs where the samples are single texts, or the reverse."""
    known = encoders.texts_of(encoders.load_config(folder))
    if known not in (None, texts):
        raise UserError(
            f"robust_compression.teacher.model {folder}: was trained on {KINDS[known]}, but the "
            f"samples of the task are {KINDS[texts]}; take a teacher that reads the same."
        )


def check_vocabulary(key: str, encoder: Encoder) -> None:
    """Warn, on the main rank, if the tokenizer of a model does not know much of the train texts."""
    if not ranks.is_main():  # it would map pages of the tokens all over the file
        return
    share = tokens.unknown_share(encoder.tokenizer, encoder.columns["train"])
    if share >= MOST_UNKNOWN:
        ranks.say(
            f"WARNING: robust_compression.{key} {encoder.model}: {share:.0%} of the words of train are "
            "unknown to its tokenizer, so the model cannot tell them apart; take a model for this "
            "language and kind of text (synthetic-encoder knows the task 'synthetic' only)."
        )


def check_ids(key: str, encoder: Encoder, table: int, data: TaskData) -> None:
    """Raise UserError if a text holds a token for which the model has no embedding.

    table: tokens that it has embeddings for, fewer than its tokenizer has.
    """
    for name, split in data.splits().items():
        if (found := tokens.first_beyond(encoder.columns[name], table)) is not None:
            sample, number = found
            place = f"robust_compression.{key}: {split.texts.row(sample, name)}"
            raise tokens.without_embedding(encoder.tokenizer, number, place)


def check_equal_tokens(one: Encoder, other: Encoder) -> None:
    """Raise UserError unless two models have every training sample in the same tokens.

    For the terms that compare them token by token. Tokenizers of one definition need no comparison;
    else the columns are compared, which reads all of them (about 10 GB for 40 million samples).
    """
    if one is other or tokens.equal(one.tokenizer, other.tokenizer):
        return
    if not one.columns["train"].same_tokens(other.columns["train"]):
        raise layer_map.tokens_differ()
