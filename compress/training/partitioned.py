"""ZeRO 3 without a whole model anywhere: each parameter is read, dealt to the ranks, and forgotten.

The main rank reads a tensor from its file, all receive it, and each keeps its slice (`zero.Init`), so
that a rank holds its part of the model and one tensor. The other way, transformers under its own
DeepSpeed configuration, holds a whole copy on the main rank and needs accelerate.
"""

from collections.abc import Mapping
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from compress.models import deferred
from compress.runtime import ranks, watchdog

USED = ("zero_optimization", "bf16", "fp16")
"""Blocks of DeepSpeed's configuration that say how parameters are divided."""


def fill(model: nn.Module, settings: Mapping[str, Any]) -> None:
    """Give a deferred model its weights, in place and divided; collective.

    Parameters stay the same objects. settings: DeepSpeed's configuration of the engine that follows, of
    ZeRO stage 3. An error of the main rank, which alone reads, ends all ranks, after the last
    parameter, so that none waits for another in a collective.
    """
    block = {key: settings[key] for key in USED if key in settings}
    block["train_micro_batch_size_per_gpu"] = 1
    dtype = _precision(settings)
    first: Any = None
    failed: Exception | None = None
    for parameter in model.parameters():
        values = None
        if ranks.is_main() and failed is None and hasattr(parameter, deferred.SOURCE):
            try:
                values = deferred.source_of(parameter)().to(dtype)
            except Exception as error:  # noqa: BLE001  raised below
                failed = error
        whole = _whole(parameter, values, dtype)
        if whole is not parameter:
            torch.utils.swap_tensors(parameter, whole)
        if first is None:
            deepspeed.zero.Init(module=nn.ParameterList([parameter]), config_dict_or_path=block)
            first = parameter
        else:
            first.convert_to_zero_parameters(param_list=[parameter])
        watchdog.beat()
    with ranks.sharing_errors():
        if failed is not None:
            raise failed
    device = next(model.parameters()).device
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)


def _precision(settings: Mapping[str, Any]) -> torch.dtype:
    """The type that the engine computes with."""
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    found = [kind for key, kind in kinds.items() if settings.get(key, {}).get("enabled")]
    return found[0] if found else torch.float32


def _whole(parameter: nn.Parameter, values: Tensor | None, dtype: torch.dtype) -> nn.Parameter:
    """A parameter with its values; with room for them where there are none."""
    if not hasattr(parameter, deferred.SOURCE):
        parameter.data = parameter.data.to(dtype)
        return parameter
    if values is None:
        values = torch.empty(parameter.shape, dtype=dtype)
    return nn.Parameter(values, requires_grad=parameter.requires_grad)
