"""Tiny random classifiers of every supported architecture, whole, masked and cut, and their input."""

import copy

import numpy as np
import torch
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MinistralConfig,
    MistralConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
)

from compress.models import compressed
from compress.models.blocks import find_blocks
from compress.models.compressed import Kept, Layer

SIZES = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
DISTIL = {"vocab_size": 40, "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 32}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}
GROUPED = ENDS | {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 6}
"""Two query heads for each of four key/value heads."""
CONFIGS = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES),
    "distilbert": DistilBertConfig(**DISTIL),
    "deberta": DebertaV2Config(**SIZES, **DEBERTA, share_att_key=True),
    "deberta-own-positions": DebertaV2Config(**SIZES, **DEBERTA, share_att_key=False),
    "electra": ElectraConfig(**SIZES, embedding_size=12),
    "mpnet": MPNetConfig(**SIZES | {"pad_token_id": 1}),
    "albert": AlbertConfig(**SIZES, embedding_size=12),
    "modernbert": ModernBertConfig(
        **SIZES, **ENDS, cls_token_id=1, sep_token_id=2, global_attn_every_n_layers=2, local_attention=4
    ),
    "llama": LlamaConfig(**SIZES | GROUPED),
    "llama-biases": LlamaConfig(**SIZES | GROUPED, attention_bias=True, mlp_bias=True),
    "mistral": MistralConfig(**SIZES | GROUPED, sliding_window=8),
    "ministral": MinistralConfig(
        **SIZES | GROUPED, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    ),
    "qwen2": Qwen2Config(**SIZES | GROUPED),
    "qwen3": Qwen3Config(**SIZES | GROUPED | {"head_dim": 10}),
    "gemma": GemmaConfig(**SIZES | GROUPED | {"head_dim": 10}),
    "gemma2": Gemma2Config(**SIZES | GROUPED | {"head_dim": 10}, sliding_window=8),
    "gemma3": Gemma3TextConfig(**SIZES | GROUPED | {"head_dim": 10}, sliding_window=8),
}
KEPT = [Kept((0, 2, 3), tuple(range(0, 32, 2))), Kept((1,), tuple(range(5, 32)))]
ALIKE = [Kept((0, 2, 3), kept.neurons) for kept in KEPT]
IDS = torch.arange(3, 27).view(2, 12)
LABELS = np.array([0, 1, 1, 0, 1])
BERT_SIZES = {
    "vocab_size": 20,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
"""Of the encoders in test_encoders and test_encoder_sizes: 3 layers, 64 positions."""


def fresh(name: str) -> PreTrainedConfig:
    """Give a copy of the named configuration: `compressed.describe` writes into the one it is given."""
    return copy.deepcopy(CONFIGS[name])


def kept(config: PreTrainedConfig) -> list[Kept]:
    """Give what each block keeps: the same heads where the blocks share a table of them."""
    return {"albert": KEPT[:1], "mpnet": ALIKE}.get(config.model_type, KEPT)


def masked(config: PreTrainedConfig):
    """Give a random model whose unkept heads and rows are switched off, by zeroed columns alone."""
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    modules = dict(model.named_modules())
    for block, own in zip(find_blocks(model), kept(config), strict=True):
        weight = modules[block.attention_output].weight
        width = weight.shape[1] // block.heads
        for head in set(range(block.heads)) - set(own.heads):
            weight.data[:, head * width : head * width + width] = 0
        rows = sorted(set(range(block.neurons)) - set(own.neurons))
        modules[block.output].weight.data[:, rows] = 0
    return model


def exported(model, folder):
    """Write what the run writes: cut weights, and the sizes in config.json."""
    left = kept(model.config)
    small = compressed.cut(model.state_dict(), model, left)
    compressed.describe(model.config, [Layer(len(k.heads), len(k.neurons)) for k in left])
    new = compressed.build(model.config)
    new.load_state_dict(small)
    new.save_pretrained(folder)
    return new


class Data:
    """Five samples of different lengths, as `Columns` gives them."""

    labels = LABELS
    lengths = np.array([6, 9, 12, 7, 10])

    def batch(self, indices, device):
        longest = int(self.lengths[indices].max())
        ids = torch.stack([torch.arange(longest) * 3 % 37 + int(i) + 1 for i in indices])
        mask = torch.arange(longest)[None] < torch.as_tensor(self.lengths[indices])[:, None]
        return {"input_ids": ids * mask, "attention_mask": mask.long()}
