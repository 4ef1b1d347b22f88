"""Tiny random models of every architecture, each with a tokenizer, as they are published."""

import torch
from small_models import CONFIGS, fresh
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, PreTrainedTokenizerFast

from compress.synthetic import generator

LENGTH = 48
WORDS = tuple(dict.fromkeys((*generator.vocabulary(), ",", ".", "not")))
DECODERS = ("llama", "llama-biases", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3")
OWN_PADDING = {
    "llama": (False, False),
    "llama-biases": (False, False),
    "mistral": (False, False),
    "qwen2": (True, False),
    "qwen3": (True, False),
}
"""Whether tokenizer and configuration name a padding token; both where nothing is said."""


def tokenizer(decoder=False, padding=True):
    """Give whole words; an encoder's pair is <s> one </s> two </s>, a decoder's <s> one <s> two."""
    names = ("<pad>", "<s>", "</s>", "<unk>", *WORDS)
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    single, pair = ("<s> $A", "<s> $A <s> $B") if decoder else ("<s> $A </s>", "<s> $A </s> $B </s>")
    made.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if padding:
        special["pad_token"] = "<pad>"
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=64, **special)


def write(name, folder, **changes):
    """Write an encoder or decoder without a head; changes: of its configuration."""
    mine, its = OWN_PADDING.get(name, (True, True))
    config = fresh(name)
    sizes = {
        "vocab_size": len(WORDS) + 4,
        "max_position_embeddings": 72,
        "pad_token_id": 0 if its else None,
    }
    layers = {} if "num_hidden_layers" in changes else {"num_hidden_layers": 3, "layer_types": None}
    config = CONFIGS[name].__class__.from_dict(config.to_dict() | sizes | layers | changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    tokenizer(name in DECODERS, mine).save_pretrained(folder)
    return folder
