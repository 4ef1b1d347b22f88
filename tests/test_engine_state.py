"""States of the optimiser are put back on the device where its step wants them."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from compress.checkpoints.pieces import Piece
from compress.training import engine_state, shards


def loaded(device: str, step: object, settings: dict) -> dict:
    """States of a parameter on a device, read from files on the CPU."""
    weight = nn.Parameter(torch.empty(4, device=device))
    optimizer = SimpleNamespace(state=defaultdict(dict), param_groups=[settings])
    state = {
        "optimizer": {"exp_avg": {"weight": Piece(torch.ones(4), 0, 4)}},
        "optimizer_scalars": {"step": step, "other": torch.tensor(2.0)},
        "groups": [{"lr": 1.0}, settings],
    }
    engine = SimpleNamespace(basic_optimizer=optimizer)
    with torch.no_grad():
        engine_state._load_optimizer(engine, shards.plain({"weight": weight}), state)
    return optimizer.state[weight]


@pytest.mark.parametrize("settings", [{"fused": True}, {"fused": None, "capturable": True}], ids=str)
def test_the_step_of_a_fused_optimiser_lies_beside_its_parameter(settings):
    """torch's fused AdamW refuses one on the CPU; the meta device stands for a GPU."""
    own = loaded("meta", torch.tensor(3.0), settings)
    assert {value.device.type for value in own.values()} == {"meta"}


@pytest.mark.parametrize("settings", [{}, {"fused": None, "capturable": False}], ids=str)
def test_the_step_of_another_optimiser_stays_on_the_cpu(settings):
    step = torch.tensor(3.0)
    own = loaded("meta", step, settings)
    assert own["step"].device.type == "cpu" and own["step"] == 3
    assert own["step"].data_ptr() != step.data_ptr()
    assert own["exp_avg"].device.type == own["other"].device.type == "meta"


@pytest.mark.parametrize("settings", [{}, {"fused": True}], ids=str)
def test_the_step_of_an_offloaded_optimiser_stays_with_it(settings):
    step = torch.tensor(3.0)
    own = loaded("cpu", step, settings)
    assert own["step"].device.type == "cpu" and own["step"].data_ptr() != step.data_ptr()
    assert own["exp_avg"].tolist() == [1, 1, 1, 1]


def test_a_number_of_steps_stays_a_number():
    """DeepSpeed's own optimisers count in int."""
    assert type(loaded("meta", 3, {})["step"]) is int
