"""A teacher of which only probabilities are given: what stages make of `teacher.probabilities`."""

from pathlib import Path
from typing import Any

import numpy as np

from compress.configuration.used_keys import OURS
from compress.errors import UserError
from compress.files import arrays, integrity
from compress.runtime import parallel
from compress.runtime.long_work import LongWork
from compress.scoring import measures, probabilities
from compress.scoring.probabilities import KEY, Found
from compress.stages.context import Context

READS = (KEY, *(f"{OURS}.task.{key}" for key in ("train_samples", "eval_samples", "drop_overlap")))
"""Keys that a result depends on: the folder, by its content, and those that say which rows are used."""


def contents(run: Context) -> dict[str, str]:
    """Checksum of each configured file, by split; on the main rank.

    Raises UserError if `task.id` names a column that none of their data has.
    """
    name = run.config.robust.teacher.probabilities
    if name is None:
        return {}
    found, column = probabilities.files(name, run.data.splits()), run.data.task.id
    if column is not None and not any(run.data.splits()[split].ids for split in found):
        raise UserError(
            f"{probabilities.IDS}: no file of the data of {', '.join(found)} has a column '{column}'."
        )
    return {split: integrity.digest(file) for split, file in found.items()}


def facts(run: Context, *names: str) -> dict[str, Any]:
    """What the probabilities of these splits depend on, as JSON."""
    splits, column = run.data.splits(), run.data.task.id
    by_id = {name: splits[name].ids for name in names if splits[name].ids}
    return {
        "labels": run.data.labels,
        "files": {name: run.given.get(name) for name in names},
        "data": {name: [run.data.fingerprint(name), splits[name].set_size] for name in names},
        **({"ids": [column, by_id]} if by_id else {}),
    }


def read(run: Context, name: str, out: Found) -> None:
    """Fill `out` [N, C] with the probabilities of a split, on the calling rank alone.

    Raises UserError for a file that `probabilities.read` refuses, that has changed, or whose balanced
    accuracy on train (on dev where train is not given) is not above chance.
    """
    split, robust = run.data.splits()[name], run.config.robust
    file = probabilities.files(str(robust.teacher.probabilities), [name])[name]
    work = LongWork(f"probabilities of {name}", "rows", split.set_size)
    processes = robust.processes or parallel.available()
    wanted = probabilities.Wanted.of(name, split, run.data.task.id)
    probabilities.read(file, wanted, run.data.labels, out, processes, work.done)
    if integrity.digest(file) != run.given[name]:
        raise UserError(f"{file}: has changed while it was read; start again.")
    if name == "train" or (name == "dev" and "train" not in run.given):
        _check_order(file, name, out, run)


def _check_order(file: Path, name: str, found: Found, run: Context) -> None:
    """Raise UserError unless the balanced accuracy is above chance, 1 / classes.

    The plain accuracy would refuse a good teacher where one class is rare.
    """
    labels = run.data.splits()[name].labels
    balanced = measures.Answers(found.argmax(axis=1), labels).value("balanced_accuracy")
    at_chance = 1 / len(np.unique(labels))
    if balanced <= at_chance:
        raise UserError(
            f"{file}: its most probable class is right for {balanced:.1%} of the samples of a class of "
            f"{name}, on average, which is not above chance ({at_chance:.1%}), so the columns are "
            "probably called after other classes or the rows belong to other samples "
            f"({', '.join(run.data.labels)}; a column '{probabilities.ROW}' counts from 0)."
        )


def write(run: Context, name: str, file: Path) -> None:
    """Write the probabilities of a split as `.npy`, [N, C], float32, without holding them."""
    shape = (len(run.data.splits()[name]), len(run.data.labels))
    out = arrays.new(file, shape)
    read(run, name, out)
    out.flush()


def logs(run: Context, name: str) -> Found:
    """Log-probabilities [N, C] of a split; a probability of 0 counts as the smallest number."""
    out = np.empty((len(run.data.splits()[name]), len(run.data.labels)))
    read(run, name, out)
    return np.log(np.maximum(out, np.finfo(np.float64).tiny))
