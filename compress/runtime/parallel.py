"""Work on many items by several processes of this machine, with the results in order.

The processes are started anew (not forked): the main process may hold threads and a device.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import resource_tracker
from typing import Any, TypeVar

from compress.errors import UserError
from compress.runtime import cgroups

T = TypeVar("T")
R = TypeVar("R")
FEW = 16
"""Items that are not worth a start of processes, which takes about a second."""
AHEAD = 3
"""Items for each process that are handed out before the first of them is asked for."""
KEY = "robust_compression.processes"
_work: list[Callable[[Any], Any]] = []


def available() -> int:
    """Processors that this process may use."""
    return min(len(os.sched_getaffinity(0)), cgroups.cpus() or sys.maxsize)


def in_order(work: Callable[[T], R], items: Iterable[T], processes: int) -> Iterator[R]:
    """`work(item)` of each item, in their order; `AHEAD` items a process are under way.

    work, items and results must be picklable; work is sent once. A few items are worked on here. An
    error, of the work or of the items, comes after the results before it. Raises UserError if a process
    is killed.
    """
    source = iter(items)
    first: list[T] = []
    try:
        first.extend(islice(source, FEW + 1))
    except Exception:
        yield from map(work, first)
        raise
    if processes == 1 or len(first) <= FEW:
        yield from map(work, chain(first, source))
        return
    context = multiprocessing.get_context("spawn")
    _start_tracker()
    with ProcessPoolExecutor(processes, context, _begin, (work,)) as pool:
        try:
            yield from _results(pool, chain(first, source), AHEAD * processes)
        except BrokenProcessPool:
            raise UserError(
                f"{KEY}: one of the {processes} processes that prepare the data was killed, perhaps "
                "for want of memory; set a smaller number."
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _results(pool: ProcessPoolExecutor, source: Iterator[T], most: int) -> Iterator[Any]:
    """Results in order, with `most` items under way."""
    under_way: deque[Future[Any]] = deque()
    failure: Exception | None = None
    more = True
    while True:
        while more and len(under_way) < most:
            try:
                under_way.append(_submitted(pool, next(source)))
            except StopIteration:
                more = False
            except BrokenProcessPool:
                raise
            except Exception as error:  # noqa: BLE001  raised again after the results before it
                more, failure = False, error
        if not under_way:
            break
        yield under_way.popleft().result()
    if failure is not None:
        raise failure


def _submitted(pool: ProcessPoolExecutor, item: Any) -> Future[Any]:  # noqa: ANN401  whatever the work takes and gives
    """Hand out an item; the processes that this starts do not hear of Ctrl-C, from their beginning."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_one, item)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_tracker() -> None:
    """Start the process of multiprocessing that cleans up after a killed program, without its line."""
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore"
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


def _begin(work: Callable[[Any], Any]) -> None:
    """The start of a process: it ends with the one that started it."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by multiprocessing"

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True, name="parent").start()
    _work.append(work)


def _one(item: Any) -> Any:  # noqa: ANN401  whatever the work takes and gives
    return _work[0](item)
