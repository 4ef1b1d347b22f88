"""Classify pairs of texts with a model directory, from the command line.

python -m compress.predict MODEL_DIR --premise "A man sleeps." --hypothesis "Nobody is awake."
python -m compress.predict MODEL_DIR --file pairs.tsv --columns claim evidence --output labels.jsonl

Prints the label and the probability of every label; a file of pairs gives one JSON line a row. Takes
any directory that `load_compressed` takes.
"""

import argparse
import json
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
from compress.errors import UserError, nearest
from compress.files import artefacts
from compress.models import encoders, model_questions, probe
from compress.runtime import interrupts

MAX_LENGTH = 128
LONGEST = 100_000
"""Tokens of a pair, at most, that a configuration may name."""
COLUMNS = ("premise", "hypothesis")


@dataclass(frozen=True)
class Pairs:
    """N pairs of texts: two lists [N], and the row of the file that each stands in [N]."""

    first: list[str]
    second: list[str]
    rows: list[int]


def read(file: Path, columns: tuple[str, str]) -> Pairs:
    """The pairs of a table file.

    As in training one text of a pair may be empty. Raises UserError for an unknown kind of file, a
    missing column, a row without text, an empty file.
    """
    if not file.name.endswith(reading.SUFFIXES):
        raise UserError(
            f"{file}: is of no known kind ({', '.join(reading.FORMATS)}, or those with .gz)."
        )
    pairs = Pairs([], [], [])
    for number, row in reading.rows(file):
        for name, cells in zip(columns, (pairs.first, pairs.second), strict=True):
            if name not in row and not pairs.rows:
                hint = nearest(name, row)
                raise UserError(f"{file}: has no column '{name}' (choose with --columns){hint}")
            cells.append(_text(row.get(name), f"{file}: row {number}", name))
        reading.check_pair(pairs.first[-1], pairs.second[-1], f"{file}: row {number}")
        pairs.rows.append(number)
    if not pairs.rows:
        raise UserError(f"{file}: holds no row.")
    return pairs


def _text(cell: object, place: str, name: str) -> str:
    if cell is None:
        raise UserError(f"{place} has no text in '{name}'.")
    return checking.text_of(cell, place, name)


def length_limit(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path, given: int | None
) -> int:
    """Tokens after which a pair is cut: as given, else as trained, else 128 or the model's positions.

    Raises UserError for a length that the model has no positions for or that leaves no text.
    """
    least = tokenizer.num_special_tokens_to_add(pair=True) + 2
    limit = given or _trained(model, path, encoders.TRAINED_LENGTH, range(1, LONGEST + 1)) or MAX_LENGTH
    if limit < least:
        place = (
            f"--max_length {limit}"
            if given
            else f"{path}/config.json: {encoders.TRAINED_LENGTH} {limit}"
        )
        raise UserError(f"{place}: a pair needs at least {least} tokens.")
    positions = model_questions.Questions(model, tokenizer, str(path)).usable(limit)
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
    pairs: Pairs,
    max_length: int,
    batch_size: int,
    keep: int | None = None,
) -> NDArray[np.float64]:
    """Probabilities [N, C] of the pairs, cut as in training; keep: the text that is cut last.

    The model must be in evaluation mode; it runs on the device where its weights are.
    Raises UserError if a score is not finite.
    """
    encoded = tokens.cut(tokenizer, max_length, keep).lists((pairs.first, pairs.second))
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    scores = np.zeros((len(pairs.rows), len(model.config.id2label or {})))
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


def answer(labels: Sequence[str], values: NDArray[np.float64]) -> dict[str, object]:
    """Label and probabilities by label of one pair; labels and values [C]."""
    shown = {label: round(float(value), 6) for label, value in zip(labels, values, strict=True)}
    return {"label": labels[int(values.argmax())], "probabilities": shown}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line; raises UserError for options that contradict each other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model_dir", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--premise", help="first text of one pair")
    parser.add_argument("--hypothesis", help="second text of one pair")
    parser.add_argument("--file", type=Path, help=f"table of pairs ({', '.join(reading.FORMATS)}, .gz)")
    parser.add_argument("--columns", nargs=2, metavar=("FIRST", "SECOND"), help="its text columns")
    parser.add_argument("--output", type=Path, help="write the JSON lines there")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--max_length", type=int, help="tokens of a pair (default: as trained)")
    options = parser.parse_args(arguments)
    given = [f"--{name}" for name in COLUMNS if getattr(options, name) is not None]
    if options.file is not None and given:
        raise UserError(f"{given[0]} and --file: give one pair or a file of pairs, not both.")
    if options.file is None and len(given) < 2:
        missing = " and ".join(f"--{name}" for name in COLUMNS if f"--{name}" not in given)
        raise UserError(f"{missing}: missing; give both texts of a pair, or a --file of pairs.")
    for name in ("columns", "output"):
        if options.file is None and getattr(options, name) is not None:
            raise UserError(f"--{name}: takes effect with --file only.")
    if options.columns is not None and options.columns[0] == options.columns[1]:
        raise UserError(f"--columns: names '{options.columns[0]}' twice; a pair has two texts.")
    for name in ("batch_size", "max_length"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: must be at least 1.")
    return options


def lines(options: argparse.Namespace) -> Iterator[str]:
    """What `main` prints, line by line.

    For one pair its label and each label's probability in percent, for a file one JSON object a row.
    """
    model = encoders.load_compressed(options.model_dir)
    tokenizer = encoders.load_tokenizer(options.model_dir)
    probe.fit(model, tokenizer, str(options.model_dir)).settle(tokenizer)
    keep = _trained(model, options.model_dir, encoders.TRAINED_KEEP, range(2))
    limit = length_limit(model, tokenizer, options.model_dir, options.max_length)
    if options.file is None:
        premise, hypothesis = (
            _text(getattr(options, name), "the command line", f"--{name}") for name in COLUMNS
        )
        reading.check_pair(premise, hypothesis, "the command line")
        pairs = Pairs([premise], [hypothesis], [1])
    else:
        pairs = read(options.file, tuple(options.columns or COLUMNS))
    nn.Module.to(model, encoders.find_device(options.device))
    values = probabilities(model, tokenizer, pairs, limit, options.batch_size, keep)
    names = [str(name) for _, name in sorted((model.config.id2label or {}).items())]
    if options.file is None:
        yield names[int(values[0].argmax())]
        width = max(len(name) for name in names)
        yield from (
            f"  {name:{width}}  {100 * p:5.1f} %" for name, p in zip(names, values[0], strict=True)
        )
        return
    for row, probability in zip(pairs.rows, values, strict=True):
        yield json.dumps({"row": row, **answer(names, probability)}, ensure_ascii=False)


def _check_output(output: Path, pairs: Path) -> None:
    """Raise UserError for an output file that cannot be one, or that is the file of pairs itself."""
    if not output.absolute().parent.is_dir():
        raise UserError(f"--output {output}: its folder does not exist.")
    if output.is_dir():
        raise UserError(f"--output {output}: cannot be written (it is a folder).")
    if output.exists() and pairs.exists() and output.samefile(pairs):
        raise UserError(f"--output {output}: is the file of pairs itself; choose another name.")


def write(text: str, file: Path) -> None:
    """Write the file whole or not at all; UserError if it cannot be written."""
    try:
        with artefacts.replacing(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {file}: cannot be written ({error.strerror or error}).") from None


def main(arguments: list[str] | None = None) -> None:
    """Print or write the answers that the command line asks for."""
    options = parse(arguments)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.output is not None:
        _check_output(options.output, options.file)
    text = "".join(f"{line}\n" for line in lines(options))
    if options.output is None:
        sys.stdout.write(text)
    else:
        write(text, options.output)


if __name__ == "__main__":
    interrupts.run(main)
