"""Cross-entropy weighted by difficulty, without a teacher: how much is re-weighting alone? Ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.mitigations._shared import FromDifficulty, Weighting

if TYPE_CHECKING:
    from torch import Tensor

    from compress.microbatch import Batch


class Weighted(FromDifficulty, Weighting):
    """Re-weighting alone."""

    needs = frozenset({"difficulty"})

    def loss(self, batch: Batch) -> Tensor:
        """w_i CE(y, q), [B]."""
        return batch.cross_entropy() * batch.sample_weight(self.warmup)
