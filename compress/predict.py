"""Classify texts or pairs of texts with a model directory, from the command line.

python -m compress.predict MODEL_DIR --premise "A man sleeps." --hypothesis "Nobody is awake."
python -m compress.predict MODEL_DIR --file pairs.tsv --output labels.jsonl
python -m compress.predict MODEL_DIR --text "A film to remember."
python -m compress.predict MODEL_DIR --file texts.csv --columns sentence

Prints the label and the probability of every label; a file gives one JSON line a row. Takes any
directory that `load_compressed` takes; the last two are for models of single texts. A file's columns
are those of the training, unless `--columns` names others.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compress.data import checking, reading, tokens
from compress.data.batches import pad, scoring_batches
from compress.data.texts import KINDS, Lists
from compress.errors import UserError, nearest
from compress.files import artefacts
from compress.models import encoders, probe
from compress.models.model_questions import Questions, embeddings
from compress.runtime import interrupts

MAX_LENGTH = 128
LONGEST = 100_000
"""Tokens of a sample, at most, that a configuration may name."""
COLUMNS = {1: ("text",), 2: ("premise", "hypothesis")}
"""By the number of texts of a sample: the options of one; the columns of a file that nothing names."""


@dataclass(frozen=True)
class Samples:
    """N samples: their texts, and the row of the file that each stands in [N]."""

    texts: Lists
    rows: list[int]


def read(file: Path, columns: Sequence[str]) -> Samples:
    """The samples of a table file.

    As in training one text of a pair may be empty. Raises UserError for an unknown kind of file, a
    missing column, a row without text, an empty file.
    """
    if not file.name.endswith(reading.SUFFIXES):
        raise UserError(
            f"{file}: is of no known kind ({', '.join(reading.FORMATS)}, or those with .gz)."
        )
    found = Samples(tuple([] for _ in columns), [])
    for number, row in reading.rows(file):
        for name, cells in zip(columns, found.texts, strict=True):
            if name not in row and not found.rows:
                hint = nearest(name, row)
                raise UserError(f"{file}: has no column '{name}' (choose with --columns){hint}")
            cells.append(_text(row.get(name), f"{file}: row {number}", name))
        reading.check_texts([cells[-1] for cells in found.texts], f"{file}: row {number}")
        found.rows.append(number)
    if not found.rows:
        raise UserError(f"{file}: holds no row.")
    return found


def _text(cell: object, place: str, name: str) -> str:
    if cell is None:
        raise UserError(f"{place} has no text in '{name}'.")
    return checking.text_of(cell, place, name)


def length_limit(questions: Questions, path: Path, given: int | None) -> int:
    """Tokens after which a sample is cut: as given, else as trained, else 128 or all positions.

    Raises UserError for a length that the model has no positions for or that leaves no text.
    """
    model, least = questions.model, questions.least
    limit = given or _trained(model, path, encoders.TRAINED_LENGTH, range(1, LONGEST + 1)) or MAX_LENGTH
    if limit < least:
        place = (
            f"--max_length {limit}"
            if given
            else f"{path}/config.json: {encoders.TRAINED_LENGTH} {limit}"
        )
        what = "a text" if questions.texts == 1 else "a pair"
        raise UserError(f"{place}: {what} needs at least {least} tokens.")
    positions = questions.usable(limit)
    if given and limit > positions:
        raise UserError(f"--max_length {given}: {path} has {positions} positions.")
    return positions


def _trained(model: PreTrainedModel, path: Path, key: str, valid: range) -> int | None:
    """A whole number that the model's configuration keeps of the training; None if it has none.

    Raises UserError for any other value.
    """
    value: object = getattr(model.config, key, None)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value in valid):
        return value
    raise UserError(
        f"{path}/config.json: '{key}' is {json.dumps(value, default=str)}, but it must be a whole "
        f"number from {valid.start} to {valid.stop - 1}; correct it or remove the key."
    )


def probabilities(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    samples: Samples,
    max_length: int,
    batch_size: int,
    keep: int | None = None,
) -> NDArray[np.float64]:
    """Probabilities [N, C] of the samples, cut as in training; keep: the text that is cut last.

    The model must be in evaluation mode; it runs on the device where its weights are.
    Raises UserError if a score is not finite, or a token of a text has no embedding.
    """
    encoded = tokens.cut(tokenizer, max_length, keep).lists(samples.texts)
    _check_ids(model, tokenizer, samples, encoded["input_ids"])
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    scores = np.zeros((len(samples.rows), len(model.config.id2label or {})))
    with torch.inference_mode():
        for chosen in scoring_batches(lengths, batch_size):
            batch = pad(
                {key: [values[i] for i in chosen] for key, values in encoded.items()},
                tokenizer.pad_token_id,
                tokenizer.padding_side,
            )
            logits = model(**{key: value.to(model.device) for key, value in batch.items()}).logits
            scores[chosen] = logits.double().softmax(dim=1).cpu().numpy()
    if not np.isfinite(scores).all():
        raise UserError("the model's scores are not finite: its weights are damaged.")
    return scores


def _check_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    samples: Samples,
    encoded: Sequence[Sequence[int]],
) -> None:
    table = embeddings(model)
    for row, ids in zip(samples.rows, encoded, strict=True):
        if table is not None and (largest := max(ids, default=0)) >= table:
            raise tokens.without_embedding(tokenizer, largest, f"row {row}")


def answer(labels: Sequence[str], values: NDArray[np.float64]) -> dict[str, object]:
    """Label and probabilities by label of one sample; labels and values [C]."""
    shown = {label: round(float(value), 6) for label, value in zip(labels, values, strict=True)}
    return {"label": labels[int(values.argmax())], "probabilities": shown}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line; raises UserError for options that contradict each other."""
    parser = argparse.ArgumentParser(
        prog="python -m compress.predict", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "model_dir",
        type=Path,
        metavar="MODEL_DIR",
        help="directory of a classifier, or an id on the hub",
    )
    parser.add_argument("--text", help="a single text")
    parser.add_argument("--premise", help="first text of one pair")
    parser.add_argument("--hypothesis", help="second text of one pair")
    parser.add_argument("--file", type=Path, help=f"table ({', '.join(reading.FORMATS)}, .gz)")
    parser.add_argument(
        "--columns", nargs="+", metavar="COLUMN", help="its one or two columns (default: as trained)"
    )
    parser.add_argument("--output", type=Path, help="write the JSON lines there")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--max_length", type=int, help="tokens of a sample (default: as trained)")
    options = parser.parse_args(arguments)
    _check_sample(options)
    for name in ("columns", "output"):
        if options.file is None and getattr(options, name) is not None:
            raise UserError(f"--{name}: takes effect with --file only.")
    columns = options.columns or []
    if len(columns) > 2:
        raise UserError(f"--columns: names {len(columns)} columns; a sample has one text or two.")
    if len(set(columns)) < len(columns):
        raise UserError(f"--columns: names '{columns[0]}' twice; a pair has two texts.")
    for name in ("batch_size", "max_length"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: must be at least 1.")
    return options


def _check_sample(options: argparse.Namespace) -> None:
    """Raise UserError unless the options give one text, one whole pair, or a file."""
    pair = [f"--{name}" for name in COLUMNS[2] if getattr(options, name) is not None]
    given = [*pair, *(["--text"] if options.text is not None else [])]
    if options.file is not None and given:
        raise UserError(f"{given[0]} and --file: give one sample or a file of them, not both.")
    if options.text is not None and pair:
        raise UserError(f"{pair[0]} and --text: give a single text or a pair, not both.")
    if options.file is None and options.text is None and len(pair) < 2:
        missing = " and ".join(f"--{name}" for name in COLUMNS[2] if f"--{name}" not in pair)
        raise UserError(
            f"{missing}: missing; give both texts of a pair, a single --text, or a --file of samples."
        )


def texts_of(model: PreTrainedModel, options: argparse.Namespace) -> int:
    """How many texts a sample has: as the model was trained, else as the options give, else two.

    Raises UserError where the options give another number than the model's, or that is no number.
    """
    _trained(model, options.model_dir, encoders.TRAINED_TEXTS, range(1, 3))
    known = encoders.texts_of(model.config)
    if options.file is None:
        given, option = (1, "--text") if options.text is not None else (2, "--premise and --hypothesis")
    elif options.columns is not None:
        given, option = len(options.columns), f"--columns {' '.join(options.columns)}"
    else:
        return known or 2
    if known is not None and given != known:
        words = {1: "--text, or one column", 2: "--premise and --hypothesis, or two columns"}
        classifies = f"{options.model_dir} classifies {KINDS[known]}"
        raise UserError(f"{option}: {classifies}; give {words[known]} of a --file.")
    return given


def columns_of(model: PreTrainedModel, path: Path, texts: int) -> Sequence[str]:
    """The columns of the training's texts; of a model that names none, `COLUMNS`.

    Raises UserError where the configuration names something else than one column for each text.
    """
    value: object = getattr(model.config, encoders.TRAINED_COLUMNS, None)
    if value is None:
        return COLUMNS[texts]
    names = value if isinstance(value, list) else []
    if all(isinstance(name, str) for name in names) and len(names) == len(set(names)) == texts:
        return names
    raise UserError(
        f"{path}/config.json: '{encoders.TRAINED_COLUMNS}' is {json.dumps(value, default=str)}, but it "
        f"must be a list of {texts} names of columns; correct it or remove the key."
    )


def lines(options: argparse.Namespace) -> Iterator[str]:
    """What `main` prints, line by line.

    For one sample its label and each label's probability in percent, for a file one JSON object a row.
    """
    options.model_dir = encoders.directory(str(options.model_dir), "MODEL_DIR")
    model = encoders.load_compressed(options.model_dir)
    texts = texts_of(model, options)
    tokenizer = encoders.load_tokenizer(options.model_dir)
    probe.fit(model, tokenizer, str(options.model_dir), texts).settle(tokenizer)
    keep = _trained(model, options.model_dir, encoders.TRAINED_KEEP, range(2))
    questions = Questions(model, tokenizer, str(options.model_dir), texts)
    limit = length_limit(questions, options.model_dir, options.max_length)
    if options.file is None:
        samples = _sample(options, texts)
    else:
        columns = options.columns or columns_of(model, options.model_dir, texts)
        samples = read(options.file, columns)
    nn.Module.to(model, encoders.find_device(options.device))
    values = probabilities(model, tokenizer, samples, limit, options.batch_size, keep)
    names = [str(name) for _, name in sorted((model.config.id2label or {}).items())]
    if options.file is None:
        yield names[int(values[0].argmax())]
        width = max(len(name) for name in names)
        yield from (
            f"  {name:{width}}  {100 * p:5.1f} %" for name, p in zip(names, values[0], strict=True)
        )
        return
    for row, probability in zip(samples.rows, values, strict=True):
        yield json.dumps({"row": row, **answer(names, probability)}, ensure_ascii=False)


def _sample(options: argparse.Namespace, texts: int) -> Samples:
    """The one sample of the command line."""
    place = "the command line"
    given = [_text(getattr(options, name), place, f"--{name}") for name in COLUMNS[texts]]
    reading.check_texts(given, place)
    return Samples(tuple([text] for text in given), [1])


def _check_output(output: Path, file: Path) -> None:
    """Raise UserError for an output file that cannot be one, or that is the file of samples itself."""
    if not output.absolute().parent.is_dir():
        raise UserError(f"--output {output}: its folder does not exist.")
    if output.is_dir():
        raise UserError(f"--output {output}: cannot be written (it is a folder).")
    if output.exists() and file.exists() and output.samefile(file):
        raise UserError(f"--output {output}: is the file of samples itself; choose another name.")


def write(text: str, file: Path) -> None:
    """Write the file whole or not at all; UserError if it cannot be written.

    A link stays one, and what is no file, such as /dev/null or a pipe, is written to and not replaced.
    """
    try:
        if file.exists() and not file.is_file():
            file.write_text(text, encoding="utf-8")
            return
        with artefacts.replacing(file.resolve()) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {file}: cannot be written ({error.strerror or error}).") from None


def tell(text: str) -> None:
    """Print it; who reads it, such as `head`, may have enough before its end."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the rest goes at exit


def main(arguments: list[str] | None = None) -> None:
    """Print or write the answers that the command line asks for."""
    options = parse(arguments)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.output is not None:
        _check_output(options.output, options.file)
    text = "".join(f"{line}\n" for line in lines(options))
    if options.output is None:
        tell(text)
    else:
        write(text, options.output)


if __name__ == "__main__":
    interrupts.run(main)
