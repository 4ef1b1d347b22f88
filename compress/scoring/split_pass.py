"""Passes of a model over whole splits: every rank computes a share, the main rank keeps the results.

No rank but the main one holds or writes what is computed of all samples, and it takes the rows of one
rank after another.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.checkpoints.rows import Rows
from compress.configuration.config import Config
from compress.data.batches import Indices, cut, joined, scoring_order, share
from compress.data.columns import Columns
from compress.data.splits import Split
from compress.errors import UserError
from compress.files import arrays, disk
from compress.runtime import ranks
from compress.scoring import evaluation

Forward = Callable[[Mapping[str, Tensor]], Tensor]
Keep = Callable[[NDArray[np.float64], Indices], NDArray[np.floating]]
"""Log-probabilities [R, C] and the samples that they are of [R] -> what is kept, [R] or [R, K]."""

NOT_FINITE = (
    "the model's scores are not finite: its training diverged or its weights are damaged; lower "
    "optimizer.params.lr, or use bf16 instead of fp16."
)


def together(config: Config) -> int:
    """Samples of all ranks that are scored together."""
    return config.robust.evaluation.batch_size * ranks.world_size()


def log_probabilities(scores: NDArray[np.float64], _: Indices) -> NDArray[np.float64]:
    """`Keep` them as they are, [R, C]."""
    return scores


def probabilities(scores: NDArray[np.float64], _: Indices) -> NDArray[np.float64]:
    """`Keep` the probabilities [R, C]."""
    return np.exp(scores)


def losses(labels: NDArray[np.integer]) -> Keep:
    """`Keep` the cross-entropy with the gold label [R]; labels: of the whole split [N]."""
    return lambda scores, samples: -scores[np.arange(len(samples)), labels[samples]]


@dataclass(frozen=True)
class SplitPass:
    """A pass over a split of N samples with C classes; all ranks call its methods alike.

    batch_size: samples of all ranks together; rows: what this rank has computed of them before. Every
    rank makes the same number of forward calls. The methods raise UserError, on all ranks alike, if a
    value is not finite.
    """

    forward: Forward
    data: Columns
    batch_size: int
    device: torch.device
    rows: Rows = field(default_factory=Rows)

    def logits(self, alone: bool = False) -> NDArray[np.float64]:
        """Logits [N, C], on every rank, so for few samples.

        alone: this rank computes all, without the others.
        """
        own = self._own(0, 1) if alone else self._own(ranks.rank(), ranks.world_size())
        every = own[None] if alone else ranks.gathered_rows(own)
        order = scoring_order(self.data.lengths)
        values = joined(every, order, self.batch_size).astype(np.float64)
        if not np.isfinite(values).all():
            raise UserError(NOT_FINITE)
        return values

    def right(self, split: Split) -> int:
        """How many samples are classified rightly; split: that of the data."""
        scores = self._scores()
        samples, counted = self._samples(ranks.rank())
        hits = evaluation.predicted(scores, split) == split.labels[samples]
        return int(ranks.all_sum(np.array([(hits & counted).sum()]))[0])

    def write(self, keep: Keep, file: Path) -> None:
        """Write what is kept of each sample, float32 [N] or [N, K], on the main rank."""
        samples, _ = self._samples(ranks.rank())
        own = keep(self._scores(), samples).astype(np.float32)
        with ranks.sharing_errors():
            whole = arrays.new(file, (len(self.data), *own.shape[1:])) if ranks.is_main() else None
        for turn in range(ranks.world_size()):
            part = ranks.rows_of(turn, own)
            if whole is not None:
                samples, counted = self._samples(turn)
                whole[samples[counted]] = part[counted]
        with ranks.sharing_errors(), disk.writing(file):
            if whole is not None:
                whole.flush()

    def _scores(self) -> NDArray[np.float64]:
        """Log-probabilities [R, C] of this rank's share."""
        own = torch.as_tensor(self._own(ranks.rank(), ranks.world_size()))
        if ranks.all_sum(np.array([not bool(own.isfinite().all())])).any():
            raise UserError(NOT_FINITE)
        return F.log_softmax(own, dim=1).double().numpy()

    def _own(self, turn: int, parts: int) -> NDArray[np.float32]:
        """Logits [R, C] of the share of one of several parts of each batch, one batch after another."""
        order = scoring_order(self.data.lengths)
        with torch.no_grad():
            for batch in cut(order[self.rows.batches * self.batch_size :], self.batch_size):
                indices, _ = share(batch, turn, parts)
                inputs = self.data.batch(indices, self.device)
                self.rows.add(self.forward(inputs).float().cpu().numpy())
        return self.rows.all()

    def _samples(self, turn: int) -> tuple[Indices, NDArray[np.bool_]]:
        """The samples [R] of a rank's share in the order of its rows, and which count: no padding."""
        batches = cut(scoring_order(self.data.lengths), self.batch_size)
        each = zip(*(share(batch, turn, ranks.world_size()) for batch in batches), strict=True)
        samples, weights = (np.concatenate(parts) for parts in each)
        return samples, weights > 0


def model_forward(model: nn.Module, device: torch.device, bf16: bool = False) -> Forward:
    """Forward of a plain model in evaluation mode on the device.

    bf16: matrix products in bfloat16 (autocast), weights stay as they are.
    """
    return forward_of(model.to(device), device, bf16)


def forward_of(model: nn.Module, device: torch.device, bf16: bool = False) -> Forward:
    """The same of a model that is where it computes."""
    model.eval()

    def forward(inputs: Mapping[str, Tensor]) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits: Tensor = model(**inputs).logits
        return logits

    return forward
