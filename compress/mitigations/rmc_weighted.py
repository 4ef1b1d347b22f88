"""`rmc` with every sample weighted by its difficulty, mean 1 over the training set (this project)."""

from compress.mitigations._shared import Batch, FromDifficulty, Lambda, Tensor, Weighting


class RmcWeighted(FromDifficulty, Lambda, Weighting):
    """`rmc` with every sample weighted by its difficulty."""

    needs = frozenset({"teacher", "difficulty"})

    def loss(self, batch: Batch) -> Tensor:
        """w_i times the loss of `rmc`, [B]."""
        loss = batch.distillation(self.lambda_, batch.known_difficulty())
        return loss * batch.sample_weight(self.warmup)
