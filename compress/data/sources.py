"""Where the rows of a split come from: files, the model hub, or the embedded benchmark.

`task.data_dir` holds train, dev and OOD sets; without it they come from the hub. `task.ood_dir` holds
OOD sets in either case. An OOD set of a definition with both `file` and `hub` follows the same rule.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from compress.configuration.robust_schema import RobustCompression
from compress.configuration.task_schema import HubBlock, OodBlock, TaskBlock
from compress.data import reading
from compress.data.reading import Block
from compress.data.tasks import Task, ood_set, stems
from compress.errors import UserError, nearest
from compress.synthetic import generator

if TYPE_CHECKING:
    import datasets


CHANGES = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "modified", "created")
"""What file systems call the time of the last change of a file, or a tag that changes with it."""


@dataclass(frozen=True)
class Source:
    """Where a split comes from: a name for messages, and its records.

    version: what changes when they do, as JSON, so that an unchanged source is not read again.
    """

    name: str
    blocks: Callable[[], Iterator[Block]]
    version: Callable[[], Any]


def every(config: RobustCompression, task: Task) -> dict[str, Source]:
    """The sources of `train`, `dev` and each `ood_<name>` that is to be evaluated; none is opened.

    Raises UserError for a folder, file or OOD set that is missing or exists twice.
    """
    given = [name for name in (config.task.data_dir, config.task.ood_dir) if name is not None]
    with reading.explained(" or ".join(given)) if any("://" in n for n in given) else nullcontext():
        found = {split: find(config.task, task, split) for split in ("train", "dev")}
        splits = [f"ood_{name}" for name in ood_names(config, task)]
        return found | {split: find(config.task, task, split) for split in splits}


def find(block: TaskBlock, task: Task, split: str) -> Source:
    """The rows of `train`, `dev` or `ood_<name>`; UserError if they are nowhere."""
    ood = ood_set(task, split.removeprefix("ood_")) if split.startswith("ood_") else None
    if task.name == "synthetic":
        return _benchmark(block, split)
    given = ood.hub if ood else getattr(task, split)
    hub_split = given if isinstance(given, HubBlock) else None
    searched = [f for key, f in folders(block).items() if ood or key == "data_dir"]
    if hub_split is not None and task.defined and not (ood and ood.file):
        return _from_hub(hub_split)
    names = stems(task, split, ood)
    found = [file for folder in searched if (file := reading.find(folder, names)) is not None]
    if len(found) > 1 and not _same(*found[:2]):
        raise UserError(f"{found[0]} and {found[1]}: both are {split}; keep the one that is meant.")
    if found:
        return _from_file(found[0])
    if hub_split is not None and block.data_dir is None:
        return _from_hub(hub_split)
    if not searched:
        raise UserError(
            f"robust_compression.task: {split} of {task.name} is not on the hub; put its file into a "
            f"folder and name that in task.{'ood_dir' if ood else 'data_dir'}."
        )
    where = " and ".join(map(str, searched))
    formats = ", ".join(reading.FORMATS)
    other = [text for folder in searched for text in _like(folder, names)]
    raise UserError(
        f"{where}: has no file {names[0]} ({formats}, or those with .gz)"
        + (f"; {', '.join(other[:5])}." if other else ".")
    )


def _like(folder: Path, names: tuple[str, ...]) -> list[str]:
    """What has the name of a split and is no file that can be read, each with the reason."""
    return [
        _unreadable(path)
        for stem in (folder / name for name in names)
        for path in sorted(stem.parent.glob("*"))
        if path.name.startswith(f"{stem.name}.")
    ]


def _unreadable(path: Path) -> str:
    return f"{reading.shown(path.name)} {'is a folder' if path.is_dir() else 'is of another kind'}"


def ood_names(config: RobustCompression, task: Task) -> list[str]:
    """OOD sets to evaluate: those in the configuration, else all that exist or that a task defines.

    The configuration may say that there are none. Without its word a task of the user's own may have
    none, a shipped one may not. Raises UserError for one in the configuration that does not exist, and
    where there is none but something asks for one.
    """
    block, wanted = config.task, config.evaluation.ood
    known = set(task.ood) if task.defined or task.name == "synthetic" else set()
    if block.data_dir is None:
        known |= {name for name, entry in task.ood.items() if entry.hub}
    for folder in folders(block).values():
        known |= {n for n, e in task.ood.items() if _exists(folder, stems(task, f"ood_{n}", e))}
        taken = {stems(task, f"ood_{n}", e)[-1] for n, e in task.ood.items() if e.file}
        known |= {n for n in _plain(folder) if f"ood_{n}" not in taken}
    if wanted is None:
        if not known:
            _check_without(block, task)
        return sorted(known)
    if wanted and not known:
        raise UserError(
            f"robust_compression.evaluation.ood: there is no set '{wanted[0]}', and the task has no "
            f"OOD set at all; put ood_{wanted[0]}.csv into its data_dir, or leave the key out."
        )
    for name in wanted:
        if name not in known:
            raise UserError(
                f"robust_compression.evaluation.ood: there is no set '{name}'{nearest(name, known)}"
            )
    return list(wanted)


def _check_without(block: TaskBlock, task: Task) -> None:
    """Raise UserError where no OOD set is found, but one is needed, asked for, or meant by a file."""
    given = folders(block)
    where = " and ".join(map(str, given.values())) or "the hub"
    if not task.defined or block.ood_dir is not None:
        raise UserError(
            f"{where}: has no OOD set of {task.name}; put an ood_<name> file into a folder and "
            "name that in task.data_dir or task.ood_dir."
        )
    if block.drop_overlap:
        raise UserError(
            "robust_compression.task.drop_overlap: has no effect, because there is no OOD set; leave "
            "it out, or put an ood_<name> file into task.data_dir or task.ood_dir."
        )
    if other := passed_over(given.values(), ()):
        raise UserError(f"{other[0]}; convert or rename it.")


def passed_over(folders: Iterable[Path], known: Collection[str]) -> list[str]:
    """What is called ood_<name>, cannot be read, and has not the name of a set that is known."""
    formats = ", ".join(reading.FORMATS)
    return [
        f"{folder}: {_unreadable(path)}, so it cannot be an OOD set ({formats}, or those with .gz)"
        for folder in folders
        for path in sorted(folder.glob("ood_*"))
        if reading.without_suffix(path.name) == path.name
        and path.name.removeprefix("ood_").partition(".")[0] not in known
    ]


def absent_ood(config: RobustCompression, task: Task) -> dict[str, tuple[str, ...]]:
    """OOD sets of the task that an evaluation of all goes without -> names of their files.

    A set that neither the hub nor a publisher has under a known name is not counted.
    """
    if config.evaluation.ood is not None:
        return {}
    evaluated = ood_names(config, task)
    return {
        name: stems(task, f"ood_{name}", entry)
        for name, entry in task.ood.items()
        if (entry.hub or entry.file) and name not in evaluated
    }


def _exists(folder: Path, names: tuple[str, ...]) -> bool:
    """Whether a set has a file, or a folder of its name; UserError as `reading.find`."""
    return reading.find(folder, names) is not None or bool(reading.named(folder, names))


def folders(block: TaskBlock) -> dict[str, Path]:
    """The given folders by key, data_dir first; UserError for one that does not exist or is closed."""
    found = dict(_given(block))
    for key, folder in found.items():
        what = f"robust_compression.task.{key}: '{getattr(block, key)}'"
        if not _is_folder(folder):
            raise UserError(f"{what} is not a folder.")
        if not reading.readable(folder, os.R_OK | os.X_OK):
            raise UserError(f"{what} cannot be read (Permission denied).")
    return found


def _given(block: TaskBlock) -> Iterator[tuple[str, Path]]:
    """The folders that the configuration names, by key, whether they are there or not."""
    for key in ("data_dir", "ood_dir"):
        if (name := getattr(block, key)) is not None:
            yield key, reading.place(name, f"robust_compression.task.{key}")


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
    given = [place for _, place in _given(block)]
    possible = (file for folder in given for file in reading.named(folder, tuple(names)))
    return [file for file in possible if reading.is_file(file)]


def _plain(folder: Path) -> set[str]:
    """Names of the sets in files called ood_<name>."""
    stems_of = {file: reading.without_suffix(file.name) for file in folder.glob("ood_*")}
    names = {f: stem.removeprefix("ood_") for f, stem in stems_of.items() if stem != f.name}
    for file, name in names.items():
        if not name:
            raise UserError(f"{file}: the name of the OOD set is missing after 'ood_'.")
    return set(names.values())


def _same(one: Path, other: Path) -> bool:
    if isinstance(one, Path) and isinstance(other, Path):
        return one.samefile(other)
    return str(one) == str(other)


def _from_file(file: Path) -> Source:
    """Of its version the path, the size and the time of change, as its file system tells them.

    A file whose file system tells neither a time nor a tag is read again by every run.
    """
    own = os.urandom(8).hex()

    def version() -> list[Any]:
        if not isinstance(file, Path):
            with reading.explained(str(file)):
                file.fs.invalidate_cache()
                about = file.fs.info(file.path)
            told = {key: str(about[key]) for key in CHANGES if about.get(key) is not None}
            return [str(file), about.get("size"), told or own]
        try:
            stat = file.stat()
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror or error}).") from None
        return [str(file.absolute()), stat.st_size, stat.st_mtime_ns]

    return Source(str(file), lambda: reading.blocks(file), version)


def _from_hub(block: HubBlock) -> Source:
    """Of its version the fingerprint that `datasets` gives it, by which it knows its cache again."""

    @cache
    def table() -> "datasets.Dataset":
        from compress.data import hub  # takes seconds, and a wrong file name must be known before

        return hub.load_split(block.path, block.config, block.split, block.revision)

    def version() -> list[Any]:
        return [block.path, block.config, block.split, table()._fingerprint]

    return Source(f"{block.path} ({block.split})", lambda: _hub_blocks(block.path, table()), version)


def _hub_blocks(name: str, table: "datasets.Dataset") -> Iterator[Block]:
    """Records of a hub split with the names of its classes in place of its own ids."""
    import datasets

    classes = {k: f.names for k, f in table.features.items() if isinstance(f, datasets.ClassLabel)}
    arrow = table.with_format("arrow")
    for start in range(0, len(table), reading.AT_ONCE):
        part = arrow[start : start + reading.AT_ONCE]
        yield reading.Records(name, start + 1, reading.compact(part), classes)


def _benchmark(block: TaskBlock, split: str) -> Source:
    options = block.synthetic.model_dump() if block.synthetic is not None else {}

    def blocks() -> Iterator[Block]:
        try:
            made = generator.generate(**options)["ood" if split.startswith("ood_") else split]
        except ValueError as error:
            raise UserError(f"robust_compression.task.synthetic: {error}") from None
        for start in range(0, len(made), reading.AT_ONCE):
            rows = made[start : start + reading.AT_ONCE]
            yield reading.Records(f"synthetic {split}", start + 1, pa.Table.from_pylist(rows))

    return Source(f"synthetic {split}", blocks, lambda: ["synthetic", split, options])
