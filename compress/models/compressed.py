"""A compressed model on disk: real dimensions, layer by layer, loaded with one call.

`cut` removes heads and ffn neurons from a plain state dict, `build` makes a model of such dimensions
from its configuration, `load_weights` fills it. transformers 5 has no `prune_heads` and one width for
all layers, so those of each layer are listed in config.json, under `compressed_layers`.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from compress.errors import UserError
from compress.models import architectures

KEY = "compressed_layers"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Layer:
    """Sizes of one Transformer block: attention heads, and ffn neurons (`rows` in config.json)."""

    heads: int
    neurons: int


@dataclass(frozen=True)
class Kept:
    """What one Transformer block keeps: indices of heads and ffn neurons, ascending."""

    heads: tuple[int, ...]
    neurons: tuple[int, ...]


def sizes(config: PreTrainedConfig) -> list[Layer] | None:
    """Sizes of each block if they differ from what the configuration's own keys say.

    Raises UserError if the list is not what `build` can use.
    """
    entries = getattr(config, KEY, None)
    if entries is None:
        return None
    architecture = architectures.find(config)
    depth, where = getattr(config, architecture.depth), f"{config.name_or_path}/config.json"
    try:
        layers = [Layer(int(entry["heads"]), int(entry["rows"])) for entry in entries]
    except (TypeError, KeyError, ValueError, OverflowError):
        raise UserError(
            f"{where}: '{KEY}' must list heads and rows (ffn neurons) of each layer."
        ) from None
    if len(layers) != depth or any(layer.heads < 1 or layer.neurons < 1 for layer in layers):
        raise UserError(f"{where}: '{KEY}' must list {depth} layers of at least one head and row.")
    return layers


def build(config: PreTrainedConfig) -> PreTrainedModel:
    """A classifier with random weights in the dimensions of its configuration, layer by layer."""
    layers = sizes(config)
    model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    if layers is not None:
        resize(model, layers)
    return model


def resize(model: PreTrainedModel, layers: Sequence[Layer]) -> None:
    """Give the blocks of a model these sizes, in place; their weights are fresh."""
    architecture, modules = architectures.find(model.config), dict(model.named_modules())
    for block, layer in zip(architectures.blocks(model), layers, strict=True):
        width = layer.heads * block.head_size
        for name in block.projections:
            _replace(model, modules, name, rows=width)
        _replace(model, modules, block.attention_output, columns=width)
        _replace(model, modules, block.intermediate, rows=layer.neurons)
        _replace(model, modules, block.output, columns=layer.neurons)
        setattr(modules[block.attention], architecture.count, layer.heads)
        if architecture.width is not None:
            setattr(modules[block.attention], architecture.width, width)


def _replace(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    name: str,
    rows: int | None = None,
    columns: int | None = None,
) -> None:
    old = modules[name]
    assert isinstance(old, nn.Linear)
    shape = (columns or old.in_features, rows or old.out_features)
    new = nn.Linear(*shape, bias=old.bias is not None, device=old.weight.device, dtype=old.weight.dtype)
    model.set_submodule(name, new)


def cut(
    weights: Mapping[str, Tensor], model: PreTrainedModel, kept: Sequence[Kept]
) -> dict[str, Tensor]:
    """The state dict without the heads and neurons that are not kept.

    weights: of `model`, whose modules name the tensors; kept: one entry a block.
    """
    remaining = dict(weights)
    for block, keep in zip(architectures.blocks(model), kept, strict=True):
        one = torch.arange(block.head_size)
        columns = torch.cat([head * block.head_size + one for head in keep.heads])
        neurons = torch.tensor(keep.neurons)
        for name in block.projections:
            _select(remaining, name, columns, 0)
        _select(remaining, block.attention_output, columns, 1)
        _select(remaining, block.intermediate, neurons, 0)
        _select(remaining, block.output, neurons, 1)
    return remaining


def _select(weights: dict[str, Tensor], name: str, indices: Tensor, dimension: int) -> None:
    weight = weights[f"{name}.weight"]
    weights[f"{name}.weight"] = weight.index_select(dimension, indices).contiguous()
    if dimension == 0 and f"{name}.bias" in weights:
        weights[f"{name}.bias"] = weights[f"{name}.bias"].index_select(0, indices)


def describe(config: PreTrainedConfig, layers: Sequence[Layer]) -> None:
    """Write the sizes into a configuration, in place.

    Equal feed-forward widths of all layers go into the configuration's own key, so that plain
    `from_pretrained` loads the model as long as all heads stay.
    """
    architecture = architectures.find(config)
    widths = {layer.neurons for layer in layers}
    if len(widths) == 1:
        setattr(config, architecture.neurons, widths.pop())
    plain = Layer(getattr(config, architecture.heads), getattr(config, architecture.neurons))
    entries = [{"heads": layer.heads, "rows": layer.neurons} for layer in layers]
    setattr(config, KEY, None if all(layer == plain for layer in layers) else entries)


def reduced(config: PreTrainedConfig, layers: Sequence[int]) -> PreTrainedConfig:
    """A copy of the configuration with only these blocks."""
    part = copy.deepcopy(config)
    setattr(part, architectures.find(config).depth, len(layers))
    if (all_sizes := sizes(config)) is not None:
        describe(part, [all_sizes[number] for number in layers])
    return part


def load_weights(model: PreTrainedModel, path: Path) -> None:
    """Fill a model from `build` with the tensors of a directory.

    Raises UserError unless every tensor is there in its size.
    """
    file = path / WEIGHTS
    if not file.is_file():
        raise UserError(f"{path}: has no {WEIGHTS}; the directory is incomplete.")
    try:
        model.load_state_dict(load_file(file))
    except SafetensorError as error:
        raise UserError(f"{file}: is damaged or incomplete ({error}).") from None
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[1].strip()
        raise UserError(f"{file}: does not fit its config.json ({reason})") from None
