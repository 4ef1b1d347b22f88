"""From an engine to plain weights: gathered from all ranks.

Under ZeRO 3 each parameter is gathered in turn, so that no rank holds more than one whole model on its
device.
"""

import deepspeed
from torch import Tensor

from compress import ranks


def gather(engine: deepspeed.DeepSpeedEngine, everywhere: bool = False) -> dict[str, Tensor]:
    """Whole weights as float32, and buffers, on the CPU of the main rank; empty on the others.

    everywhere: on all ranks.

    Under bf16 or fp16 these are the rounded weights that the engine computes with, not its master copy.

    A collective call under ZeRO 3: all ranks must make it.
    """
    weights: dict[str, Tensor] = {}
    wanted = everywhere or ranks.is_main()
    partitioned = engine.zero_optimization_stage() == 3
    for name, parameter in engine.module.named_parameters(remove_duplicate=False):
        with deepspeed.zero.GatheredParameters([parameter], enabled=partitioned):
            if wanted:
                weights[name] = parameter.detach().float().cpu().clone()
    if wanted:
        for name, buffer in engine.module.named_buffers():
            weights[name] = buffer.detach().cpu().clone()
    return weights
