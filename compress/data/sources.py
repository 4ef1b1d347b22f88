"""Where the rows of a split come from: files, the model hub, or the embedded benchmark.

`task.data_dir` holds train, dev and OOD sets; without it they come from the hub. `task.ood_dir` holds
OOD sets in either case, so that sets which are not on the hub join those that are. A task in JSON says
where each comes from; an OOD set with both `file` and `hub` follows the same rule.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from compress.configuration.robust_schema import RobustCompression
from compress.configuration.task_schema import HubBlock, OodBlock, TaskBlock
from compress.data import reading
from compress.data.reading import Row
from compress.data.tasks import Task, ood_set, stems
from compress.errors import UserError, nearest
from compress.synthetic import generator


@dataclass(frozen=True)
class Source:
    """Where a split comes from (for messages) and its numbered rows."""

    name: str
    rows: Iterable[tuple[int, Row]]


def every(config: RobustCompression, task: Task) -> dict[str, Source]:
    """The sources of `train`, `dev` and each `ood_<name>` that is to be evaluated; none is opened.

    It only asks the file system what is there, so that a name which is wrong is known at once.
    Raises UserError for a folder, file or OOD set that is not there or is there twice.
    """
    block = config.task
    found = {split: find(block, task, split) for split in ("train", "dev")}
    names = ood_names(config, task)
    return found | {f"ood_{name}": find(block, task, f"ood_{name}") for name in names}


def find(block: TaskBlock, task: Task, split: str) -> Source:
    """The rows of `train`, `dev` or `ood_<name>`; UserError if they are nowhere."""
    ood = ood_set(task, split.removeprefix("ood_")) if split.startswith("ood_") else None
    if task.name == "synthetic":
        return Source(f"synthetic {split}", _benchmark_rows(block, "ood" if ood else split))
    given = ood.hub if ood else getattr(task, split)
    place = given if isinstance(given, HubBlock) else None
    searched = [f for key, f in folders(block).items() if ood or key == "data_dir"]
    if place is not None and task.defined and not (ood and ood.file):
        return _from_hub(place)
    names = stems(task, split, ood)
    found = [file for folder in searched if (file := reading.find(folder, names)) is not None]
    if len(found) > 1 and not found[0].samefile(found[1]):
        raise UserError(f"{found[0]} and {found[1]}: both are {split}; keep the one that is meant.")
    if found:
        return Source(str(found[0]), reading.rows(found[0]))
    if place is not None and block.data_dir is None:
        return _from_hub(place)
    if not searched:
        raise UserError(
            f"robust_compression.task: {split} of {task.name} is not on the hub; put its file into a "
            f"folder and name that in task.{'ood_dir' if ood else 'data_dir'}."
        )
    where = " and ".join(map(str, searched))
    formats = ", ".join(reading.FORMATS)
    other = [place for folder in searched for place in _like(folder, names)]
    raise UserError(
        f"{where}: has no file {names[0]} ({formats}, or those with .gz)"
        + (f"; {', '.join(other[:5])}." if other else ".")
    )


def _like(folder: Path, names: tuple[str, ...]) -> list[str]:
    """What has the name of a split and is no file that can be read, each with the reason."""
    reasons = []
    for name in names:
        place = folder / name
        for path in sorted(place.parent.glob("*")):
            if path.name.startswith(f"{place.name}."):
                why = "is a folder" if path.is_dir() else "is of another kind"
                reasons.append(f"{reading.shown(path.name)} {why}")
    return reasons


def ood_names(config: RobustCompression, task: Task) -> list[str]:
    """OOD sets to evaluate: those asked for, else all that the source has.

    Of a task in JSON those that it defines must all be there.
    """
    block, wanted = config.task, config.evaluation.ood
    there = set(task.ood) if task.defined or task.name == "synthetic" else set()
    if block.data_dir is None:
        there |= {name for name, entry in task.ood.items() if entry.hub}
    for folder in folders(block).values():
        there |= {n for n, e in task.ood.items() if _there(folder, stems(task, f"ood_{n}", e))}
        taken = {stems(task, f"ood_{n}", e)[-1] for n, e in task.ood.items() if e.file}
        there |= {n for n in _plain(folder) if f"ood_{n}" not in taken}
    if wanted is None:
        if not there:
            where = " and ".join(map(str, folders(block).values())) or "the hub"
            raise UserError(
                f"{where}: has no OOD set of {task.name}; put an ood_<name> file into a folder and "
                "name that in task.data_dir or task.ood_dir."
            )
        return sorted(there)
    for name in wanted:
        if name not in there:
            raise UserError(
                f"robust_compression.evaluation.ood: there is no set '{name}'{nearest(name, there)}"
            )
    return list(wanted)


def absent_ood(config: RobustCompression, task: Task) -> dict[str, tuple[str, ...]]:
    """OOD sets of the task that an evaluation of all goes without -> names of their files.

    A set that neither the hub nor a publisher has under a known name is not counted.
    """
    if config.evaluation.ood is not None:
        return {}
    known = {name: entry for name, entry in task.ood.items() if entry.hub or entry.file}
    there = ood_names(config, task)
    return {n: stems(task, f"ood_{n}", entry) for n, entry in known.items() if n not in there}


def _there(folder: Path, names: tuple[str, ...]) -> bool:
    """Whether a set has a file, or what should be one: `find` says what is wrong with that."""
    return reading.find(folder, names) is not None or bool(reading.named(folder, names))


def folders(block: TaskBlock) -> dict[str, Path]:
    """The folders that are given, data_dir first; UserError for one that is not there or closed."""
    found = {}
    for key in ("data_dir", "ood_dir"):
        name = getattr(block, key)
        if name is not None:
            if not _is_folder(Path(name)):
                raise UserError(f"robust_compression.task.{key}: '{name}' is not a folder.")
            if not os.access(name, os.R_OK | os.X_OK):
                raise UserError(
                    f"robust_compression.task.{key}: '{name}' cannot be read (Permission denied)."
                )
            found[key] = Path(name)
    return found


def _is_folder(path: Path) -> bool:
    """Whether this is a folder; unlike `Path.is_dir`, False for a name that none can have."""
    with suppress(OSError):
        return path.is_dir()
    return False


def files(block: TaskBlock, task: Task) -> list[Path]:
    """The files of the given folders that the task's splits may be read from, in sub-folders too."""
    entries: dict[str, OodBlock | None] = {"train": None, "dev": None}
    entries |= {f"ood_{name}": entry for name, entry in task.ood.items()}
    names = [name for split, entry in entries.items() for name in stems(task, split, entry)]
    given = [Path(folder) for folder in (block.data_dir, block.ood_dir) if folder is not None]
    named = [folder / (name + s) for folder in given for name in names for s in reading.SUFFIXES]
    return [file for file in named if reading.is_file(file)]


def _plain(folder: Path) -> set[str]:
    """Names of the sets in files called ood_<name>."""
    names = set()
    for file in folder.glob("ood_*"):
        for suffix in sorted(reading.SUFFIXES, key=len, reverse=True):
            if file.name.endswith(suffix):
                name = file.name.removesuffix(suffix).removeprefix("ood_")
                if not name:
                    raise UserError(f"{file}: the name of the OOD set is missing after 'ood_'.")
                names.add(name)
                break
    return names


def _from_hub(place: HubBlock) -> Source:
    return Source(f"{place.path} ({place.split})", enumerate(_hub_rows(place), start=1))


def _hub_rows(place: HubBlock) -> Iterable[Row]:
    """Rows of a hub split with class ids turned into words, so that its own id order is respected."""
    import datasets  # here, so that a wrong file name is known without the seconds that this takes

    from compress.data import hub

    table = hub.load_split(place.path, place.config, place.split, place.revision)
    names = {k: f for k, f in table.features.items() if isinstance(f, datasets.ClassLabel)}
    for row in table:
        known = {k: f for k, f in names.items() if row[k] is not None and row[k] >= 0}
        yield {**row, **{key: feature.int2str(row[key]) for key, feature in known.items()}}


def _benchmark_rows(block: TaskBlock, split: str) -> Iterator[tuple[int, Row]]:
    size = block.synthetic
    options = size.model_dump() if size is not None else {}
    try:
        yield from enumerate(generator.generate(**options)[split], start=1)
    except ValueError as error:
        raise UserError(f"robust_compression.task.synthetic: {error}") from None
