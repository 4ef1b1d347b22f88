"""Memory that the C library keeps is given back to the system."""

import sys

import pytest
from launcher import run

KEPT = """
import psutil, torch
from compress.runtime import memory

MB = 1 << 20

def resident():
    return psutil.Process().memory_info().rss // MB

first = torch.ones(30 * MB, dtype=torch.uint8)
del first  # makes glibc keep free blocks of up to this size
blocks, between = [], []
for _ in range(40):
    blocks.append(torch.ones(8 * MB, dtype=torch.uint8))
    between.append(torch.ones(1000, dtype=torch.uint8))
blocks.clear()
before = resident()
memory.give_back()
print(before, resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_free_blocks_go_back_to_the_system():
    done = run([sys.executable, "-c", KEPT])
    assert done.returncode == 0, done.stderr[-2000:]
    before, after = map(int, done.stdout.splitlines()[-1].split())
    assert after < before - 200, (before, after)
