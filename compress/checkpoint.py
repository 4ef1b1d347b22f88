"""From an engine to a model directory: weights gathered from all ranks, pruned weights set to 0.

safetensors only. Under ZeRO 3 each parameter is gathered in turn, so that no rank holds more than one
whole model in host memory.
"""

from pathlib import Path

import deepspeed
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compress import ranks
from compress.compression import Masks


def gather(engine: deepspeed.DeepSpeedEngine) -> dict[str, Tensor]:
    """Whole weights as float32, and buffers, on the CPU of the main rank; empty on the others.

    Under bf16 or fp16 these are the rounded weights that the engine computes with, not its master copy.

    A collective call under ZeRO 3: all ranks must make it.
    """
    weights: dict[str, Tensor] = {}
    partitioned = engine.zero_optimization_stage() == 3
    for name, parameter in engine.module.named_parameters(remove_duplicate=False):
        with deepspeed.zero.GatheredParameters([parameter], enabled=partitioned):
            if ranks.is_main():
                weights[name] = parameter.detach().float().cpu().clone()
    if ranks.is_main():
        for name, buffer in engine.module.named_buffers():
            weights[name] = buffer.detach().cpu().clone()
    return weights


def export(
    weights: dict[str, Tensor],
    masks: Masks,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> None:
    """Write a plain model directory: `model` is a fresh, uncompressed model of the same shape.

    Loads with `AutoModelForSequenceClassification.from_pretrained(folder)`.
    """
    plain = masks.apply(weights)
    expected = model.state_dict()
    with torch.no_grad():
        model.load_state_dict({name: plain[name] for name in expected})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
