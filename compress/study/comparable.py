"""Whether results may stand in one table: same data, figure and settings, a teacher for each seed."""

from collections.abc import Sequence

import pandas as pd

from compress.errors import UserError
from compress.scoring import measures
from compress.study.result_rows import MODEL, Row

Part = tuple[str, str]
"""A set and a subset of it, empty for all of it."""
TRAIN: Part = ("train", "")
DEV: Part = ("dev", "")
PLAIN = ("", "")
"""Compression and mitigation of the teacher of the plain loss."""


def sizes(task: str, rows: pd.DataFrame) -> dict[Part, int]:
    """Samples of each set and subset.

    Raises UserError without dev, or if two models were evaluated on different data.
    """
    found: dict[Part, int] = {}
    wholes: dict[Part, int] = {}
    columns = rows[["set", "subset", "train_samples", "set_size", "samples"]]
    for name, subset, *counts in columns.itertuples(index=False, name=None):
        parts = ((wholes, TRAIN), (wholes, (f"all of {name}", "")), (found, (name, subset)))
        for (known, key), size in zip(parts, counts, strict=True):
            if (before := known.setdefault(key, size)) != size:
                raise UserError(
                    f"{task}: {key[0]} has {before} samples in one run and {size} in another; results "
                    "of different data cannot stand in one table."
                )
    for model, own in rows.groupby(list(MODEL), sort=False):
        if missing := sorted(set(found) - set(zip(own["set"], own["subset"], strict=True))):
            raise UserError(
                f"{'-'.join(filter(None, map(str, model)))} was not evaluated on {missing[0][0]}, "
                "others were; delete its metrics.json and run the study again."
            )
    if DEV not in found:
        raise UserError(f"{task}: the results have no figures on dev, which every table needs.")
    return found


def check_metric(task: str, rows: pd.DataFrame) -> None:
    """Raise UserError if Delta is taken of one figure in some rows and of another in others."""
    found = sorted({one if isinstance(one, str) else measures.ACCURACY for one in rows["metric"]})
    if len(found) > 1:
        raise UserError(
            f"{task}: robust_compression.evaluation.metric is {found[0]} in one run and {found[1]} in "
            "another; results of both cannot stand in one table."
        )


def check_settings(task: str, rows: pd.DataFrame) -> None:
    """Raise UserError if seeds of a student were made with different settings.

    Files of earlier versions do not say with which.
    """
    known = rows[(rows["role"] == "student") & rows["settings"].notna()]
    for name, own in known.groupby(["compression", "mitigation"], sort=False):
        one = own.iloc[0]
        for other in own.loc[own["settings"] != one["settings"], "seed"].iloc[:1]:
            raise UserError(
                f"{task}: {'-'.join(name)} has other settings, another encoder or another version of "
                f"this program with seed {other} than with seed {one['seed']}, so they cannot be "
                "averaged; make one of them again with what the other has, with "
                "robust_compression.precision for the whole study if that is 'auto', which goes by the "
                "machine."
            )


def with_teacher(rows: Sequence[Row]) -> tuple[list[Row], dict[str, str]]:
    """The rows of seeds that have the teacher that all are compared with; why others are left out.

    That is the one of the plain loss, or the first where none is. Its runs of a seed may have failed
    while those with another teacher have not. The reasons are by the name of the run. Raises UserError
    without any row, and for a task without any teacher, such as of a table that somebody has filtered.
    """
    seeds: dict[str, dict[tuple[str, str], set[int]]] = {}
    for row in rows:
        if row["role"] == "teacher":
            name = (row["compression"], row["mitigation"])
            seeds.setdefault(row["task"], {}).setdefault(name, set()).add(row["seed"])
    if not rows:
        raise UserError("the results hold no row, so there is nothing to report.")
    if lost := {row["task"] for row in rows} - seeds.keys():
        raise UserError(f"{min(lost)}: the results have no teacher to compare its students with.")
    known = {task: of.get(PLAIN, next(iter(of.values()))) for task, of in seeds.items()}
    alone = {
        f"{row['task']}/{row['compression']}-{row['mitigation']}-seed{row['seed']}": (
            f"no run of seed {row['seed']} has finished with the teacher that all are compared with"
        )
        for row in rows
        if row["role"] == "student" and row["seed"] not in known[row["task"]]
    }
    return [row for row in rows if row["seed"] in known[row["task"]]], alone
