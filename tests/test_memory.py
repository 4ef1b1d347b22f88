"""Memory that the C library keeps is given back; what is advised when memory does not suffice."""

import json
import sys

import pytest
import torch
from launcher import ROOT, run

from compress.configuration import config
from compress.runtime import memory, ranks

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


PLAIN = 'set zero_optimization.offload_optimizer to {"device": "cpu"}'
WITH_STAGE = PLAIN.replace("set ", "set zero_optimization.stage to 3 and ")
TO_3 = "set zero_optimization.stage to 3"


@pytest.mark.parametrize(
    ("stage", "pruning", "more", "count", "expected"),
    [
        (0, "imp40", [], 1, []),
        (1, "imp40", [], 1, [WITH_STAGE]),
        (2, "imp40", [], 1, [WITH_STAGE]),
        (2, "imp40", [], 2, [TO_3, WITH_STAGE]),
        (3, "imp40", [], 2, [PLAIN]),
        (2, "imp40", ["gradient_clipping=0"], 1, [PLAIN]),
        (2, "imp40", ["robust_compression.masks=deepspeed"], 1, [PLAIN]),
        (2, "movement40", [], 1, [PLAIN]),
        (2, "movement40", ["robust_compression.loss.hook=rmc"], 1, [WITH_STAGE]),
    ],
)
def test_what_is_advised_on_a_gpu_is_a_valid_configuration(
    stage, pruning, more, count, expected, monkeypatch
):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(ranks, "world_size", lambda: count)
    names = "zero2", "tasks/synthetic", f"compression/{pruning}"
    files = [ROOT / f"ds_configs/{name}.json" for name in names]
    given = [f"zero_optimization.stage={stage}", *more]
    assert memory._partition(config.load(files, given)) == expected
    for advice in expected:
        block = {"stage": 3 if "stage to 3" in advice else stage}
        block |= {"offload_optimizer": {"device": "cpu"}} if "offload" in advice else {}
        config.load(files, [*more, f"zero_optimization={json.dumps(block)}"])
