"""Cross-entropy with the gold label, -log q_y (Du et al. 2023, Sec. 6.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.mitigations._shared import Mitigation

if TYPE_CHECKING:
    from torch import Tensor

    from compress.microbatch import Batch


class Vanilla(Mitigation):
    """The plain loss."""

    def loss(self, batch: Batch) -> Tensor:
        """-log q_y, [B]."""
        return batch.cross_entropy()
