"""Distillation from a teacher smoothed alike for all samples (Du et al. 2023, Sec. 6.2: 0.9)."""

from compress.mitigations._shared import Batch, Lambda, Smoothing, Tensor


class Smooth(Lambda, Smoothing):
    """Distillation from a teacher that is smoothed alike for all samples."""

    needs = frozenset({"teacher"})

    def loss(self, batch: Batch) -> Tensor:
        """Eq. 3 with d_i = smoothing, [B]."""
        return batch.distillation(self.lambda_, batch.constant(self.smoothing))
