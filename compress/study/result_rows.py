"""results.parquet: what a study measured, one row a model and set, with the outcome of every sample.

Everything that the report shows is computed from these rows alone, so files of several machines can be
put together.
"""

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from compress.configuration import used_keys
from compress.errors import UserError
from compress.files import artefacts, ownership
from compress.runtime import provenance
from compress.scoring import measures
from compress.scoring.measures import Answers
from compress.study.plan import Run

VERSION = "7"
_SETTINGS = {"settings": pa.string()}
_MEASURED = {"metric": pa.string(), "answers": pa.binary()}
ADDED = {
    "4": {"versions": pa.string(), **_MEASURED, **_SETTINGS},
    "5": {**_MEASURED, **_SETTINGS},
    "6": _SETTINGS,
}
"""Version of a file that is read too -> the columns that it lacks."""
TEACHER = "teacher"
"""Compression of a teacher of another loss."""
MODEL = ("task", "seed", "role", "compression", "mitigation")
COLUMNS = {
    pa.string(): "task data role compression mitigation set subset device versions metric settings",
    pa.int64(): "seed samples set_size train_samples params nonzero_params",
    pa.float64(): "accuracy sparsity seconds difficulty_seconds evaluation_seconds agreement auroc "
    "shallow_auroc alpha",
    pa.bool_(): "vanished at_chance",
    pa.binary(): "hits answers",
}
SCHEMA = pa.schema(
    [(name, kind) for kind, names in COLUMNS.items() for name in names.split()],
    metadata={"version": VERSION},
)
"""A row: task (name of its file), data (`task.name`), seed, role (teacher or student), compression,
mitigation, set (dev, ood_<name>), subset (empty: the whole set; of dev `easy` and `hard` too), samples,
accuracy (fraction), hits (bits, one a sample), and the figures of the model or run that it belongs to,
repeated. set_size: samples that the whole set has, where only some were scored; train_samples: that it
was trained on; auroc, shallow_auroc: of the variance and of the shallow classifier's error for the
known truth; seconds: of training; evaluation_seconds: of the run, on the rows of its student; device,
versions: with which the model was made; metric: what Delta is taken of, null for the accuracy; answers:
gold and then predicted classes of a whole set, 16 bits each, null where hits suffice; settings: a hash
of what the runs of a student have in common whatever the seed and the machine, null for teachers.
"""
Row = dict[str, Any]


def collect(runs: Iterable[Run]) -> list[Row]:
    """The rows of finished runs; a teacher shared by several runs stands once for each seed.

    So do the agreement, AUROC and seconds of the difficulty, which runs that share a teacher share. A
    teacher that was trained with another loss than the plain one has `TEACHER` as its compression and
    the loss (`Run.teacher`) as its mitigation.

    Raises UserError for a run whose files are damaged, or whose teacher or difficulty is not that of
    the other runs of its task and seed.
    """
    rows: list[Row] = []
    read = [(run, *_files(run)) for run in runs]
    first: dict[tuple[str, int, str, str], tuple[str, str]] = {}
    for run, metrics, _ in read:
        for what in [name for name in ("teacher", "difficulty") if name in metrics["keys"]]:
            key = metrics["keys"][what]
            expected, name = first.setdefault((run.task, run.seed, run.teacher, what), (key, run.name))
            if key != expected:
                raise UserError(
                    f"{run.output_dir}: has another {what} than {name} (its data, model or settings "
                    "have changed); delete one of them and run the study again."
                )
    _check_teachers((run, arrays) for run, _, arrays in read)
    teachers = {  # a run that has a difficulty before one that has none
        tuple(shared): name
        for what in ("teacher", "difficulty")
        for (*shared, of), (_, name) in first.items()
        if of == what
    }
    for run, metrics, arrays in read:
        if teachers[run.task, run.seed, run.teacher] == run.name:
            rows += _model(run, metrics, arrays, "teacher")
        rows += _model(run, metrics, arrays, "student")
    return rows


def _check_teachers(read: Iterable[tuple[Run, Mapping[str, NDArray[Any]]]]) -> None:
    """Raise UserError if runs of one task, seed and teacher were not compared with the same weights.

    The key of a teacher that was deleted and made again is the same, what it gets right may not be.
    Sets of other sizes are left to `comparable.sizes`.
    """
    first: dict[tuple[str, int, str, str], tuple[NDArray[Any], str]] = {}
    for run, arrays in read:
        for key in [key for key in arrays if key.startswith("teacher/")]:
            known = (run.task, run.seed, run.teacher, key)
            expected, name = first.setdefault(known, (arrays[key], run.name))
            if len(arrays[key]) == len(expected) and (arrays[key] != expected).any():
                raise UserError(
                    f"{run.output_dir}: its teacher's {key.partition('/')[2]} outcomes are not those "
                    f"of {name}, so the teacher has been made again in between and came out otherwise; "
                    f"delete metrics.json of every run of {run.task} with seed {run.seed} and run the "
                    "study again."
                )


def _files(run: Run) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """metrics.json and hits.npz of a run."""
    place = run.output_dir
    try:
        return artefacts.read_json(place / "metrics.json"), dict(np.load(place / "hits.npz"))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{place}: its results cannot be read ({error}); delete it and run again."
        ) from None


def _model(
    run: Run, metrics: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], role: str
) -> list[Row]:
    """The rows of one model: its sets, and the subsets of each."""
    model, difficulty = metrics[role], metrics.get("difficulty") or {}
    uses_alpha = role == "student" and "difficulty" in run.config.robust.loss.needs
    named = (run.compression, run.mitigation)
    if role == "teacher":
        named = (TEACHER, run.teacher) if run.teacher else ("", "")
    about = {
        "task": run.task,
        "data": run.config.robust.task.name,
        "seed": run.seed,
        "role": role,
        "compression": named[0],
        "mitigation": named[1],
        **{key: model.get(key) for key in ("params", "nonzero_params", "sparsity")},
        "train_samples": metrics["samples"]["train"],
        "seconds": metrics["seconds"][role],
        "difficulty_seconds": metrics["seconds"].get("difficulty"),
        "evaluation_seconds": metrics["seconds"].get("evaluate") if role == "student" else None,
        "agreement": metrics["easy_hard"]["agreement"],
        "auroc": difficulty.get("auroc"),
        "shallow_auroc": difficulty.get("shallow_auroc") if role == "student" else None,
        "alpha": difficulty.get("alpha") if uses_alpha else None,
        "vanished": role == "student" and bool(metrics["vanished"]),
        "device": metrics["artefacts"][role]["device"],
        "versions": provenance.packages(metrics["artefacts"][role]),
        "settings": _settings(run, metrics) if role == "student" else None,
        "metric": metric if (metric := metrics.get("metric")) != measures.ACCURACY else None,
        "answers": None,
    }
    rows = []
    for key, right in arrays.items():
        owner, _, name = key.partition("/")
        if owner != role:
            continue
        about["at_chance"] = name.removeprefix("ood_") in metrics["at_chance"]
        answers = [arrays[one] for one in (f"gold/{name}", f"predicted/{key}") if one in arrays]
        kept = {"answers": np.stack(answers).astype("<i2").tobytes()} if len(answers) == 2 else {}
        about["set_size"] = metrics["set_sizes"][name]
        rows.append({**about, "set": name, "subset": "", **_outcome(right), **kept})
        for subset, members in _subsets(arrays, name):
            rows.append({**about, "set": name, "subset": subset, **_outcome(right[members])})
    return rows


def _settings(run: Run, metrics: Mapping[str, Any]) -> str | None:
    """A hash of the settings of a run, the precision that it chose included, and of its encoder's size.

    Models and data may lie elsewhere on another machine, so their names are not in it.
    """
    config = ownership.settled(run.config, metrics["keys"].get("evaluate"))
    if config is None:
        return None
    return artefacts.key([used_keys.of_any_seed(config), metrics["teacher"]["params"]])


def _subsets(arrays: Mapping[str, NDArray[Any]], name: str) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The subsets of a set, each with which samples [N] are in it."""
    cuts = [np.where(arrays["hard"], "hard", "easy")] if name == "dev" else []
    cuts += [arrays[key] for key in [f"subset/{name}"] if key in arrays]
    yield from ((str(value), cut == value) for cut in cuts for value in np.unique(cut))
    if f"subgroup/{name}" in arrays:
        names = arrays[f"subgroup_names/{name}"].tolist()
        yield from zip(names, arrays[f"subgroup/{name}"], strict=True)


def _outcome(right: NDArray[np.bool_]) -> Row:
    bits = np.packbits(right).tobytes()
    return {"samples": len(right), "accuracy": float(right.mean()), "hits": bits}


def save(rows: Sequence[Row], file: Path) -> None:
    """Write the rows as Parquet, whole or not at all."""
    with artefacts.replacing(file) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), temporary)


def load(files: Iterable[Path]) -> list[Row]:
    """The rows of one or more files.

    Raises UserError for a file that holds no results of a study, is of another version, repeats a
    student, or has another teacher (by the samples it got right) for a task and seed than before.
    """
    rows: list[Row] = []
    owners: dict[tuple[Any, ...], Path] = {}
    outcomes: dict[tuple[Any, ...], bytes] = {}
    for file in files:
        models: dict[tuple[Any, ...], None] = {}
        for row in _read(file):
            model = tuple(row[key] for key in MODEL)
            named = f"{'-'.join(filter(None, map(str, model)))} of {owners.get(model)}"
            if model not in owners:
                models[model] = None
                outcomes[*model, row["set"], row["subset"]] = row["hits"]
                rows.append(row)
            elif row["role"] == "student":
                raise UserError(f"{file}: repeats {named}.")
            elif outcomes.get((*model, row["set"], row["subset"])) != row["hits"]:
                raise UserError(
                    f"{file}: its {row['set']} outcomes are not those of {named}, so teachers or data "
                    "differ; results of different teachers cannot stand in one table."
                )
        owners |= dict.fromkeys(models, file)
    return rows


def _read(file: Path) -> list[Row]:
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: cannot be read as results of a study ({error}).") from None
    version = (table.schema.metadata or {}).get(b"version", b"none").decode()
    for name, kind in ADDED.get(version, {}).items():
        version, table = VERSION, table.append_column(name, pa.nulls(len(table), kind))
    if version != VERSION or set(table.column_names) != set(SCHEMA.names):
        raise UserError(
            f"{file}: is a results file of version {version}, this program reads version {VERSION}; "
            "run the study again to write it anew (finished runs are kept)."
        )
    return table.to_pylist()


def answers_of(row: Row) -> Answers:
    """Gold and predicted classes of a set, [N] each."""
    gold, predicted = np.frombuffer(row["answers"], "<i2").reshape(2, -1).astype(np.int64)
    return Answers(predicted, gold)


def hits_of(row: Row) -> NDArray[np.bool_]:
    """Whether each sample of a set was right, bool [N]."""
    return np.unpackbits(np.frombuffer(row["hits"], np.uint8), count=row["samples"]).astype(bool)
