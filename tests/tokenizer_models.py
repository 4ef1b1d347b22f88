"""Tiny random models whose tokenizer fits them or does not."""

import json

import torch
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    BertTokenizer,
    DistilBertConfig,
    GPT2Config,
    RobertaConfig,
    XLNetConfig,
)

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{chr(97 + n)}" for n in range(26)))
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 66,
}
GPT = {"vocab_size": len(WORDS), "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 66}
CONFIGS = {
    "bert": BertConfig(**SIZES),
    "albert": AlbertConfig(**SIZES, embedding_size=8, bos_token_id=2, eos_token_id=3),
    "distilbert": DistilBertConfig(
        vocab_size=len(WORDS), dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=66
    ),
    "roberta": RobertaConfig(
        **SIZES, type_vocab_size=1, pad_token_id=0, bos_token_id=2, eos_token_id=3
    ),
    "roberta pad 1": RobertaConfig(**SIZES, pad_token_id=1, type_vocab_size=2),
    "gpt2": GPT2Config(**GPT, pad_token_id=0, bos_token_id=2, eos_token_id=3),
    "gpt2 without pad": GPT2Config(**GPT, bos_token_id=2, eos_token_id=3),
    "gpt2 other pad": GPT2Config(**GPT, pad_token_id=9, bos_token_id=2, eos_token_id=3),
    "xlnet": XLNetConfig(
        vocab_size=len(WORDS), d_model=16, n_layer=2, n_head=2, d_inner=32, pad_token_id=0
    ),
}


def made(folder, kind="bert", words=WORDS, pad="[PAD]", **tokenizer):
    """Write model and tokenizer; tokenizer: entries of its tokenizer_config.json."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(CONFIGS[kind]).save_pretrained(folder)
    BertTokenizer(vocab={word: n for n, word in enumerate(words)}).save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    settings = {**json.loads(file.read_text()), **tokenizer}
    if pad is None:
        del settings["pad_token"]
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(settings))
    return folder
