"""Confidence regularisation (Utama et al. 2020a): a teacher that is less sure where a bias suffices.

`rmc` with lambda 1 and another difficulty: d_i = 1 - b_i, b_i the probability that a bias model gives
the gold label.
"""

from compress.mitigations._shared import Batch, FromBias, Tensor


class Confidence(FromBias):
    """Confidence regularisation: the teacher is smoothed where a bias model finds the gold label."""

    needs = frozenset({"teacher", "bias"})

    def loss(self, batch: Batch) -> Tensor:
        """KL(s || q), [B], s proportional to p^(1 - b_i): the gradient of the cross-entropy with s."""
        return batch.divergence(1 - batch.bias_of_gold())
