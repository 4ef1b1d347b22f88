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


LATE = """
import time
import torch.distributed as dist
from compress.runtime import watchdog

watchdog.ANSWER = 0.5
dist.init_process_group("gloo")
if dist.get_rank() == 0:
    time.sleep(2)
watchdog.start(60.0)
dist.barrier()
print("goes on")
"""


MAIN_ALONE = """
import socket
import subprocess
import sys
import time
from datetime import timedelta
import torch.distributed as dist
from compress.runtime import ended, ranks, watchdog

SECONDS = watchdog.STILL = 2.0
ranks.WAIT = timedelta(seconds=1)

def hangs():
    ends = socket.socketpair()
    ends[0].recv(1)

def computes():
    until = time.monotonic() + 2.5 * SECONDS
    while time.monotonic() < until:
        pass

def waits_for_a_child():
    subprocess.run(["sh", "-c", f"timeout {2.5 * SECONDS} yes > /dev/null"])

def waits_for_another_run():
    for _ in range(int(2.5 * SECONDS)):
        watchdog.beat()
        time.sleep(1)

dist.init_process_group("gloo")
watchdog.start(SECONDS)
try:
    ranks.on_main(globals()[sys.argv[1]])
except RuntimeError as error:
    if not ranks.lost(error):
        raise
    ended.end()
print("goes on")
"""


def three_ranks(*ending: str, program: str = ONE_ENDS) -> list:
    """What three ranks say and end with; ending: those that end in between, or another argument."""
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


@pytest.mark.slow
def test_a_main_rank_that_is_late_is_waited_for():
    """For longer than for an answer, as in the collectives that follow."""
    for done in three_ranks(program=LATE):
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "goes on"


@pytest.mark.slow
def test_a_main_rank_that_hangs_in_work_of_its_own_is_named():
    host = socket.gethostname()
    done = three_ranks("hangs", program=MAIN_ALONE)
    assert [d.returncode for d in done] == [1, 1, 1], done
    said = (
        f"error: rank 0 on host {host}, at <string>, line 15, did nothing for 2 s (robust_compression"
    )
    assert said in done[0].stderr, done
    assert f"error: rank 0 on host {host} has ended" in done[1].stderr, done


@pytest.mark.slow
@pytest.mark.parametrize("what", ["computes", "waits_for_a_child", "waits_for_another_run"])
def test_long_work_of_the_main_rank_goes_on(what):
    """For more than twice the timeout."""
    for done in three_ranks(what, program=MAIN_ALONE):
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "goes on"


def test_ranks_are_named_by_host():
    hosts = {1: "a", 2: "b", 3: "b"}
    assert ended.named(hosts) == "rank 1 on host a and ranks 2, 3 on host b"
