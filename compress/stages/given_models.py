"""The models that the configuration names: `model`, `student.model`, `teacher.model`.

What: `check` says how their labels are read and refuses what cannot be; `check_equal_tokens` refuses
two models that cannot be compared token by token.
"""

from collections.abc import Mapping
from pathlib import Path

from compress import ranks
from compress.data import tokenising
from compress.data.splits import TaskData
from compress.layerwise import layer_map
from compress.models import encoders
from compress.stages.context import Encoder

MOST_UNKNOWN = 0.2
"""Share of unknown words in train from which a model is said not to know the language."""


def check(folders: Mapping[str, Path], data: TaskData) -> None:
    """Say what is done to the labels of each model; UserError if they cannot be the task's.

    folders: the models' directories by key.
    """
    for key, folder in folders.items():
        trained = key == "teacher.model"
        order = encoders.find_labels(folder, data.labels, data.task, trained)
        if trained:
            encoders.check_weights(folder)
        if order.note is not None:
            ranks.say(f"WARNING: robust_compression.{key} {folder}: {order.note}.")


def check_vocabulary(key: str, encoder: Encoder) -> None:
    """Say it loudly if the tokenizer of a model does not know much of the training texts."""
    share = tokenising.unknown_share(encoder.tokenizer, encoder.columns["train"])
    if share >= MOST_UNKNOWN:
        ranks.say(
            f"WARNING: robust_compression.{key} {encoder.model}: {share:.0%} of the words of train are "
            "unknown to its tokenizer, so the model cannot tell them apart; take a model for this "
            "language and kind of text (synthetic-encoder knows the task 'synthetic' only)."
        )


def check_equal_tokens(one: Encoder, other: Encoder) -> None:
    """Raise UserError unless two models have every training pair in the same tokens.

    For the terms that compare them token by token. Tokenizers of one definition need no comparison;
    else the columns are compared, which reads all of them (about 10 GB for 40 million samples).
    """
    if one is other or tokenising.equal(one.tokenizer, other.tokenizer):
        return
    for column in ("input_ids", "token_type_ids"):
        both = [encoder.columns["train"].table.data for encoder in (one, other)]
        held = [table.column(column) for table in both if column in table.column_names]
        if len(held) == 1 or (held and not held[0].equals(held[1])):
            raise layer_map.tokens_differ()
