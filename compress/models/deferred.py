"""Models whose weights are not there yet: parameters on the meta device that know what fills them.

At ZeRO 3 a training fills them one by one, and each rank keeps its part (`training.partitioned`). Names
and classes are what transformers makes of the directory: its own loading is given placeholders that
take no memory, and what it puts where is read from them. Buffers, and what the directory lacks
(a new head), are there.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from compress.errors import UserError
from compress.models import compressed
from compress.models.weight_files import WeightFiles

SOURCE = "weight_source"
"""Attribute of a deferred parameter: a function that gives its values on the CPU."""


def source_of(parameter: Tensor) -> Callable[[], Tensor]:
    """What fills a deferred parameter."""
    source: Callable[[], Tensor] = getattr(parameter, SOURCE)
    return source


def deferred(model: nn.Module) -> bool:
    """Whether a model's weights are still to be filled."""
    return any(hasattr(parameter, SOURCE) for parameter in model.parameters())


def values(tensor: Tensor) -> Tensor:
    """The values of a parameter or buffer, read if it is deferred."""
    return source_of(tensor)() if hasattr(tensor, SOURCE) else tensor


def zeros(shape: tuple[int, ...], like: Tensor) -> nn.Parameter:
    """A parameter of zeros of the type and on the device of another; deferred as that one is."""
    found = nn.Parameter(torch.zeros(shape, dtype=like.dtype, device=like.device))
    if like.is_meta:
        dtype = like.dtype
        setattr(found, SOURCE, lambda: torch.zeros(shape, dtype=dtype))
    return found


def load(path: Path, config: PreTrainedConfig) -> tuple[PreTrainedModel, list[str]] | None:
    """The classifier of a directory without its weights, and the names of what it lacks.

    What is lacking is drawn from torch's random state, as transformers does. None for a directory whose
    tensors are stored in another layout than the model has them, which only whole loading converts.
    """
    files = WeightFiles(path)
    if compressed.sizes(config) is not None:
        return _listed(files, config), []
    model, info, placeholders = _placed(config, files.shapes)
    shared = {tensor.untyped_storage().data_ptr(): name for name, tensor in placeholders.items()}
    lacking = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    for name, parameter in list(model.named_parameters()):
        if name in lacking:
            continue
        stored = shared.get(parameter.untyped_storage().data_ptr())
        if stored is None or files.shapes[stored] != parameter.shape:
            return None
        _defer(model, parameter, files, stored)
    for name in model.state_dict().keys() - dict(model.named_parameters(remove_duplicate=False)).keys():
        buffer = model.get_buffer(name)
        stored = shared.get(buffer.untyped_storage().data_ptr(), name)
        if stored in files.shapes:
            module, _, own = name.rpartition(".")
            setattr(model.get_submodule(module), own, files.read(stored).clone())
    return model, sorted(info["missing_keys"])


def _listed(files: WeightFiles, config: PreTrainedConfig) -> PreTrainedModel:
    """A model of listed sizes, whose tensors have the model's own names.

    Raises UserError unless every tensor is there in its size.
    """
    model = without_weights(config)
    for name, parameter in list(model.named_parameters()):
        if files.shapes.get(name) != parameter.shape:
            raise UserError(
                f"{files.path}: the file of weights does not fit its config.json ('{name}' is not "
                f"{tuple(parameter.shape)})."
            )
        _defer(model, parameter, files, name)
    return model


def without_weights(config: PreTrainedConfig) -> PreTrainedModel:
    """A classifier with its buffers, and with parameters on the meta device that have no source."""
    with torch.device("meta"):
        plain = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    model, _, _ = _placed(config, {name: p.shape for name, p in plain.named_parameters()})
    for _, parameter in list(model.named_parameters()):
        _put(model, parameter, nn.Parameter(parameter.to("meta")))
    if (layers := compressed.sizes(config)) is not None:
        compressed.resize(model, layers)
    return model


def draw(model: PreTrainedModel, fresh: Collection[str] = ()) -> None:
    """Draw parameters in place: of these names, and deferred ones that have no source.

    By the seed that torch was given last, whatever has been drawn since: a model that is deferred gets
    the values of one that is not. torch's random state stays as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed())
        for path, module in model.named_modules():
            lacking = [
                (name, parameter)
                for name, parameter in module.named_parameters(path, recurse=False)
                if name in fresh or (parameter.is_meta and not hasattr(parameter, SOURCE))
            ]
            for name, parameter in lacking:
                new = nn.Parameter(torch.empty_like(parameter, device="cpu"))
                module._parameters[name.rpartition(".")[2]] = new
            if lacking:
                model._init_weights(module)


def _placed(
    config: PreTrainedConfig, shapes: Mapping[str, torch.Size]
) -> tuple[PreTrainedModel, dict[str, Any], dict[str, Tensor]]:
    """What transformers makes of tensors of these names and shapes: the model, what it says of them.

    Third the placeholders, each of which has its own storage of one number.
    """
    with torch.device("meta"):
        kind = type(AutoModelForSequenceClassification.from_config(config, trust_remote_code=False))
    placeholders = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    found, info = kind.from_pretrained(
        None,
        config=config,
        state_dict=dict(placeholders),
        dtype=torch.float32,
        output_loading_info=True,
    )
    found.config.name_or_path = config.name_or_path
    return found, info, placeholders


def _defer(model: nn.Module, old: nn.Parameter, files: WeightFiles, stored: str) -> None:
    """Put a deferred parameter in the place of one."""
    new = nn.Parameter(torch.empty(old.shape, device="meta"), requires_grad=old.requires_grad)
    setattr(new, SOURCE, partial(files.read, stored))
    _put(model, old, new)


def _put(model: nn.Module, old: nn.Parameter, new: nn.Parameter) -> None:
    """Put a parameter wherever a model has another."""
    for module in model.modules():
        for name, value in list(module._parameters.items()):
            if value is old:
                module._parameters[name] = new


def fill(model: nn.Module) -> None:
    """Read all deferred parameters, in place."""
    for module in model.modules():
        fill_own(module)


def fill_own(module: nn.Module) -> None:
    """Read the deferred parameters of a module, but not those of the modules in it."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        if hasattr(parameter, SOURCE):
            read = source_of(parameter)().float().clone()
            module._parameters[name] = nn.Parameter(read, parameter.requires_grad)
