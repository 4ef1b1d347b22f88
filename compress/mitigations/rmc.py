"""Robust model compression (Du et al. 2023, Sec. 5.2): the teacher is smoothed by difficulty."""

from compress.mitigations._shared import Batch, FromDifficulty, Lambda, Tensor


class Rmc(FromDifficulty, Lambda):
    """Robust model compression: distillation from a teacher that is smoothed by difficulty."""

    needs = frozenset({"teacher", "difficulty"})

    def loss(self, batch: Batch) -> Tensor:
        """(1 - lambda) CE(y, q) + lambda KL(s || q), [B] (Eq. 3, s from Eq. 2)."""
        return batch.distillation(self.lambda_, batch.known_difficulty())
