"""Whether the main thread of a rank waits for the others, from where it is."""

from types import SimpleNamespace

import pytest
from deepspeed.comm import comm
from deepspeed.runtime import engine
from deepspeed.runtime.zero import stage3
from torch.distributed import distributed_c10d

from compress.compression.native import selection
from compress.runtime import agreement, ranks, watchdog
from compress.scoring import split_pass
from compress.training import finite, trainer, window

READING = (ranks, agreement, finite, window, selection, split_pass, engine, stage3)
"""What reads the result of a collective from the device."""


def place(*files):
    """Of a thread whose innermost line is in the first file, which the next one has called."""
    frame = None
    for file in reversed(files):
        frame = SimpleNamespace(f_code=SimpleNamespace(co_filename=file), f_lineno=7, f_back=frame)
    return watchdog._place(frame)


@pytest.mark.parametrize("module", [comm, distributed_c10d], ids=lambda m: m.__name__)
def test_a_rank_in_a_collective_waits(module):
    assert place("/lib/functools.py", module.__file__, trainer.__file__) == {
        "at": "functools.py, line 7",
        "waits": True,
    }


@pytest.mark.parametrize("module", READING, ids=lambda m: m.__name__)
def test_a_rank_that_reads_the_result_of_a_collective_waits(module):
    """With NCCL a collective has returned by then; what such a line calls does not wait."""
    assert place(module.__file__, trainer.__file__)["waits"]
    assert not place("/home/user/loss.py", module.__file__, trainer.__file__)["waits"]


def test_any_other_rank_does_not_wait():
    assert not place("/home/user/loss.py", trainer.__file__)["waits"]
    assert not place(trainer.__file__)["waits"]
    assert watchdog._place(None) == {"at": "its end", "waits": False}
