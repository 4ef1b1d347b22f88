"""Names the ranks that have ended, where others find that they cannot go on without them.

A rank that finds it asks the others through the store at which the ranks met; each that still runs
answers within `LOOK` seconds, from a thread of its own. Those that do not answer have ended.
"""

import atexit
import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

import torch.distributed as dist

from compress.errors import UserError, fail
from compress.runtime import interrupts

LOOK, ANSWER, STAY, MOST = 1.0, 2.0, 2.0, 15.0
"""Seconds between two looks at whether a rank asks; for which the answers are waited for; for which a
rank then stays, so that the others can read the answers in the process of rank 0; for all of it, where
the store in that process answers late."""
RUNS, ENDS = "runs", "ends"
_state: dict[str, Any] = {"thread": None, "ended": {}}
_stopped, ending = threading.Event(), threading.Event()
"""That a rank answers no more; that it is about to end and waits for others or for threads."""


def watch(store: dist.Store) -> None:
    """Answer from now on; store: of this rank, which has set `host/<rank>` there."""
    store.set(f"{RUNS}/{dist.get_rank()}", "")
    main = store.get("host/0").decode()
    thread = threading.Thread(target=_listen, args=(store, main), daemon=True, name="ended")
    _state.update(store=store, thread=thread)
    atexit.register(_stop)
    thread.start()


def _stop() -> None:
    """Stop answering: a thread that is inside the store when the interpreter ends would abort it."""
    ending.set()
    _stopped.set()
    _state["thread"].join(MOST)


def end() -> NoReturn:
    """End this process with exit code 1; the first rank that still runs names those that have ended."""
    ending.set()
    with interrupts.loop():  # the launcher's SIGTERM may come before the answers
        if _state["thread"] is not None:
            with suppress(RuntimeError):  # rank 0 has ended, and with it the store
                _state["store"].set(ENDS, "1")
            _state["thread"].join(MOST)
        ended: dict[int, str] = _state["ended"]
        if not ended:
            fail(UserError(_sentence("another rank has")))
        left = (number for number in range(dist.get_world_size()) if number not in ended)
        if dist.get_rank() == next(left):
            have = "has" if len(ended) == 1 else "have"
            sys.stdout.flush()
            sys.stderr.write(f"error: {_sentence(f'{named(ended)} {have}')}\n")
            sys.stderr.flush()
        time.sleep(STAY)
        os._exit(1)


def named(hosts: Mapping[int, str]) -> str:
    """Such as `rank 1 on host node2`, or `ranks 2, 3 on host node2`; hosts: of each rank."""
    groups: dict[str, list[int]] = {}
    for number, host in hosts.items():
        groups.setdefault(host, []).append(number)
    return " and ".join(
        f"rank{'s' if len(group) > 1 else ''} {', '.join(map(str, group))} on host {host}"
        for host, group in groups.items()
    )


def _sentence(who: str) -> str:
    return (
        f"{who} ended; without a reason above, it was killed (`dmesg` on its host says if memory ran "
        "out). All ranks end; the same command continues."
    )


def _listen(store: dist.Store, main: str) -> None:
    """Answer once a rank asks, then keep who has not; main: the host of rank 0."""
    try:
        while not store.check([ENDS]):
            if _stopped.wait(LOOK):
                return
        store.set(f"{RUNS}/{dist.get_rank()}", "1")
        time.sleep(ANSWER)
        answers = store.multi_get([f"{RUNS}/{number}" for number in range(dist.get_world_size())])
        silent = [number for number, answer in enumerate(answers) if not answer]
        _state["ended"] = {number: store.get(f"host/{number}").decode() for number in silent}
    except RuntimeError:
        _state["ended"] = {0: main}
