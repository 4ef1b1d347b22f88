"""The event files of a run: where they lie, whose they are, and what of an earlier start goes.

A folder of events belongs to one run and one configuration (`run.json` in it says which). What is
written again is removed first: the events of a stage when it is trained anew, all of them when the
configuration has changed. Those of stages that are reused stay, so that each curve has each step once.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepspeed.monitor.config import CSVConfig
from deepspeed.monitor.csv_monitor import csvMonitor
from torch.utils.tensorboard import SummaryWriter

from compress import artefacts
from compress.errors import UserError

OWNER = "run.json"
EVENTS = "events.out.tfevents.*"


def claim(block: Mapping[str, Any], kind: str, output_dir: Path, identity: str) -> Path:
    """The folder for the events of a run, empty of those of another configuration.

    block: `tensorboard` or `csv_monitor` of the configuration, which is `kind`. By default the folder
    lies in the output directory. In a place that the user has named, a folder that another run uses is
    left alone, and one of this run's name is taken inside it. identity: of the configuration, as
    `ownership.identity`. Raises UserError if it cannot be made.
    """
    path, job, name = block.get("output_path"), block.get("job_name"), output_dir.absolute().name
    if path:
        place, owner = Path(path, job or name), str(output_dir.absolute())
    else:
        inner = Path(kind, name) if kind == "tensorboard" else Path(kind)
        place, owner = output_dir / (job or inner), ""
    tries = (place, *(place / f"{name}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 100)))))
    try:
        folder = next(folder for folder in tries if _take(folder, owner))
        if _mark(folder).get("configuration") not in (None, identity):
            for file in _written(folder):
                file.unlink()
        artefacts.write_json(folder / OWNER, {"output_dir": owner, "configuration": identity})
    except OSError as error:
        raise UserError(f"{kind}: events cannot be written to '{place}' ({error}).") from None
    return folder


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
    if not (folder / OWNER).exists() and _written(folder):
        return False
    try:
        with (folder / OWNER).open("x", encoding="utf-8") as target:
            json.dump({"output_dir": owner}, target)
    except FileExistsError:
        return bool(_mark(folder).get("output_dir") == owner)
    return True


def group_of(tag: str) -> str:
    """The group of events that are written, and removed, together: what stands before the first `/`."""
    return tag.split("/")[0].replace(" ", "_")


class CsvFiles(csvMonitor):
    """DeepSpeed's writer of one file a tag; the files of a group go before its first row."""

    def __init__(self, folder: Path) -> None:
        """folder: where the files go."""
        super().__init__(CSVConfig(enabled=True, output_path=str(folder.parent), job_name=folder.name))
        self._folder, self._begun = folder, set[str]()

    def write_events(self, event_list: Sequence[tuple[str, float, int]]) -> None:
        """Write (tag, value, step) triples."""
        for group in sorted({group_of(tag) for tag, _, _ in event_list} - self._begun):
            self._begun.add(group)
            for file in self._folder.glob(f"{group}_*.csv"):
                if not file.stem[len(group) + 1].isdigit():  # of "difficulty 0.30", not of "difficulty"
                    file.unlink()
        super().write_events(event_list)


class TensorBoardFiles:
    """One event file for each group of tags, so that a group can be written anew."""

    def __init__(self, folder: Path) -> None:
        """folder: where the files go."""
        self._folder = folder
        self._writers: dict[str, SummaryWriter] = {}

    def writer(self, group: str) -> SummaryWriter:
        """The writer of a group; what an earlier start has written of it goes."""
        if group not in self._writers:
            for file in self._folder.glob(f"{EVENTS}.{group}"):
                file.unlink()
            self._writers[group] = SummaryWriter(str(self._folder), filename_suffix=f".{group}")
        return self._writers[group]

    def write_events(self, event_list: Sequence[tuple[str, float, int]]) -> None:
        """Write (tag, value, step) triples."""
        for tag, value, step in event_list:
            self.writer(group_of(tag)).add_scalar(tag, value, step)
        for group in {group_of(tag) for tag, _, _ in event_list}:
            self._writers[group].flush()
