"""`rmc` with every sample weighted by its difficulty, mean 1 over the training set. Ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.mitigations._shared import FromDifficulty, Lambda, Weighting

if TYPE_CHECKING:
    from torch import Tensor

    from compress.microbatch import Batch


class RmcWeighted(FromDifficulty, Lambda, Weighting):
    """Weighted distillation with a d of each sample."""

    needs = frozenset({"teacher", "difficulty"})

    def loss(self, batch: Batch) -> Tensor:
        """w_i times the loss of `rmc`, [B]."""
        loss = batch.distillation(self.lambda_, batch.known_difficulty())
        return loss * batch.sample_weight(self.warmup)
