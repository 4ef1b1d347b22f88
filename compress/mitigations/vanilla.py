"""Cross-entropy with the gold label, -log q_y (Du et al. 2023, Sec. 6.2)."""

from compress.mitigations._shared import Batch, Mitigation, Tensor


class Vanilla(Mitigation):
    """Cross-entropy with the gold label."""

    def loss(self, batch: Batch) -> Tensor:
        """-log q_y, [B]."""
        return batch.cross_entropy()
