"""Gradients are looked at, and masked, when they have arrived where the optimiser takes them."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from configs import SPARSE, Files

from compress.training import finite, trainer

OFFLOAD = "zero_optimization.offload_optimizer"
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "overrides", "expected"),
    [
        (CUDA, [f'{OFFLOAD}={{"device": "cpu", "pin_memory": true}}'], True),
        (CUDA, [f'{OFFLOAD}={{"device": "none"}}'], False),
        (CUDA, [], False),
        (CPU, [f'{OFFLOAD}={{"device": "cpu"}}'], False),
    ],
)
def test_gradients_are_copied_where_the_optimiser_is_offloaded_from_a_gpu(
    tmp_path, device, overrides, expected
):
    assert finite.copied(Files(tmp_path).load(SPARSE, overrides=overrides), device) == expected


@pytest.mark.parametrize("copied", [True, False])
def test_a_step_waits_for_the_copies_before_it_reads_or_masks_gradients(monkeypatch, copied):
    done = []
    device = SimpleNamespace(synchronize=lambda: done.append("copied"))
    monkeypatch.setattr(trainer, "get_accelerator", lambda: device)
    method = SimpleNamespace(before_step=lambda: done.append("masked"))
    training = SimpleNamespace(
        _copied=copied,
        _finite=SimpleNamespace(failed=lambda: done.append("read"), forget=lambda: None),
        profile=SimpleNamespace(part=lambda name: nullcontext()),
        training=SimpleNamespace(methods=[method]),
    )
    trainer.Trainer._before_step(training)
    assert done == [*(["copied"] if copied else []), "read", "masked"]
