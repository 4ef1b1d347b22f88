"""The sizes of a model that its need of memory follows from, read from shapes (meta device)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from compress.compression.pruner import Pruner
from compress.errors import UserError
from compress.models import architectures
from compress.models.architectures import Architecture
from compress.models.blocks import find_blocks


@dataclass(frozen=True)
class Sizes:
    """Counts of numbers.

    tensors: of each trained parameter, learned scores too; group: of the largest group of parameters
    with settings of their own in the optimiser; module: of the module that holds most by itself, which
    ZeRO 3 gathers at once; coming: that this takes meanwhile, twice what a module of several parameters
    holds; block: of the largest Transformer block; masked: weights that carry a mask;
    layers: Transformer blocks; hidden, wide: width of the hidden states, and of the feed-forward layer;
    gated: whether that is a product of two; heads: of attention that keeps its weights, else 0;
    learned: scores, which the finished model does not have.
    """

    tensors: tuple[int, ...]
    group: int
    module: int
    coming: int
    block: int
    masked: int
    layers: int
    hidden: int
    wide: int
    gated: bool = False
    heads: int = 0
    learned: int = 0

    @property
    def parameters(self) -> int:
        """Of all."""
        return sum(self.tensors)

    @property
    def finished(self) -> int:
        """Of the finished model."""
        return self.parameters - self.learned

    @property
    def largest(self) -> int:
        """Of the largest parameter."""
        return max(self.tensors)

    def padded(self, ranks: int) -> int:
        """Numbers that a rank holds where each parameter is divided among ranks of equal share."""
        return sum(-(-size // ranks) for size in self.tensors)

    def below(self, threshold: int) -> int:
        """Numbers in parameters of less than `threshold` numbers."""
        return sum(size for size in self.tensors if size < threshold)


def of(model: PreTrainedModel, pruners: Sequence[Pruner] = ()) -> Sizes:
    """The sizes of a model in training with these pruners; weights are not looked at."""
    own = {name: parameter.numel() for name, parameter in model.named_parameters()}
    matrices = sum(p.numel() for p in model.parameters() if p.ndim >= 2)
    masked, scores = 0, list[int]()
    units_in = find_blocks(model) if any(pruner.cuts for pruner in pruners) else []
    for pruner in (planned.fresh() for planned in pruners):
        pruner.blocks = units_in
        for name, units in pruner.carriers.items():
            weight = own[f"{name}.weight"]
            if pruner.learned:
                scores.append(weight if units is None else units.units)
            else:
                masked += weight
    modules = [[p.numel() for p in m.parameters(recurse=False)] for m in model.modules()]
    blocks, known = _blocks(model), _architecture(model)
    hidden = _number(model.config, "hidden_size", "dim")
    return Sizes(
        tensors=(*own.values(), *scores),
        group=max(matrices, sum(own.values()) - matrices, sum(scores)),
        module=max(sum(each) for each in modules),
        coming=max(sum(each) * min(len(each), 2) for each in modules),
        block=max((sum(p.numel() for p in block.parameters()) for block in blocks), default=0),
        masked=masked,
        layers=_number(model.config, "num_hidden_layers", "n_layers") or max(len(blocks), 1),
        hidden=hidden,
        wide=_number(model.config, "intermediate_size", "hidden_dim") or 4 * hidden,
        gated=known is not None and sum(known.first.values()) > 1,
        heads=_number(model.config, "num_attention_heads") if known and known.own_attention else 0,
        learned=sum(scores),
    )


def _architecture(model: PreTrainedModel) -> Architecture | None:
    try:
        return architectures.find(model.config)
    except UserError:
        return None


def _blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The Transformer blocks; for an unknown architecture the modules of the longest list."""
    known = _architecture(model)
    if known is not None:
        return list(model.get_submodule(known.blocks).children())
    lists = [list(m) for m in model.modules() if isinstance(m, nn.ModuleList)]
    return max(lists, key=len, default=[])


def _number(config: Any, *names: str) -> int:  # noqa: ANN401  PreTrainedConfig
    return next((int(getattr(config, name)) for name in names if hasattr(config, name)), 0)
