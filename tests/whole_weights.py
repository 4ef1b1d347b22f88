"""What the program never holds: all weights of an engine on a rank, and a whole cut model."""

from collections.abc import Mapping

import deepspeed
from torch import Tensor
from transformers import PreTrainedModel

from compress.compression.masks import Masks
from compress.models import compressed


def gathered(engine: deepspeed.DeepSpeedEngine) -> dict[str, Tensor]:
    """Weights as float32 and buffers, on every rank; under bf16 those that the engine computes with."""
    found, partitioned = {}, engine.zero_optimization_stage() == 3
    for name, parameter in engine.module.named_parameters(remove_duplicate=False):
        with deepspeed.zero.GatheredParameters([parameter], enabled=partitioned):
            found[name] = parameter.detach().float().cpu().clone()
    return found | {name: value.detach().cpu() for name, value in engine.module.named_buffers()}


def cut(masks: Masks, weights: Mapping[str, Tensor], shape: PreTrainedModel) -> PreTrainedModel:
    """The finished student; weights: gathered; shape: an uncompressed model."""
    remaining = masks.cut(masks.finish(dict(weights)), shape)
    small = compressed.build(masks.small(shape.config))
    small.load_state_dict(remaining)
    return small
