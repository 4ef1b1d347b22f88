"""Where the heads and ffn neurons of a model's Transformer blocks are, with the sizes of its layers.

The names are those of `compress.models.architectures`. Sizes are read from the layers' attributes, so
they are there under ZeRO 3 and on the meta device too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from compress.errors import UserError
from compress.models import architectures


@dataclass(frozen=True)
class Slices:
    """Where the units of a block (heads or ffn neurons) are in one linear layer.

    axis: 0 for its outputs, 1 for its inputs; units: how many; widths: rows or columns of one unit, of
    each of the matrices that follow one another along the axis.
    """

    layer: str
    axis: int
    units: int
    widths: tuple[int, ...]

    @property
    def size(self) -> int:
        """Rows or columns of all units."""
        return self.units * sum(self.widths)

    def places(self, kept: Tensor) -> Tensor:
        """Rows or columns [kept x widths] of these units, ascending."""
        found, start = [], 0
        for width in self.widths:
            each = torch.arange(width, device=kept.device)
            found.append(start + (kept[:, None] * width + each).flatten())
            start += width * self.units
        return torch.cat(found)

    def spread(self, values: Tensor) -> Tensor:
        """[units] -> [size]: the value of its unit for each row or column."""
        return torch.cat([values.repeat_interleave(width) for width in self.widths])

    def of(self, units: int) -> Slices:
        """The same layer with another number of units."""
        return replace(self, units=units)


@dataclass(frozen=True)
class Block:
    """One Transformer block: full names of its layers, and where its heads and ffn neurons are.

    head_slices: the inputs of the attention output, then the projections; neuron_slices: the first
    feed-forward layers, last the inputs of the second; the first of each carries the masks. shared: a
    table with a column for each head, the same for all blocks.
    """

    attention: str
    head_slices: tuple[Slices, ...]
    neuron_slices: tuple[Slices, ...]
    shared: str | None = None

    @property
    def heads(self) -> int:
        """Heads; with grouped queries key/value groups."""
        return self.head_slices[0].units

    @property
    def neurons(self) -> int:
        """Ffn neurons."""
        return self.neuron_slices[0].units

    @property
    def attention_output(self) -> str:
        """The layer that reads the heads."""
        return self.head_slices[0].layer

    @property
    def output(self) -> str:
        """The layer that reads the ffn neurons."""
        return self.neuron_slices[-1].layer

    def slices(self, unit: str) -> tuple[Slices, ...]:
        """Of "heads" or "neurons", first the layer that carries their masks."""
        return {"heads": self.head_slices, "neurons": self.neuron_slices}[unit]


def head_size(config: PreTrainedConfig) -> int:
    """Width of one attention head."""
    own = getattr(config, "head_dim", None)
    return int(own or config.hidden_size // getattr(config, architectures.find(config).heads))


def queries(config: PreTrainedConfig) -> int:
    """Query heads of one unit: more than one where queries share a key/value group."""
    entry = architectures.find(config)
    groups = getattr(config, entry.groups) if entry.groups else None
    return getattr(config, entry.heads) // groups if groups else 1


def find_blocks(model: PreTrainedModel) -> list[Block]:
    """The Transformer blocks of a model in order, with their sizes read from its layers.

    Raises UserError for an architecture without an entry, or a shape that its entry does not cover.
    """
    entry, modules = architectures.find(model.config), dict(model.named_modules())
    architectures.check(model.config)
    depth = getattr(model.config, entry.depth)
    prefixes = [f"{entry.blocks}.{number}{entry.inner}" for number in range(depth)]
    return [_block(prefix, model.config, modules) for prefix in prefixes]


def _block(prefix: str, config: PreTrainedConfig, modules: Mapping[str, nn.Module]) -> Block:
    entry, each = architectures.find(config), head_size(config)
    attention, output = f"{prefix}.{entry.attention}", f"{prefix}.{entry.attention_output}"
    second = f"{prefix}.{entry.output}"
    widths = {"q": each * queries(config), "k": each}
    heads = _inputs(modules, output) // widths["q"]
    neurons = _inputs(modules, second)
    projections = [
        Slices(f"{attention}.{name}", 0, heads, tuple(widths[kind] for kind in kinds))
        for name, kinds in entry.projections.items()
        if f"{attention}.{name}" in modules
    ]
    first = [Slices(f"{prefix}.{name}", 0, neurons, (1,) * n) for name, n in entry.first.items()]
    return Block(
        attention,
        (Slices(output, 1, heads, (widths["q"],)), *projections),
        (*first, Slices(second, 1, neurons, (1,))),
        entry.shared,
    )


def _inputs(modules: Mapping[str, nn.Module], name: str) -> int:
    layer = modules[name]
    assert isinstance(layer, nn.Linear), f"{name} is no linear layer"
    return layer.in_features


def block_names(model: nn.Module) -> list[str]:
    """Names of the Transformer blocks of any model, in its order: what its outermost lists hold."""
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outer = [name for name in lists if not name.startswith(tuple(f"{other}." for other in lists))]
    return [f"{name}.{n}" for name in outer for n, _ in enumerate(model.get_submodule(name).children())]


def portions(model: nn.Module) -> list[list[str]]:
    """Names of parameters and buffers that belong together: of each block, and of each other module."""
    blocks, found = block_names(model), dict[str, list[str]]()
    owners = {name: block for block in blocks for name in _inside(model, block)}
    for name, _ in (*model.named_parameters(), *model.named_buffers()):
        found.setdefault(owners.get(name, name.rpartition(".")[0]), []).append(name)
    return list(found.values())


def _inside(model: nn.Module, block: str) -> list[str]:
    module = model.get_submodule(block)
    return [f"{block}.{name}" for name, _ in (*module.named_parameters(), *module.named_buffers())]


def linear_layers(model: PreTrainedModel) -> list[str]:
    """Names of the linear layers in the Transformer blocks of any model, in its order.

    The blocks are what the outermost lists of modules hold. Raises UserError if there are none.
    """
    blocks = tuple(f"{name}." for name in block_names(model))
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(blocks)
    ]
    if not found:
        raise UserError(
            f"{type(model).__name__}: has no linear layers in Transformer blocks, or none that can be "
            "found (they are looked for in lists of modules)."
        )
    return found
