"""What the ranks agree on between two steps, without one waiting for another.

Each rank says what it wants with every step; all learn one step later whether any of them did, so that
all of them act at the same step. The sum travels while the step is computed.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from compress.runtime import interrupts, ranks, watchdog

UNKNOWN = (False, False, True)
"""What counts for the flags as long as nothing is known of them: none wants anything, one writes."""
_pending: list[tuple[dist.Work, torch.Tensor]] = []
_group: list[dist.ProcessGroup] = []


@contextmanager
def loop() -> Iterator[None]:
    """Context of a loop of steps that all ranks take together and that calls `exchange` in each."""
    with interrupts.loop(), watchdog.armed():
        yield


def exchange(late: bool = False, writing: bool = False) -> tuple[bool, ...]:
    """Whether a rank has got a signal, so that the run shall end; is `late`; and is `writing`.

    What all the ranks said at their previous call; of one rank what it says now. Called by all alike.
    """
    watchdog.beat()
    wishes = (interrupts.wanted(), late, writing)
    if ranks.world_size() == 1:
        return wishes
    if not _group:
        _group.append(dist.new_group(backend="gloo"))
    earlier = finish()
    flags = torch.tensor(wishes, dtype=torch.uint8)
    work = dist.all_reduce(flags, dist.ReduceOp.MAX, group=_group[0], async_op=True)
    _pending.append((work, flags))
    return earlier or UNKNOWN


def settled() -> bool:
    """Whether the run shall end, by what the ranks say now; each waits for all. Called by all alike."""
    now = exchange()
    return (finish() or now)[0]


def finish() -> tuple[bool, ...]:
    """Wait for the exchange that is under way; what came out, () if there is none."""
    if not _pending:
        return ()
    work, flags = _pending.pop()
    work.wait()
    return tuple(map(bool, flags.tolist()))
