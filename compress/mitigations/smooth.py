"""Distillation from a teacher smoothed alike for all samples (Du et al. 2023, Sec. 6.2: 0.9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.mitigations._shared import Lambda, Smoothing

if TYPE_CHECKING:
    from torch import Tensor

    from compress.microbatch import Batch


class Smooth(Lambda, Smoothing):
    """Distillation with one d for all samples."""

    needs = frozenset({"teacher"})

    def loss(self, batch: Batch) -> Tensor:
        """Eq. 3 with d_i = smoothing, [B]."""
        return batch.distillation(self.lambda_, batch.constant(self.smoothing))
