"""Stage tokens: each split in the tokens of each model that the run uses, kept in the cache."""

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from compress.configuration.config import Config
from compress.configuration.used_keys import OURS
from compress.data import columns, tokens
from compress.data.columns import Columns
from compress.data.cutting import LENGTHS, LOST, Cut, CutOff, Fast
from compress.data.splits import Split
from compress.files import artefacts
from compress.models import encoders, joining
from compress.runtime import parallel
from compress.runtime.long_work import LongWork
from compress.stages import given_models
from compress.stages.context import Context, Encoder
from compress.stages.stage import Fill, Stage, obtain
from compress.stages.workspace import Artefact


@dataclass(frozen=True)
class Tokens(Stage[Context]):
    """`columns/`: one split in the tokens of a model; `cut.json`: what was cut off (`CutOff`).

    fingerprint: of the model; text: the number of the one text of each pair that counts, None: both.
    """

    split: str
    fingerprint: str
    tokenizer: PreTrainedTokenizerBase
    text: int | None = None
    name = "tokens"
    packages = ("transformers",)

    @property
    def label(self) -> str:
        """With the split."""
        return f"{self.name} of {'' if self.text is None else 'one text of '}{self.split}"

    def reads(self, config: Config) -> tuple[str, ...]:
        """The length."""
        return (f"{OURS}.task.max_length",)

    def facts(self, run: Context) -> dict[str, Any]:
        """Content of the split, tokenizer, which text is cut last."""
        return {
            "split": run.data.splits()[self.split].fingerprint(),
            "model": self.fingerprint,
            "names": list(self.tokenizer.model_input_names),
            "keep": self._keep(run),
            "format": "flat, 16-bit labels, cut.json",
            **({} if self.text is None else {"text": self.text}),
        }

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Tokenise the texts."""
        split, robust = run.data.splits()[self.split], run.config.robust
        if self.text is not None:
            split = replace(split, texts=split.texts.alone(self.text))
        processes = robust.processes or parallel.available()
        work = LongWork(self.label, "samples", len(split))

        def fill(folder: Path) -> None:
            cut = tokens.cut(self.tokenizer, robust.task.max_length, self._keep(run))
            largest = largest_id(self.tokenizer)
            off = encode(split, cut, largest, folder / "columns", processes, work)
            artefacts.write_json(folder / "cut.json", vars(off))

        return fill

    def _keep(self, run: Context) -> int | None:
        """The text of a pair that is cut last."""
        return run.data.task.keep if self.text is None else None

    def columns(self, made: Artefact) -> Columns:
        """What it has made, mapped."""
        tokenizer = self.tokenizer
        return Columns.open(made.path / "columns", tokenizer.pad_token_id, tokenizer.padding_side)


def largest_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The largest id that a token may have."""
    return max(tokenizer.get_vocab().values())


def _sendable(cut: Cut) -> bool:
    try:
        pickle.dumps(cut)
    except Exception:  # noqa: BLE001  the library raises no more than that
        return False
    return True


def encode(
    split: Split, cut: Cut, largest: int, folder: Path, processes: int = 1, work: LongWork | None = None
) -> CutOff:
    """Tokenise a split into a folder that `Columns.open` maps.

    A slow tokenizer, and one with a part in Python that cannot be sent, do so in this process.
    """
    several = processes if isinstance(cut.tokenizer, Fast) and _sendable(cut) else 1

    def parts() -> Iterator[columns.Part]:
        done = 0
        for part in parallel.in_order(cut, split.texts.blocks(), several):
            done += len(part[LENGTHS])
            lost, kept = (part[name].sum(dtype=np.int64) for name in (LOST, LENGTHS))
            totals[:] += np.count_nonzero(part[LOST]), lost, lost + kept
            if work is not None:
                work.done(done)
            yield {name: values for name, values in part.items() if name != LOST}

    totals = np.zeros(3, np.int64)
    columns.write(folder, parts(), split.labels, largest)
    samples, lost, whole = totals.tolist()
    return CutOff(samples, len(split), lost, whole)


def encoders_of(
    run: Context, folders: Mapping[str, Path], tokenizers: Mapping[str, PreTrainedTokenizerBase]
) -> dict[str, Encoder]:
    """The splits in the tokens of each model, by key; no `teacher.model` that has the run's tokens.

    folders, tokenizers: of the models, by their keys in `robust_compression`.
    """
    given = tokenizers.get("teacher.model")
    same = given is not None and alike(tokenizers["model"], given)
    encoded = {
        key: _encoder(run, folders[key], tokenizer)
        for key, tokenizer in tokenizers.items()
        if key != "teacher.model" or not same
    }
    for key, encoder in encoded.items():
        given_models.check_vocabulary(key, encoder)
    return encoded


def alike(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two models can read the same tokens, padded on the same side."""
    return one.padding_side == other.padding_side and tokens.equal(one, other)


def _encoder(run: Context, folder: Path, tokenizer: PreTrainedTokenizerBase) -> Encoder:
    key = joining.key(encoders.fingerprint(folder), tokenizer)
    found, cut = dict[str, Columns](), dict[str, CutOff]()
    for name in run.data.splits():
        stage = Tokens(name, key, tokenizer)
        made = obtain(stage, run)
        cut[name] = CutOff(**artefacts.read_json(made.path / "cut.json"))
        found[name] = stage.columns(made)
    return Encoder(folder, key, tokenizer, found, cut)
