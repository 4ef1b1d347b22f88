"""A trained model as a directory that loads anywhere, checked before it counts as finished.

safetensors only, with the tokenizer, the labels, a model card, and the code that plain transformers
needs where layers have dimensions of their own (`remote_code`). The weights are written one Transformer
block at a time into the place of the unfinished work, and moved when the rest is written; `parity`
compares the result with the model in training.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compress.data.tasks import Task
from compress.files import disk
from compress.models import encoders, remote_code
from compress.models.weight_files import WeightWriter
from compress.runtime import ranks
from compress.training import gathering
from compress.training.gathering import Portion


def begin(*folders: Path) -> list[WeightWriter]:
    """Writers into these directories, which are emptied; the main rank alone uses them."""

    def empty() -> None:
        for folder in folders:
            with disk.writing(folder):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)

    ranks.on_main(empty)
    return [WeightWriter(folder) for folder in folders]


def write(found: Iterator[Portion], take: Callable[[Portion], None], *writers: WeightWriter) -> None:
    """Have the main rank `take` all portions into these writers, and complete them.

    Collective where `found` is.
    """
    gathering.each(found, take, writers[0].folder)
    with ranks.sharing_errors():
        for writer in writers if ranks.is_main() else ():
            with disk.writing(writer.folder):
                writer.close()


def write_plain(found: Iterator[Portion], shape: PreTrainedModel, folder: Path) -> None:
    """Write the weights of a model as they are; collective where `found` is.

    shape: of the model, whose state they are.
    """
    names, [writer] = shape.state_dict().keys(), begin(folder)

    def take(portion: Portion) -> None:
        writer.add((name, value) for name, value in portion.items() if name in names)

    write(found, take, writer)


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    task: Task,
    folder: Path,
    weights: Path | None = None,
) -> None:
    """Write model and tokenizer.

    max_length: tokens of a sample in training; it, the columns of its texts, their number and which was
    cut last go into config.json, for `compress.predict`. weights: a directory whose files are moved
    there; None: the model's own are written.
    """
    setattr(model.config, encoders.TRAINED_LENGTH, max_length)
    setattr(model.config, encoders.TRAINED_KEEP, task.keep)
    setattr(model.config, encoders.TRAINED_TEXTS, len(task.texts))
    setattr(model.config, encoders.TRAINED_COLUMNS, list(task.texts))
    remote_code.save(model, folder, weights)
    encoders.save_tokenizer(tokenizer, folder)
