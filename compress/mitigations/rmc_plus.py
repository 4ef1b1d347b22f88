"""`rmc_weighted` with a lambda of each sample: the easy follow the teacher, the hard the gold label.

lambda_i = lambda max(floor, 1 - (d_i - alpha) / (1 - alpha)); it sets in over the warm-up, as the
sample weights do (this project).
"""

from compress.mitigations._shared import Batch, Floor, FromDifficulty, Lambda, Tensor, Weighting


class RmcPlus(FromDifficulty, Lambda, Floor, Weighting):
    """`rmc_weighted` with a lambda of each sample: the hard follow the gold label."""

    needs = frozenset({"teacher", "difficulty"})

    def loss(self, batch: Batch) -> Tensor:
        """w_i ((1 - lambda_i) CE(y, q) + lambda_i KL(s || q)), [B]."""
        d, alpha = batch.known_difficulty().float(), batch.alpha
        hardness = (d - alpha) / (1 - alpha) if alpha < 1 else d * 0
        share = self.lambda_ * (1 - batch.onset(self.warmup) * hardness).clamp_min(self.floor)
        return batch.sample_weight(self.warmup) * batch.distillation(share, d)
