"""Where an architecture has its heads and ffn neurons: module names of a block, by model type.

An architecture without an entry can be fine-tuned and pruned to zeros, but not cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from transformers import PreTrainedConfig

from compress.errors import UserError

PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")
"""Keys of a configuration that have an entry for each layer."""


@dataclass(frozen=True)
class Architecture:
    """Names below a model: the list of blocks, and inside one block. The defaults are BERT's.

    projections: layers whose outputs have a slice for each head; of queries "q", of keys, values or
    positions "k", of several in one layer such as "qkv"; with grouped queries a head is a key/value
    group. first: first feed-forward layers, and how many matrices of a row a neuron each holds; the
    first of them carries the masks. count, width: attributes of the attention module that hold heads,
    and heads x head size. depth, heads, groups, neurons: keys of the configuration for the same sizes.
    shared: a table beside the blocks with a column for each head; repeated: one block is used for all
    layers; fixed: keys of the configuration that must have these values; stack: the module that holds
    the blocks is given hidden states; own_attention: it is computed without transformers' attention
    interface.
    """

    blocks: str
    inner: str = ""
    attention: str = "attention.self"
    projections: Mapping[str, str] = field(
        default_factory=lambda: {"query": "q", "key": "k", "value": "k"}
    )
    attention_output: str = "attention.output.dense"
    first: Mapping[str, int] = field(default_factory=lambda: {"intermediate.dense": 1})
    output: str = "output.dense"
    count: str | None = "num_attention_heads"
    width: str | None = "all_head_size"
    depth: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    groups: str | None = None
    neurons: str = "intermediate_size"
    shared: str | None = None
    repeated: bool = False
    fixed: Mapping[str, int] = field(default_factory=dict)
    stack: bool = True
    own_attention: bool = False


DECODERS = (
    *("llama", "mistral", "ministral", "qwen2", "qwen3"),
    *("gemma", "gemma2", "gemma3_text"),
)
"""Model types that all name their layers alike."""
_BERT = Architecture("bert.encoder.layer")
_DECODER = Architecture(
    blocks="model.layers",
    attention="self_attn",
    projections={"q_proj": "q", "k_proj": "k", "v_proj": "k"},
    attention_output="self_attn.o_proj",
    first={"mlp.gate_proj": 1, "mlp.up_proj": 1},
    output="mlp.down_proj",
    count=None,
    width=None,
    groups="num_key_value_heads",
    stack=False,
)
ARCHITECTURES = {
    "bert": _BERT,
    "roberta": replace(_BERT, blocks="roberta.encoder.layer"),
    "xlm-roberta": replace(_BERT, blocks="roberta.encoder.layer"),
    "camembert": replace(_BERT, blocks="roberta.encoder.layer"),
    "electra": replace(_BERT, blocks="electra.encoder.layer"),
    "distilbert": Architecture(
        blocks="distilbert.transformer.layer",
        attention="attention",
        projections={"q_lin": "q", "k_lin": "k", "v_lin": "k"},
        attention_output="attention.out_lin",
        first={"ffn.lin1": 1},
        output="ffn.lin2",
        count="n_heads",
        width=None,
        depth="n_layers",
        heads="n_heads",
        neurons="hidden_dim",
    ),
    "deberta-v2": Architecture(
        blocks="deberta.encoder.layer",
        projections={
            "query_proj": "q",
            "key_proj": "k",
            "value_proj": "k",
            "pos_key_proj": "k",
            "pos_query_proj": "k",
        },
        own_attention=True,
    ),
    "mpnet": Architecture(
        blocks="mpnet.encoder.layer",
        attention="attention.attn",
        projections={"q": "q", "k": "k", "v": "k"},
        attention_output="attention.attn.o",
        shared="mpnet.encoder.relative_attention_bias",
        own_attention=True,
    ),
    "albert": Architecture(
        blocks="albert.encoder.albert_layer_groups",
        inner=".albert_layers.0",
        attention="attention",
        attention_output="attention.dense",
        first={"ffn": 1},
        output="ffn_output",
        depth="num_hidden_groups",
        repeated=True,
        fixed={"inner_group_num": 1},
    ),
    "modernbert": Architecture(
        blocks="model.layers",
        attention="attn",
        projections={"Wqkv": "qkk"},
        attention_output="attn.Wo",
        first={"mlp.Wi": 2},
        output="mlp.Wo",
        count=None,
        width=None,
        stack=False,
    ),
} | dict.fromkeys(DECODERS, _DECODER)


def check(config: PreTrainedConfig) -> None:
    """UserError for a configuration that the entry of its type does not cover."""
    for key, value in find(config).fixed.items():
        if (given := getattr(config, key, value)) != value:
            raise UserError(
                f"compression_training: heads and ffn neurons of '{config.model_type}' can be found "
                f"where its config.json has {key} {value}, and here it is {given}; take another model."
            )


def find(config: PreTrainedConfig) -> Architecture:
    """The entry of a model's type; UserError naming the known types if it has none."""
    if config.model_type not in ARCHITECTURES:
        raise UserError(
            f"compression_training: no entry says where the architecture '{config.model_type}' has its "
            f"heads, ffn neurons and layers (there is one for {', '.join(ARCHITECTURES)}); "
            "sparse_pruning works without one, and docs/extending.md says how to add one."
        )
    return ARCHITECTURES[config.model_type]
