"""Cross-entropy weighted by difficulty, without a teacher, to isolate the weighting (this project)."""

from compress.mitigations._shared import Batch, FromDifficulty, Tensor, Weighting


class Weighted(FromDifficulty, Weighting):
    """Cross-entropy weighted by difficulty, without a teacher."""

    needs = frozenset({"difficulty"})

    def loss(self, batch: Batch) -> Tensor:
        """w_i CE(y, q), [B]."""
        return batch.cross_entropy() * batch.sample_weight(self.warmup)
