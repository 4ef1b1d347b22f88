"""Robust model compression (Du et al. 2023, Sec. 5.2): the teacher is smoothed by difficulty."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.mitigations._shared import FromDifficulty, Lambda

if TYPE_CHECKING:
    from torch import Tensor

    from compress.microbatch import Batch


class Rmc(FromDifficulty, Lambda):
    """Distillation with a d of each sample."""

    needs = frozenset({"teacher", "difficulty"})

    def loss(self, batch: Batch) -> Tensor:
        """(1 - lambda) CE(y, q) + lambda KL(s || q), [B] (Eq. 3, s from Eq. 2)."""
        return batch.distillation(self.lambda_, batch.known_difficulty())
