"""Stage partial encoder: the encoder trained on one text of each pair, a bias model.

What it solves from the hypothesis (claim, first question) alone is solved without comparing the texts
(He et al. 2019 and Karimi Mahabadi et al. 2020 take such a model of the hypothesis). It knows more
words than the bags of words of `shallow.Shallow(partial=True)`, because the encoder is pre-trained. One
is trained for each fold, on the other folds.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from compress.data import draw
from compress.data.columns import Columns
from compress.errors import UserError
from compress.stages.context import Context
from compress.stages.encoder_bias import Cut, EncoderBias
from compress.stages.stage import Stage
from compress.stages.tokenised import Tokens
from compress.stages.workspace import Artefact

FOLDS, EPOCHS, MOST = 4, 2, 50_000
"""MOST: samples that each is trained on at most."""
AT_ONCE = 1 << 18
"""Samples whose fold is found at once."""
Hashes = NDArray[np.uint64]


class PartialEncoder(EncoderBias):
    """The encoder trained on the text of a pair that the task names, `FOLDS` times.

    Samples with the same words in that text are in one fold: a claim is often that of several samples,
    with one label, which a model of the others would only remember.
    """

    name = "partial_encoder"
    epochs = EPOCHS

    def cuts(self, columns: Columns, seed: int) -> Iterator[Cut]:
        """One for each fold: at most `MOST` samples of the others, and the fold.

        Raises UserError if the text is the same everywhere.
        """
        folds = folds_of(columns, seed)
        if (folds == folds[0]).all():
            raise UserError(
                "The bias model 'partial_encoder' sees one text of each pair, and that has the same "
                "words in too many samples to train on some and judge others; take another loss.bias, "
                "such as 'shallow'."
            )
        for number in range(FOLDS):
            others, judged = np.flatnonzero(folds != number), np.flatnonzero(folds == number)
            if len(judged):
                yield others[draw.evenly(len(others), MOST)], judged

    def sizes(self, count: int) -> list[int]:
        """About so many in each fold."""
        return [min(MOST, count * (FOLDS - 1) // FOLDS)] * FOLDS

    def settings(self) -> dict[str, int]:
        """Folds, epochs and samples."""
        return {"folds": FOLDS, "epochs": EPOCHS, "samples": MOST}

    def needs(self, run: Context) -> tuple[Stage, ...]:
        """The one text in the encoder's tokens."""
        return (_tokens(run),)

    def columns(self, run: Context, made: Mapping[str, Artefact]) -> Columns:
        """The one text alone."""
        return _tokens(run).columns(made[_tokens(run).label])


def _tokens(run: Context) -> Tokens:
    return Tokens("train", run.encoder.key, run.encoder.tokenizer, run.data.task.partial)


def folds_of(columns: Columns, seed: int) -> NDArray[np.int8]:
    """The fold of each sample [N]; the same for two that have the same tokens, in whatever order."""
    folds = np.empty(len(columns), np.int8)
    for start in range(0, len(columns), AT_ONCE):
        chosen = slice(start, min(start + AT_ONCE, len(columns)))
        lengths = columns.lengths[chosen].astype(np.int64)
        ids = columns.tokens["input_ids"][columns.places(np.arange(chosen.start, chosen.stop))]
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mixed(ids.astype(np.uint64)))])
        ends = np.cumsum(lengths)
        found = sums[ends] - sums[ends - lengths]
        folds[chosen] = _mixed(found + np.uint64(seed)) % np.uint64(FOLDS)
    return folds


def _mixed(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele et al. 2014), so that different values scatter."""
    values = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
