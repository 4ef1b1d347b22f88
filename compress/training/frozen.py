"""A frozen model beside the one in training; under ZeRO 3 each rank has a part of its weights."""

from typing import Any

import deepspeed
import torch
from torch import nn
from transformers import PreTrainedModel

from compress.configuration.config import Config
from compress.training.engine import NEVER


def place(model: PreTrainedModel, config: Config, device: torch.device) -> None:
    """Put a float32 model on the device, in place, in evaluation mode and without gradients.

    With `zero_optimization.stage` 3 by an engine of its own without optimiser: hooks fetch and release
    the weights of a layer at a time, so that forward calls are collective; outputs are those of the
    whole model, in float32 in a training of any precision. No weight persists on all ranks, see
    `engine_settings`.
    """
    model.eval().requires_grad_(False)
    if config.deepspeed.zero_optimization.stage < 3:
        nn.Module.to(model, device)
        return
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "steps_per_print": NEVER,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    }
    deepspeed.initialize(model=model, config=settings)
