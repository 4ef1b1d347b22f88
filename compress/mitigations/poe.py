"""Product of experts (Clark et al. 2019), with the plain term of Sanh et al. 2021.

The student's probabilities are multiplied with those of a bias model, so that what the bias model
explains already gives little gradient. In use the student answers alone.
"""

from compress.configuration.blocks import Fraction, NonNegative
from compress.mitigations._shared import Batch, FromBias, Tensor


class ProductOfExperts(FromBias):
    """Product of experts: what a bias model explains already is not learned again."""

    needs = frozenset({"bias"})
    plain_weight: NonNegative = 0.3
    """Weight of the plain cross-entropy beside that of the product; 0 leaves it out, at a price on
    dev."""

    warmup: Fraction = 0.0
    """Fraction of the training over which the bias model sets in; 0: from the first step."""

    def loss(self, batch: Batch) -> Tensor:
        """CE(y, softmax(log q + w log b)) + plain_weight CE(y, q), [B]; w: 0 to 1 in the warm-up."""
        return batch.product_cross_entropy(self.warmup) + self.plain_weight * batch.cross_entropy()
