"""Communication between the ranks: short functions on torch.distributed, no-ops in a single process."""

import itertools
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from tqdm import tqdm

from compress.errors import UserError, first_line
from compress.runtime import watchdog

T = TypeVar("T")
WAIT = timedelta(seconds=5)
"""Between two signs of life of a rank that waits for the main one."""


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
    """Wait for all ranks, however long one takes: not in a collective, which has a time limit."""
    if world_size() > 1:
        _await(range(world_size()))


def _device() -> torch.device:
    """The device of the backend's tensors: the CPU for gloo, else this rank's accelerator."""
    if dist.get_backend() == "gloo":
        return torch.device("cpu")
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None, "a backend other than gloo needs an accelerator"
    return torch.device(accelerator.type, torch.accelerator.current_device_index())


def broadcast(value: T) -> T:
    """The main rank's `value` (any picklable object) on every rank."""
    if world_size() == 1:
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values, src=0, device=_device())
    return values[0]


def on_main(work: Callable[[], T]) -> T:
    """What `work` returns on the main rank, which alone calls it, on every rank; any picklable object.

    An error is raised on all ranks, as by `sharing_errors`.
    """
    made = None
    with sharing_errors():
        if is_main():
            made = work()
    return broadcast(cast(T, made))


def gathered(work: Callable[[], T]) -> list[T | str]:
    """What `work` returns on each rank, in their order, on every rank; small objects.

    The text of a UserError or OSError stands in the place of what a rank does not return.
    """
    found: T | str
    try:
        found = work()
    except (UserError, OSError) as error:
        found = str(error)
    if world_size() == 1:
        return [found]
    every: list[Any] = [None] * world_size()
    dist.all_gather_object(every, found)
    return every


def on_this_host() -> int:
    """Number of ranks of this rank's host; all ranks call it."""
    return gathered(socket.gethostname).count(socket.gethostname())


@contextmanager
def sharing_errors() -> Iterator[None]:
    """Context in which an error of the main rank ends all ranks; all wait at its end.

    On the other ranks it is a UserError with the same text, so that none waits for a rank that has
    failed. There must be no collective call inside: the ranks would wait in different ones. They do not
    wait in a collective for what the main rank does, however long it takes.
    """
    if world_size() == 1:
        yield
        return
    try:
        yield
    except Exception as error:
        if is_main() or isinstance(error, UserError):
            _meet()
            broadcast(str(error) or type(error).__name__)
        raise
    _meet()
    why: str | None = broadcast(None)
    if why is not None:
        raise UserError(why)


_meetings = itertools.count()


def _meet() -> None:
    """Wait for the main rank; the others go on at once."""
    _await([0])


def _await(whom: Iterable[int]) -> None:
    """Wait for these ranks at the store where the ranks have met, which has no time limit."""
    store, number = dist.distributed_c10d._get_default_store(), next(_meetings)
    if rank() in whom:
        store.set(f"meeting/{number}/{rank()}", "1")
    keys = [f"meeting/{number}/{other}" for other in whom if other != rank()]
    if not keys:
        return
    with watchdog.armed():  # the store is in the main rank's process, and blocks if that hangs
        while True:
            began = time.monotonic()
            try:
                store.wait(keys, WAIT)
            except dist.DistStoreError:
                if time.monotonic() - began < WAIT.total_seconds() / 2:
                    raise  # not the end of the waiting time: the store is gone
                watchdog.beat()
            else:
                return


LOST = ("closed by peer", "reset by peer", "broken pipe", "remote process exited", "socket closed")
"""Parts of the errors of gloo and NCCL when another rank has ended."""
WITHOUT_STORE = (dist.DistNetworkError, dist.DistStoreError)
"""What a rank raises that waits at the store when the main rank, whose process holds it, has ended."""


def lost(error: RuntimeError) -> bool:
    """Whether ranks could not wait for one another because another one has ended."""
    text = str(error).lower()
    signs = isinstance(error, WITHOUT_STORE) or any(sign in text for sign in LOST)
    return world_size() > 1 and signs


def unreachable(error: RuntimeError) -> str | None:
    """The sentence for ranks that met at the store and cannot connect to one another; else None."""
    if "connectfullmesh" not in str(error).lower():
        return None
    return (
        f"the ranks have met and cannot connect to one another ({first_line(error)[:200]}); open all "
        "ports between the hosts, or name the network interface between them in GLOO_SOCKET_IFNAME."
    )


def say(text: str) -> None:
    """Print a line, from the main rank only."""
    if is_main():
        tqdm.write(text)


def all_sum(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sum of an array over the ranks, on every rank, in float64."""
    local = np.asarray(values, dtype=np.float64)
    if world_size() == 1:
        return local
    tensor = torch.as_tensor(local).to(_device())
    dist.all_reduce(tensor)
    return tensor.cpu().numpy()


def gathered_rows(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The arrays [...] of all ranks, of one shape, on every rank, [ranks, ...]."""
    if world_size() == 1:
        return values[None]
    local = torch.as_tensor(values).to(_device())
    every = [torch.empty_like(local) for _ in range(world_size())]
    dist.all_gather(every, local)
    return torch.stack(every).cpu().numpy()


def rows_of(source: int, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The array [...] of one rank on every rank; all have one of the same shape."""
    if world_size() == 1:
        return values
    tensor = torch.as_tensor(values).to(_device(), copy=True)
    dist.broadcast(tensor, source)
    return tensor.cpu().numpy()


def sum_tensor(values: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over the ranks, on every rank and on its device, which is not waited for."""
    if world_size() == 1:
        return values
    total = values.to(_device(), copy=True)
    dist.all_reduce(total)
    return total.to(values.device)
