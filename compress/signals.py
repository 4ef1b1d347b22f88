"""The loss hook and what it may know of each sample: teacher, difficulty."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.data.batches import Indices
from compress.distillation.layerwise import Layerwise
from compress.losses import BatchWeight, Loss, LossWeights


@dataclass(frozen=True)
class Signals:
    """What the loss hook may use beside the gold label, keyed by sample.

    teacher: probabilities [N, C] or None; difficulty: d [N] or None; layerwise: the additional term;
    batch_weight: what the trainer takes the mean of over the whole batch, for `weights.batch_mean`;
    hook: the name of the loss if it is the user's own.
    """

    loss: Loss
    weights: LossWeights = field(default_factory=LossWeights)
    teacher: NDArray[np.float32] | None = None
    difficulty: NDArray[np.float64] | None = None
    layerwise: Layerwise | None = None
    batch_weight: BatchWeight | None = None
    hook: str | None = None

    def take(self, indices: Indices, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """Teacher [B, C] and difficulty [B] of the samples, float32, None where there is none."""

        def tensor(values: NDArray[np.floating] | None) -> Tensor | None:
            if values is None:
                return None
            return torch.as_tensor(values[indices], dtype=torch.float32).to(device)

        return tensor(self.teacher), tensor(self.difficulty)
