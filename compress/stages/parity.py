"""Whether an exported directory computes what the model in training did: their logits on dev samples.

They must agree to 1e-5 in float32, relative to the largest.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from compress.data.columns import Columns
from compress.errors import UserError
from compress.models import encoders, label_order, streamed
from compress.scoring.split_pass import SplitPass, forward_of

SAMPLES = 256
TOLERANCE = 1e-5


def logits(folder: Path, data: Columns, device: torch.device) -> NDArray[np.float64]:
    """Logits [N, C] of the model of a directory, computed block by block; on the calling rank alone."""
    names = label_order.names(folder, encoders.load_config(folder))
    model = encoders.load_classifier(folder, tuple(names), trained=True, whole=False).eval()
    with streamed.blocks(model, device):
        one = SplitPass(forward_of(model, device), data, SAMPLES, device)
        return one.logits(alone=True)


def difference(
    folder: Path, expected: NDArray[np.float64], data: Columns, device: torch.device
) -> float:
    """Largest difference between expected logits [N, C] and a directory's, relative to the largest.

    Below a largest logit of 1 it is absolute. data: the N samples. Runs on the calling rank alone.
    Raises UserError above the tolerance.
    """
    found = logits(folder, data, device)
    worst = float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
    if not worst <= TOLERANCE:
        raise UserError(
            f"{folder}: the exported model differs from the one in training by {worst:.1e} in its "
            f"logits (allowed: {TOLERANCE:.0e}); this is a defect of this program, please report it."
        )
    return worst
