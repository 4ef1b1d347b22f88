"""Tiny random classifiers of every supported architecture, whole, masked and cut, and their input."""

import copy

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    PreTrainedConfig,
    RobertaConfig,
)

from compress.models import architectures, compressed
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
CONFIGS = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES),
    "distilbert": DistilBertConfig(**DISTIL),
    "deberta": DebertaV2Config(**SIZES, **DEBERTA, share_att_key=True),
    "deberta-own-positions": DebertaV2Config(**SIZES, **DEBERTA, share_att_key=False),
}
KEPT = [Kept((0, 2, 3), tuple(range(0, 32, 2))), Kept((1,), tuple(range(5, 32)))]
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


def masked(config: PreTrainedConfig):
    """Give a random model whose unkept heads and rows are switched off, by zeroed columns alone."""
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    modules = dict(model.named_modules())
    for block, keep in zip(architectures.blocks(model), KEPT, strict=True):
        gone = set(range(block.heads)) - set(keep.heads)
        for head in gone:
            start = head * block.head_size
            modules[block.attention_output].weight.data[:, start : start + block.head_size] = 0
        rows = sorted(set(range(block.neurons)) - set(keep.neurons))
        modules[block.output].weight.data[:, rows] = 0
    return model


def exported(model, folder):
    """Write what the run writes: cut weights, and the sizes in config.json."""
    small = compressed.cut(model.state_dict(), model, KEPT)
    compressed.describe(model.config, [Layer(len(k.heads), len(k.neurons)) for k in KEPT])
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
