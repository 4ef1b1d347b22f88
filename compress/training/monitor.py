"""What a person watches: progress on the main rank, events through DeepSpeed's monitors.

`Monitor` wraps the writers that the JSON switches on (`tensorboard`, `csv_monitor`, `wandb`).
"""

import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import transformers
from deepspeed.monitor.config import get_monitor_config
from deepspeed.monitor.monitor import MonitorMaster
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from compress.configuration.config import Config
from compress.files import ownership
from compress.reporting import markdown
from compress.runtime import ranks
from compress.training import event_files
from compress.training.progress import Progress


def quieten() -> None:
    """Silence the libraries' own bars and load reports: one voice on the terminal."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    threading.excepthook = _thread_failed


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Leave the error of TensorBoard's writing thread to its next call, which raises it."""
    if type(failure.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(failure)


class Writer(Protocol):
    """DeepSpeed's monitor, as far as it is used here."""

    def write_events(self, event_list: Sequence[tuple[str, float, int]]) -> None:
        """Write (name, value, step) triples."""


class Monitor:
    """Events of a run; a no-op on ranks and in configurations without a writer."""

    def __init__(
        self,
        writer: Writer | None = None,
        figures: Callable[[], AbstractContextManager[SummaryWriter]] | None = None,
        folders: Sequence[event_files.Folder] = (),
    ) -> None:
        """writer: DeepSpeed's monitor; figures: TensorBoard's writer for texts and histograms.

        folders: where they write.
        """
        self._writer, self._figures, self._folders = writer, figures, folders
        self.progress = Progress()

    @contextmanager
    def making(self, key: str) -> Iterator[None]:
        """Context around making an artefact of this key: the events written meanwhile are its.

        At the end they are on the disk: once the artefact is, they are not written again.
        """
        before = [folder.key for folder in self._folders]
        for folder in self._folders:
            folder.key = key
        try:
            yield
            self.flush()
        finally:
            for folder, old in zip(self._folders, before, strict=True):
                folder.key = old

    def flush(self) -> None:
        """Bring to the disk the events of the artefact that is being made, or the final figures."""
        for folder in self._folders:
            folder.flush()

    def keep(self, keys: Collection[str]) -> None:
        """Remove the events of artefacts that have none of these keys."""
        for folder in self._folders:
            folder.keep(keys)

    def position(self, prefix: str) -> dict[str, dict[str, int]]:
        """How far the events of a training are written; on the disk from then on."""
        group = event_files.group_of(prefix)
        return {folder.kind: folder.position(group) for folder in self._folders}

    def resume(self, prefix: str, position: Mapping[str, Mapping[str, int]]) -> None:
        """Go on writing the events of a training there: later ones are removed."""
        group = event_files.group_of(prefix)
        for folder in self._folders:
            folder.resume(group, position.get(folder.kind, {}))

    def scalars(self, prefix: str, values: Mapping[str, float], step: int) -> None:
        """Write each value as `prefix/name` at a step."""
        if self._writer is not None:
            self._writer.write_events([(f"{prefix}/{n}", v, step) for n, v in values.items()])

    def histogram(self, name: str, values: NDArray[np.floating]) -> None:
        """Write a histogram (TensorBoard only)."""
        if self._figures is not None:
            with self._figures() as tensorboard:
                tensorboard.add_histogram(name, values)

    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a table as Markdown text (TensorBoard only)."""
        self.text(name, markdown.table([header, *rows]))

    def text(self, name: str, markdown: str) -> None:
        """Write a text (TensorBoard only)."""
        if self._figures is not None:
            with self._figures() as tensorboard:
                tensorboard.add_text(name, markdown)

    def results(self, settings: Mapping[str, str | float], figures: Mapping[str, float]) -> None:
        """Write the settings of the run and what it came to, all as hparams of the run itself.

        TensorBoard gets no scalars of the figures: single points would stand among the curves. Other
        writers, which have no hparams, get them as last values.
        """
        for kind in ("csv_monitor", "wandb_monitor"):
            writer = getattr(self._writer, kind, None)
            if writer is not None and writer.enabled:
                writer.write_events([(f"results/{n}", value, 0) for n, value in figures.items()])
        if self._figures is not None:
            with self._figures() as tensorboard:
                for part in hparams({**settings, **figures}, {}):
                    tensorboard._get_file_writer().add_summary(part)


def open_monitor(config: Config, output_dir: Path) -> Monitor:
    """Monitor with the writers that the JSON switches on; see `event_files` for where they write."""
    blocks = {name: config.merged.get(name) or {} for name in ("tensorboard", "csv_monitor", "wandb")}
    blocks = {name: block for name, block in blocks.items() if block.get("enabled")}
    with ranks.sharing_errors():
        if not blocks or not ranks.is_main():
            return Monitor()
        return _writers(config, blocks, output_dir)


def _writers(config: Config, blocks: Mapping[str, Mapping[str, Any]], output_dir: Path) -> Monitor:
    key = ownership.figures_key(config)
    master = MonitorMaster(get_monitor_config({k: v for k, v in blocks.items() if k == "wandb"}))
    kinds = [kind for kind in ("tensorboard", "csv_monitor") if kind in blocks]
    folders = {kind: event_files.claim(blocks[kind], kind, output_dir, key) for kind in kinds}
    figures = None
    if "tensorboard" in folders:
        master.tb_monitor = files = event_files.TensorBoardFiles(folders["tensorboard"])
        figures = partial(files.writer, "figures")
    if "csv_monitor" in folders:
        master.csv_monitor = event_files.CsvFiles(folders["csv_monitor"])
    return Monitor(master, figures, list(folders.values()))
