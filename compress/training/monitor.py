"""What a person watches: a progress bar on the main rank, events through DeepSpeed's monitors.

`Monitor` wraps the writers that the JSON switches on (`tensorboard`, `csv_monitor`, `wandb`); the
progress bar is silent when the output is no terminal.
"""

import warnings
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

import datasets
import numpy as np
import transformers
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from compress import ranks


def quieten() -> None:
    """Silence the libraries' own bars and load reports: one voice on the terminal."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)


class Writer(Protocol):
    """DeepSpeed's monitor, as far as it is used here."""

    def write_events(self, event_list: Sequence[tuple[str, float, int]]) -> None:
        """Write (name, value, step) triples."""


class Monitor:
    """Events of a run; a no-op on ranks and in configurations without a writer."""

    def __init__(self, writer: Writer | None = None, tensorboard: SummaryWriter | None = None) -> None:
        """writer: DeepSpeed's monitor; tensorboard: its SummaryWriter, for text and histograms."""
        self._writer, self._tensorboard = writer, tensorboard

    def scalars(self, prefix: str, values: Mapping[str, float], step: int) -> None:
        """Write each value as `prefix/name` at a step."""
        if self._writer is not None:
            self._writer.write_events([(f"{prefix}/{n}", v, step) for n, v in values.items()])

    def histogram(self, name: str, values: NDArray[np.floating]) -> None:
        """Write a histogram (TensorBoard only)."""
        if self._tensorboard is not None:
            self._tensorboard.add_histogram(name, values)
            self._tensorboard.flush()

    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a table as Markdown text (TensorBoard only)."""
        if self._tensorboard is None:
            return
        lines = [header, ["---"] * len(header), *rows]
        cells = [[str(c).replace("|", "\\|").replace("\n", " ") for c in line] for line in lines]
        self._tensorboard.add_text(name, "\n".join(f"| {' | '.join(line)} |" for line in cells))
        self._tensorboard.flush()

    def text(self, name: str, markdown: str) -> None:
        """Write a text (TensorBoard only)."""
        if self._tensorboard is not None:
            self._tensorboard.add_text(name, markdown)
            self._tensorboard.flush()

    def results(self, settings: Mapping[str, str | float], figures: Mapping[str, float]) -> None:
        """Write the settings of the run and what it came to, all as hparams of the run itself.

        TensorBoard gets no scalars of the figures: single points would stand among the curves. Other
        writers, which have no hparams, get them as last values.
        """
        for kind in ("csv_monitor", "wandb_monitor"):
            writer = getattr(self._writer, kind, None)
            if writer is not None and writer.enabled:
                writer.write_events([(f"results/{n}", value, 0) for n, value in figures.items()])
        if (tensorboard := self._tensorboard) is not None:
            for part in hparams({**settings, **figures}, {}):
                tensorboard._get_file_writer().add_summary(part)
            tensorboard.flush()


class Progress:
    """Progress bar of a training run with loss, sparsity, samples/s and time left."""

    def __init__(self, name: str, start: int, stop: int, total: int) -> None:
        """From optimiser step `start` to `stop`, of `total` in the whole run."""
        hidden = True if not ranks.is_main() else None
        self._bar = tqdm(desc=name, total=total, initial=start, disable=hidden, leave=stop >= total)

    def __enter__(self) -> Self:
        """Show the bar."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the bar."""
        self._bar.close()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Move to a step and show its values."""
        self._bar.set_postfix_str(
            f"loss {values['loss']:.3f}, sparsity {values['sparsity']:.2f}, "
            f"{values['samples_per_second']:.0f} samples/s"
        )
        self._bar.update(step - self._bar.n)
