"""Ranks that have ended are named by one of those that have not."""

import socket

import pytest
from launcher import environment_of
from preloaded import Python

from compress.runtime import ended
from compress.runtime.launchers import free_port

ONE_ENDS = """
import os
import sys
import time
import torch
import torch.distributed as dist
from compress.runtime import ended, ranks, watchdog

dist.init_process_group("gloo")
watchdog.start(60.0)
dist.barrier()
if str(dist.get_rank()) in sys.argv[1:]:
    os._exit(3)
values = torch.ones(8)
try:
    while True:
        dist.all_reduce(values)
except RuntimeError as error:
    if not ranks.lost(error):
        raise
    ended.end()
"""


NONE_ENDS = """
import atexit
import torch.distributed as dist
from compress.runtime import ended, watchdog

atexit.register(lambda: print("answers:", ended._state["thread"].is_alive(), flush=True))
dist.init_process_group("gloo")
watchdog.start(60.0)
dist.barrier()
"""


def three_ranks(*ending: str, program: str = ONE_ENDS) -> list:
    """What three ranks say and end with; ending: those that end in between."""
    meet = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "3",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    started = [
        Python(("-c", program, *ending), {**environment_of(), **meet, "RANK": n, "LOCAL_RANK": n})
        for n in "012"
    ]
    try:
        return [process.finished(100) for process in started]
    finally:
        for process in started:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "speaker"), [("12", 0), ("0", 1)])
def test_one_rank_names_those_that_have_ended(ending, speaker):
    done = three_ranks(*ending)
    assert [d.returncode for d in done] == [3 if str(n) in ending else 1 for n in range(3)], done
    host = socket.gethostname()
    which = (
        f"rank {ending} on host {host} has" if len(ending) == 1 else f"ranks 1, 2 on host {host} have"
    )
    sentence = f"error: {which} ended; without a reason above"
    assert [number for number in range(3) if sentence in done[number].stderr] == [speaker], done
    assert sum(d.stderr.count("error: ") for d in done) == 1, done


@pytest.mark.slow
def test_no_thread_is_inside_the_store_when_a_program_ends():
    """It would abort there: the interpreter ends threads where they come back from C++."""
    for done in three_ranks(program=NONE_ENDS):
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "answers: False"


def test_ranks_are_named_by_host():
    hosts = {1: "a", 2: "b", 3: "b"}
    assert ended.named(hosts) == "rank 1 on host a and ranks 2, 3 on host b"
