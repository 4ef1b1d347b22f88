"""A deferred model that computes with one Transformer block in memory: read before, forgotten after."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from compress.models import deferred
from compress.models.blocks import block_names

Places = list[tuple[nn.Module, str, nn.Parameter]]


@contextmanager
def blocks(model: PreTrainedModel, device: torch.device) -> Iterator[None]:
    """Context in which each block has its weights, float32 on the device, while it computes.

    What lies outside the blocks is read once, and stays. A model that is not deferred is left as it is.
    """
    inside, handles = list[nn.Module](), []
    for name in block_names(model):
        block = model.get_submodule(name)
        places = _places(block)
        inside += block.modules()
        handles.append(block.register_forward_pre_hook(_reader(places, device)))
        handles.append(block.register_forward_hook(_forgetter(places)))
    held = set(map(id, inside))
    for module in model.modules():
        if id(module) not in held:
            deferred.fill_own(module)
    for tensor in (*model.parameters(), *model.buffers()):
        if not tensor.is_meta:
            tensor.data = tensor.data.to(device)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _places(block: nn.Module) -> Places:
    return [
        (module, name, parameter)
        for module in block.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if hasattr(parameter, deferred.SOURCE)
    ]


def _reader(places: Places, device: torch.device) -> Any:  # noqa: ANN401  a hook of torch
    def read(*_: object) -> None:
        for module, name, parameter in places:
            values = deferred.source_of(parameter)().to(device, torch.float32)
            module._parameters[name] = nn.Parameter(values, requires_grad=False)

    return read


def _forgetter(places: Places) -> Any:  # noqa: ANN401  a hook
    def forget(*_: object) -> None:
        for module, name, parameter in places:
            module._parameters[name] = parameter

    return forget
