"""A rank that hangs or is lost ends the run in bounded time; a sentence names the rank and its host.

While the ranks work in step (`armed`), each of them shows with `beat` that it goes on. One that has not
for `timeout` seconds tells the others through the store at which the ranks met, looks which of them do
the same, and ends. Those that say nothing are lost; if all speak, those hang that do not wait for
another. A rank that works by itself ends when it has taken no processor time for so long.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed as dist

from compress.errors import UserError, fail
from compress.runtime import ended
from compress.runtime.activity import Activity

LOOK, ANSWER, STILL = 1.0, 5.0, 90.0
"""Seconds between two looks at the clock; for which the others' answers are waited for; that a rank may
do nothing by itself, if `timeout` is less: it waits for files of other hosts and watches locks."""
STOPPED = 10.0
"""Seconds between two looks after which this process was stopped, as others (Slurm's suspend)."""
COLLECTIVE = (f"torch{os.sep}distributed{os.sep}", f"deepspeed{os.sep}comm{os.sep}")
WAITING = (
    "compress/runtime/ranks.py",
    "compress/runtime/agreement.py",
    "compress/training/finite.py",
    "compress/training/window.py",
    "compress/compression/native/",
    "compress/scoring/split_pass.py",
    "deepspeed/runtime/",
)
"""Where a rank reads what a collective gives. With NCCL it waits for the others there: the collective
itself returns at once."""
PREFIX = "robust_compression"
_state: dict[str, Any] = {"depth": 0, "beat": 0.0, "timeout": None, "store": None}


def start(timeout: float) -> None:
    """Watch this rank from now on; timeout: seconds. Nothing to watch with one rank."""
    if dist.get_world_size() == 1:
        return
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=ANSWER))
    _state.update(timeout=timeout, store=dist.PrefixStore(PREFIX, store))
    _state["store"].set(f"host/{dist.get_rank()}", socket.gethostname())
    _state["store"].wait(["host/0"], timedelta(seconds=timeout))  # rank 0 may be late
    ended.watch(_state["store"])
    threading.Thread(target=_watch, daemon=True, name="watchdog").start()


def beat() -> None:
    """This rank goes on."""
    _state["beat"] = time.monotonic()


@contextmanager
def armed() -> Iterator[None]:
    """Context in which `beat` comes at least every `timeout` seconds as long as all ranks go on."""
    beat()
    _state["depth"] += 1
    try:
        yield
    finally:
        _state["depth"] -= 1
        beat()


def timed_out(error: BaseException) -> bool:
    """Whether a collective failed because a rank did not take part in time."""
    text = str(error).lower()
    return _state["timeout"] is not None and ("timed out" in text or "timeout" in text)


def give_up() -> None:
    """End this process with the sentence; the first of the ranks that are there prints it."""
    main = sys._current_frames().get(threading.main_thread().ident or 0)
    store, rank = _state["store"], dist.get_rank()
    unreachable = f"rank 0 at {os.environ['MASTER_ADDR']} could not be reached"
    blocked = threading.Timer(3 * ANSWER, _end, (unreachable, True))  # a store whose process hangs
    blocked.daemon = True
    blocked.start()
    try:
        store.set(f"stuck/{rank}", json.dumps(_place(main)))
        time.sleep(ANSWER)
        found = {n: _answer(store, n) for n in range(dist.get_world_size())}
    except (RuntimeError, dist.DistError):
        _end(unreachable, True)
        return
    there = {n: place for n, place in found.items() if place is not None}
    missing = [n for n, place in found.items() if place is None]
    if missing:
        sentence = f"{_named(store, missing)} did not answer"
    else:
        busy = [n for n, place in there.items() if not place["waits"]] or list(there)
        where = there[busy[0]]["at"]
        sentence = f"{_named(store, busy)}, at {where}, did not take part in the next step"
    _end(sentence, rank == min(there))


def _watch() -> None:
    alone: Activity | None = None
    looked = time.monotonic()
    while True:
        time.sleep(LOOK)
        before, looked = looked, time.monotonic()
        if looked - before > STOPPED:
            beat()
            alone = None
        if _state["depth"]:
            alone = None
            if time.monotonic() - _state["beat"] > _state["timeout"]:
                give_up()
            continue
        alone = alone or Activity(_alone())
        if alone.still(_state["beat"]) and not ended.ending.is_set():
            _give_up_alone()


def _give_up_alone() -> None:
    """End this process, which does nothing outside the steps that the ranks take together."""
    place = _place(sys._current_frames().get(threading.main_thread().ident or 0))
    if place["waits"]:
        give_up()
    _end(f"{_named(_state['store'], [dist.get_rank()])}, at {place['at']}, did nothing", True, _alone())


def _alone() -> float:
    """Seconds that this rank may do nothing by itself."""
    return float(max(STILL, _state["timeout"]))


def _place(frame: FrameType | None) -> dict[str, Any]:
    """Where the main thread is: the innermost line, and whether it waits for other ranks."""
    if frame is None:
        return {"at": "its end", "waits": False}
    file = Path(frame.f_code.co_filename)
    at, waits = f"{file.name}, line {frame.f_lineno}", any(part in file.as_posix() for part in WAITING)
    while frame is not None:
        waits = waits or any(part in frame.f_code.co_filename for part in COLLECTIVE)
        frame = frame.f_back
    return {"at": at, "waits": waits}


def _answer(store: dist.Store, rank: int) -> dict[str, Any] | None:
    """Where a rank says that it is; None if it says nothing."""
    if not store.check([f"stuck/{rank}"]):
        return None
    place: dict[str, Any] = json.loads(store.get(f"stuck/{rank}"))
    return place


def _named(store: dist.Store, numbers: list[int]) -> str:
    """As `ended.named` says them."""
    hosts = dict.fromkeys(numbers, "an unknown host")
    for number in numbers:
        with suppress(RuntimeError, dist.DistError):
            hosts[number] = store.get(f"host/{number}").decode()
    return ended.named(hosts)


def _end(sentence: str, speaks: bool, seconds: float | None = None) -> None:
    """Exit code 1; the sentence if this rank is the one that speaks; seconds: None for the timeout."""
    timeout = _state["timeout"]
    key = " (robust_compression.timeout)" if seconds in (None, timeout) else ""
    long = f"{seconds or timeout:g} s{key}"
    if speaks:
        os.environ["LOCAL_RANK"] = "0"
        fail(UserError(f"{sentence} for {long}; look at that host, then start the run again."))
    time.sleep(1)
    os._exit(1)
