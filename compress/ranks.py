"""What the ranks say to each other: thin helpers on torch.distributed, no-ops in a single process.

Why here: only the trainer, the checkpoint and the compression seam know DeepSpeed.
"""

from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

T = TypeVar("T")


def rank() -> int:
    """Global rank of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the rank that writes and prints."""
    return rank() == 0


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


def broadcast(value: T, device: torch.device | str = "cpu") -> T:
    """The main rank's `value` (any picklable object) on every rank."""
    if world_size() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device(device))
    return box[0]


def all_sum(values: NDArray[np.floating], device: torch.device | str = "cpu") -> NDArray[np.float64]:
    """Sum of an array over the ranks, on every rank, in float64."""
    tensor = torch.as_tensor(np.asarray(values, dtype=np.float64)).to(device)
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor.cpu().numpy()
