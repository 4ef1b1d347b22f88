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
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from compress.errors import UserError
from compress.models import architectures
from compress.models.blocks import Slices, find_blocks, head_size, queries
from compress.models.weight_files import WeightFiles

KEY = "compressed_layers"


@dataclass(frozen=True)
class Layer:
    """Sizes of one Transformer block: heads as in `Block`, and ffn neurons (`rows` in config.json)."""

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
    for block, layer in zip(find_blocks(model), layers, strict=True):
        for unit, count in (("heads", layer.heads), ("neurons", layer.neurons)):
            for one in block.slices(unit):
                _replace(model, one.of(count))
        attention, width = modules[block.attention], block.head_slices[0].of(layer.heads).size
        for name, value in ((architecture.count, layer.heads), (architecture.width, width)):
            if name is not None:
                setattr(attention, name, value)
        if block.shared is not None:
            table = model.get_submodule(block.shared)
            assert isinstance(table, nn.Embedding)
            new = nn.Embedding(table.num_embeddings, layer.heads).to(table.weight)
            model.set_submodule(block.shared, new)


def _replace(model: nn.Module, one: Slices) -> None:
    """Put a fresh layer with so many units in a layer's place."""
    old = model.get_submodule(one.layer)
    assert isinstance(old, nn.Linear)
    shape = (one.size, old.out_features) if one.axis else (old.in_features, one.size)
    new = nn.Linear(*shape, bias=old.bias is not None, device=old.weight.device, dtype=old.weight.dtype)
    model.set_submodule(one.layer, new)


def cut(
    weights: Mapping[str, Tensor], model: PreTrainedModel, kept: Sequence[Kept]
) -> dict[str, Tensor]:
    """The state dict without the heads and neurons that are not kept.

    weights: of `model` or of some of its blocks; its modules name the tensors; kept: one entry a block.
    """
    remaining = dict(weights)
    for block, keep in zip(find_blocks(model), kept, strict=True):
        for unit, units in (("heads", keep.heads), ("neurons", keep.neurons)):
            for one in block.slices(unit):
                _select(remaining, one.layer, one.axis, one.places(torch.tensor(units)))
        if f"{block.shared}.weight" in weights:  # every block keeps the same heads
            name = f"{block.shared}.weight"
            remaining[name] = weights[name].index_select(1, torch.tensor(keep.heads)).contiguous()
    return remaining


def _select(weights: dict[str, Tensor], layer: str, axis: int, places: Tensor) -> None:
    weight, bias = f"{layer}.weight", f"{layer}.bias"
    if weight not in weights:
        return
    weights[weight] = weights[weight].index_select(axis, places).contiguous()
    if axis == 0 and bias in weights:
        weights[bias] = weights[bias].index_select(0, places)


def describe(config: PreTrainedConfig, layers: Sequence[Layer]) -> None:
    """Write the sizes into a configuration, in place.

    Equal feed-forward widths of all layers go into the configuration's own key, and equal numbers of
    heads where the configuration has a key for the size of a head too (`head_dim`) and its class takes
    their number, so that plain `from_pretrained` loads the model.
    """
    architecture = architectures.find(config)
    widths = {layer.neurons for layer in layers}
    if len(widths) == 1:
        setattr(config, architecture.neurons, widths.pop())
    counts = {layer.heads for layer in layers}
    if len(counts) == 1 and architecture.groups is not None:
        count = counts.pop()
        given = {
            "head_dim": head_size(config),
            architecture.groups: count,
            architecture.heads: count * queries(config),
        }
        if _takes(config, given):
            for key, value in given.items():
                setattr(config, key, value)
    entries = [{"heads": layer.heads, "rows": layer.neurons} for layer in layers]
    setattr(config, KEY, None if all(layer == plain(config) for layer in layers) else entries)


def _takes(config: PreTrainedConfig, values: Mapping[str, int]) -> bool:
    """Whether the class of a configuration accepts values: some ask that heads divide hidden_size."""
    try:
        type(config).from_dict(config.to_dict() | dict(values))
    except StrictDataclassError:
        return False
    return True


def plain(config: PreTrainedConfig) -> Layer:
    """The sizes of every block that the configuration's own keys say."""
    architecture = architectures.find(config)
    heads, neurons = (getattr(config, key) for key in (architecture.heads, architecture.neurons))
    return Layer(heads // queries(config), neurons)


def reduced(config: PreTrainedConfig, layers: Sequence[int]) -> PreTrainedConfig:
    """A copy of the configuration with only these blocks."""
    part = copy.deepcopy(config)
    setattr(part, architectures.find(config).depth, len(layers))
    for key in architectures.PER_LAYER:
        if (each := getattr(config, key, None)) is not None:
            setattr(part, key, [each[number] for number in layers])
    if (all_sizes := sizes(config)) is not None:
        describe(part, [all_sizes[number] for number in layers])
    return part


def load_weights(model: PreTrainedModel, path: Path) -> None:
    """Fill a model from `build` with the tensors of a directory.

    Raises UserError unless every tensor is there in its size.
    """
    files = WeightFiles(path)
    try:
        model.load_state_dict({name: torch.zeros(()).expand(s) for name, s in files.shapes.items()})
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[1].strip()
        raise UserError(
            f"{path}: the file of weights does not fit its config.json ({reason})"
        ) from None
    for name, tensor in model.state_dict().items():
        tensor.copy_(files.read(name))
