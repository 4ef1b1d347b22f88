"""Product of experts (Clark et al. 2019), with the plain term of Sanh et al. 2021.

The student's probabilities are multiplied with those of a bias model, so that what the bias model
explains already gives little gradient. In use the student answers alone.
"""

from compress.configuration.blocks import NonNegative
from compress.mitigations._shared import Batch, FromBias, Tensor


class ProductOfExperts(FromBias):
    """Product of experts: what a bias model explains already is not learned again."""

    needs = frozenset({"bias"})
    plain_weight: NonNegative = 0.3
    """Weight of the plain cross-entropy beside that of the product; 0 leaves it out, at a price on
    dev."""

    def loss(self, batch: Batch) -> Tensor:
        """CE(y, softmax(log q + log b)) + plain_weight CE(y, q), [B]."""
        return batch.product_cross_entropy() + self.plain_weight * batch.cross_entropy()
