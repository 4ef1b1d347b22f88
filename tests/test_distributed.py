"""How a rank joins the process group, with a stub in place of the GPUs."""

import os
from types import SimpleNamespace

import deepspeed
import pytest
import torch

from compress.runtime.launchers import Launch
from compress.training import distributed


@pytest.mark.parametrize(
    ("visible", "expected"), [(1, 0), (4, 3)], ids=["its own GPU alone", "all GPUs of the host"]
)
def test_the_device_is_known_before_the_ranks_meet(visible, expected, monkeypatch):
    """DeepSpeed gives torch's process group the device of LOCAL_RANK, which has to be there."""
    asked, taken = [], []
    stub = SimpleNamespace(
        device_name=lambda: "cuda",
        device_count=lambda: visible,
        set_device=taken.append,
        current_device_name=lambda: f"cuda:{taken[-1]}",
    )
    monkeypatch.setattr(os, "environ", {"OMPI_COMM_WORLD_LOCAL_RANK": "3"})
    monkeypatch.setattr(distributed, "get_accelerator", lambda: stub)
    monkeypatch.setattr(distributed, "quieten", lambda: None)
    monkeypatch.setattr(distributed.watchdog, "start", lambda timeout: None)
    names = distributed.LOCAL_RANKS

    def meet(**_):
        asked.append({name: os.environ[name] for name in names})

    monkeypatch.setattr(deepspeed, "init_distributed", meet)
    launch = Launch("srun", rank=3, local_rank=3, ranks=4, address="127.0.0.1", port=1)
    assert distributed.start(launch=launch) == torch.device("cuda", expected)
    assert asked == [dict.fromkeys(names, str(expected))]
