"""Distillation from the teacher as it is (Du et al. 2023, Eq. 3 with s = p)."""

from compress.mitigations._shared import Batch, Lambda, Tensor


class Distil(Lambda):
    """Distillation from the teacher as it is."""

    needs = frozenset({"teacher"})

    def loss(self, batch: Batch) -> Tensor:
        """(1 - lambda) CE(y, q) + lambda KL(p || q), [B]."""
        return batch.distillation(self.lambda_, batch.constant(1.0))
