"""Batch-normalised focal loss (Du et al. 2023, Sec. 6.2; after Lin et al. 2017).

-w_i log p_i, w_i = (1 - p_i)^gamma / mean_k (1 - p_k)^gamma, p_i the probability of the gold label, k
over the batch of all ranks. The weights are constants for the gradient: the paper does not say.
"""

from compress.mitigations._shared import Batch, Gamma, Tensor

SMALLEST = 2.0**-126
"""The smallest normal float32."""


class Focal(Gamma):
    """Batch-normalised focal loss: samples that the student solves weigh less."""

    needs = frozenset({"batch_mean"})

    def batch_weight(self, batch: Batch) -> Tensor:
        """(1 - p_i)^gamma without a gradient, [B]; from log p, so that 1 - p keeps its digits."""
        log_p = -batch.cross_entropy().detach()
        return (-log_p.expm1()).clamp_min(0.0) ** self.gamma

    def loss(self, batch: Batch) -> Tensor:
        """-w_i log p_i, [B]; without `batch_mean` the mean is over these samples."""
        raw = self.batch_weight(batch)
        mean = raw.mean() if batch.batch_mean is None else batch.batch_mean
        return raw / mean.clamp_min(SMALLEST) * batch.cross_entropy()
