"""Where an architecture has its heads and ffn neurons: module names of a block, by model type.

An architecture without an entry can be fine-tuned and pruned to zeros, but not cut.
"""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from compress.errors import UserError


@dataclass(frozen=True)
class Architecture:
    """Names below a model: the list of blocks, and inside one block. The defaults are BERT's.

    projections: everything that has one slice of rows a head (query, key, value, positions);
    count, width: attributes of the attention module that hold heads, and heads x head size;
    depth, heads, neurons: keys of the configuration for the same sizes.
    """

    blocks: str
    attention: str = "attention.self"
    projections: tuple[str, ...] = ("query", "key", "value")
    attention_output: str = "attention.output.dense"
    intermediate: str = "intermediate.dense"
    output: str = "output.dense"
    count: str = "num_attention_heads"
    width: str | None = "all_head_size"
    depth: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    neurons: str = "intermediate_size"


@dataclass(frozen=True)
class Block:
    """Full module names of one Transformer block, and its sizes."""

    attention: str
    projections: tuple[str, ...]
    attention_output: str
    intermediate: str
    output: str
    head_size: int
    heads: int
    neurons: int


ARCHITECTURES = {
    "bert": Architecture("bert.encoder.layer"),
    "roberta": Architecture("roberta.encoder.layer"),
    "xlm-roberta": Architecture("roberta.encoder.layer"),
    "distilbert": Architecture(
        blocks="distilbert.transformer.layer",
        attention="attention",
        projections=("q_lin", "k_lin", "v_lin"),
        attention_output="attention.out_lin",
        intermediate="ffn.lin1",
        output="ffn.lin2",
        count="n_heads",
        width=None,
        depth="n_layers",
        heads="n_heads",
        neurons="hidden_dim",
    ),
    "deberta-v2": Architecture(
        blocks="deberta.encoder.layer",
        projections=("query_proj", "key_proj", "value_proj", "pos_key_proj", "pos_query_proj"),
    ),
}


def find(config: PreTrainedConfig) -> Architecture:
    """The entry of a model's type; UserError naming the known types if it has none."""
    if config.model_type not in ARCHITECTURES:
        raise UserError(
            f"compression_training: the architecture '{config.model_type}' has no mapping of heads, "
            f"ffn neurons and layers yet (there is one for {', '.join(ARCHITECTURES)})."
        )
    return ARCHITECTURES[config.model_type]


def blocks(model: PreTrainedModel) -> list[Block]:
    """The Transformer blocks of a model in order, with their sizes read from its layers.

    Raises UserError for an architecture without an entry.
    """
    entry, modules = find(model.config), dict(model.named_modules())
    head_size = model.config.hidden_size // getattr(model.config, entry.heads)

    def block(prefix: str) -> Block:
        attention = f"{prefix}.{entry.attention}"
        projections = (f"{attention}.{name}" for name in entry.projections)
        output, intermediate = f"{prefix}.{entry.attention_output}", f"{prefix}.{entry.intermediate}"
        wide, high = modules[output], modules[intermediate]
        assert isinstance(wide, nn.Linear)
        assert isinstance(high, nn.Linear)
        return Block(
            attention=attention,
            projections=tuple(name for name in projections if name in modules),
            attention_output=output,
            intermediate=intermediate,
            output=f"{prefix}.{entry.output}",
            head_size=head_size,
            heads=wide.in_features // head_size,
            neurons=high.out_features,
        )

    return [block(f"{entry.blocks}.{n}") for n in range(getattr(model.config, entry.depth))]
