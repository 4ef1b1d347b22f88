"""The event files of a run: where they lie, for which artefacts they were written, and which go.

A folder of events belongs to one run. `run.json` in it says for each group of events (those of one
training, or the final figures) the key of the artefact that they were written for. What is written
again is removed first; at the start of a run all groups go whose key is not that of one of its
artefacts. So each curve has each step once, and none is of another configuration.
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepspeed.monitor.config import CSVConfig
from deepspeed.monitor.csv_monitor import csvMonitor
from torch.utils.tensorboard import SummaryWriter

from compress.errors import UserError
from compress.files import artefacts, disk

OWNER = "run.json"
EVENTS = "events.out.tfevents.*"


class Folder:
    """The folder for the events of a run."""

    def __init__(self, path: Path, kind: str, owner: str, key: str) -> None:
        """kind: `tensorboard` or `csv_monitor`; owner: the run's directory, "" in the run's own.

        key: of the artefact that events are written for; changed while another one is made.
        """
        self.path, self.key, self.kind, self._owner = path, key, kind, owner
        self._resumed: set[str] = set()
        keys = _mark(path).get("keys")
        self._keys: dict[str, str] = dict(keys) if isinstance(keys, dict) else {}

    def keep(self, keys: Collection[str]) -> None:
        """Remove all events but those of groups that were written for artefacts of these keys.

        And what a process that has ended was writing.
        """
        with self.writing():
            artefacts.sweep([self.path])
            self._keys = {group: key for group, key in self._keys.items() if key in keys}
            kept = {file for group in self._keys for file in self._files(group)}
            for file in set(_written(self.path)) - kept:
                file.unlink()
            self._record()

    def position(self, group: str) -> dict[str, int]:
        """Sizes of the files of a group, which are on the disk from then on."""
        with self.writing():
            files = self._files(group)
            for file in files:
                disk.flush_entry(file)
            return {file.name: file.stat().st_size for file in files}

    def flush(self) -> None:
        """Bring to the disk what was written for the artefact of `key`."""
        for group in [group for group, key in self._keys.items() if key == self.key]:
            self.position(group)

    def resume(self, group: str, sizes: Mapping[str, int]) -> None:
        """Keep of the files of a group what they held when `position` was asked."""
        with self.writing():
            for file in self._files(group):
                if file.name not in sizes:
                    file.unlink()
                elif file.stat().st_size > sizes[file.name]:
                    os.truncate(file, sizes[file.name])
        self._resumed.add(group)

    def begin(self, group: str) -> None:
        """Remove the events of a group before it is written, and record for which artefact it is.

        Those of a group that is resumed stay.
        """
        for file in () if group in self._resumed else self._files(group):
            file.unlink()
        self._resumed.discard(group)
        self._keys[group] = self.key
        self._record()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Context around writing events; if the disk refuses, a UserError says how to do without."""
        try:
            with disk.writing(self.path):
                yield
        except UserError as error:
            advice = f"; '{self.kind}.enabled' false leaves these events out."
            raise UserError(str(error).removesuffix(".") + advice) from None

    def tables(self, group: str) -> list[str]:
        """Names of the CSV files of a group; "difficulty 0.30" is none of the group "difficulty"."""
        names = [file.stem for file in self.path.glob(f"{group}_*.csv")]
        return [name for name in names if not name[len(group) + 1].isdigit()]

    def _files(self, group: str) -> list[Path]:
        """The files of a group."""
        tables = [self.path / f"{name}.csv" for name in self.tables(group)]
        return [*self.path.glob(f"{EVENTS}.{group}"), *tables]

    def _record(self) -> None:
        about = {"output_dir": self._owner, "keys": self._keys}
        artefacts.write_json(self.path / OWNER, about)


def claim(block: Mapping[str, Any], kind: str, output_dir: Path, key: str) -> Folder:
    """The folder for the events of a run.

    block: `tensorboard` or `csv_monitor` of the configuration, which is `kind`. By default the folder
    lies in the output directory. In a place that the user has named, a folder that another run uses is
    left alone, and one of this run's name is taken inside it. key: as of `Folder`. Raises UserError if
    it cannot be made.
    """
    path, job, name = block.get("output_path"), block.get("job_name"), output_dir.absolute().name
    if path:
        place, owner = Path(path, job or name), str(output_dir.absolute())
    else:
        inner = Path(kind, name) if kind == "tensorboard" else Path(kind)
        place, owner = output_dir / (job or inner), ""
    tries = (place, *(place / f"{name}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 100)))))
    with Folder(place, kind, owner, key).writing():
        if not owner and not job and kind == "tensorboard":
            _follow(place)
        return Folder(next(folder for folder in tries if _take(folder, owner)), kind, owner, key)


def _follow(place: Path) -> None:
    """Take along the events of a run whose directory had another name when they were written."""
    own = [mark.parent for mark in place.parent.glob(f"*/{OWNER}")]
    own = [folder for folder in own if _mark(folder).get("output_dir") == ""]
    if len(own) == 1 and not place.exists():
        own[0].rename(place)


def _written(folder: Path) -> list[Path]:
    """The files of events in a folder."""
    tables = [file for file in folder.glob("*.csv") if file.read_bytes()[:5] == b"step,"]
    return [*folder.glob(EVENTS), *tables]


def _mark(folder: Path) -> dict[str, Any]:
    try:
        return artefacts.read_json(folder / OWNER)
    except (OSError, ValueError):
        return {}


def _take(folder: Path, owner: str) -> bool:
    """Whether the folder is this run's, from now on if it was nobody's; owner: "" for a run's own."""
    folder.mkdir(parents=True, exist_ok=True)
    if not owner:
        return True
    mark, about = folder / OWNER, {"output_dir": owner}
    if not mark.exists() and _written(folder):
        return False
    if artefacts.create(mark, json.dumps(about)):
        return True
    if not _mark(folder) and not _written(folder):  # cut off while it was written
        artefacts.write_json(mark, about)
    return bool(_mark(folder).get("output_dir") == owner)


def group_of(tag: str) -> str:
    """The group of events that are written, and removed, together: what stands before the first `/`."""
    return tag.split("/")[0].replace(" ", "_")


class CsvFiles(csvMonitor):
    """DeepSpeed's writer of one file a tag."""

    def __init__(self, folder: Folder) -> None:
        """folder: where the files go."""
        place = folder.path
        super().__init__(CSVConfig(enabled=True, output_path=str(place.parent), job_name=place.name))
        self._folder, self._begun = folder, set[str]()

    def write_events(self, event_list: Sequence[tuple[str, float, int]]) -> None:
        """Write (tag, value, step) triples; UserError if the disk refuses."""
        with self._folder.writing():
            for group in sorted({group_of(tag) for tag, _, _ in event_list} - self._begun):
                self._folder.begin(group)
                self._begun.add(group)
                self.filenames += self._folder.tables(group)  # a table that is resumed has its header
            super().write_events(event_list)


class TensorBoardFiles:
    """One event file for each group of tags, so that a group can be written anew."""

    def __init__(self, folder: Folder) -> None:
        """folder: where the files go."""
        self._folder = folder
        self._writers: dict[str, SummaryWriter] = {}

    @contextmanager
    def writer(self, group: str) -> Iterator[SummaryWriter]:
        """Context: yields the writer of a group, and flushes it; UserError if the disk refuses."""
        with self._folder.writing():
            if group not in self._writers:
                self._folder.begin(group)
                self._writers[group] = SummaryWriter(
                    str(self._folder.path), filename_suffix=f".{group}"
                )
            yield self._writers[group]
            self._writers[group].flush()

    def write_events(self, event_list: Sequence[tuple[str, float, int]]) -> None:
        """Write (tag, value, step) triples; UserError if the disk refuses."""
        for group in sorted({group_of(tag) for tag, _, _ in event_list}):
            with self.writer(group) as writer:
                for tag, value, step in event_list:
                    if group_of(tag) == group:
                        writer.add_scalar(tag, value, step)
