"""Distillation from the teacher as it is (Du et al. 2023, Eq. 3 with s = p)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.mitigations._shared import Lambda

if TYPE_CHECKING:
    from torch import Tensor

    from compress.microbatch import Batch


class Distil(Lambda):
    """Plain distillation."""

    needs = frozenset({"teacher"})

    def loss(self, batch: Batch) -> Tensor:
        """(1 - lambda) CE(y, q) + lambda KL(p || q), [B]."""
        return batch.distillation(self.lambda_, batch.constant(1.0))
