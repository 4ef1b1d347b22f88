"""What is pruned of each architecture, and what an architecture cannot lose, before training."""

import json
import re
from pathlib import Path

import pytest
import torch
from small_models import CONFIGS, fresh
from test_layer_reduction import reduction
from test_resolved import HEADS, ROWS, config, shape, technique
from torch import nn
from transformers import AutoModelForSequenceClassification, BartConfig

from compress.compression import resolved
from compress.compression.pruners.layers import LayerReduction
from compress.compression.resolved import pruners
from compress.errors import UserError

__all__ = ["config"]
SHIPPED = Path(__file__).parents[1] / "ds_configs" / "compression"
BLOCK = re.compile(r"\.(layer|layers|albert_layers)\.\d+\.")


@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_files_find_the_layers_of_every_architecture(name, config):
    """Heads, ffn neurons and single weights, each linear layer of the blocks and no other."""
    given = json.loads((SHIPPED / "heads20_rows50_imp40.json").read_text())["compression_training"]
    model = shape(name)
    found = {pruner.name: pruner.groups["encoder"] for pruner in pruners(config(given), model, 95)}
    blocks = (0,) if name == "albert" else (0, 1)
    assert (found["heads"].blocks, found["neurons"].blocks) == (blocks, blocks)
    assert found["heads"].keep == {"albert": 3, "mpnet": 3}.get(name, 6) and found["neurons"].keep == 16
    inside = {n for n, m in model.named_modules() if isinstance(m, nn.Linear) and BLOCK.search(n)}
    assert set(found["magnitude"].layers) == inside
    assert not inside & {"classifier", "score", "head.dense"}


def test_given_keywords_choose_the_layers(config):
    both = config({"head_pruning": technique(HEADS), "row_pruning": technique(ROWS)})
    for name in ("bert", "roberta", "distilbert", "deberta", "electra"):
        heads, neurons = (pruner.groups["g"] for pruner in pruners(both, shape(name), 95))
        assert (heads.blocks, heads.keep, neurons.blocks, neurons.keep) == ((0, 1), 4, (0, 1), 16)


@pytest.mark.parametrize(
    "groups",
    [
        {"one": {"params": {"dense_ratio": 0.5}, "modules": ["layer.0.attention.attn.o"]}},
        {
            "one": {"params": {"pruned_heads": [1]}, "modules": ["layer.0.attention.attn.o"]},
            "two": {"params": {"pruned_heads": [2]}, "modules": ["layer.1.attention.attn.o"]},
        },
        {
            "one": {"params": {"dense_ratio": 0.5}, "modules": ["layer.0.attention.attn.o"]},
            "two": {"params": {"dense_ratio": 0.5}, "modules": ["layer.1.attention.attn.o"]},
        },
    ],
    ids=["one layer", "different heads", "two groups that choose"],
)
def test_what_shares_a_table_loses_the_same_heads(config, groups):
    technique = {"shared_parameters": {"enabled": True}, "different_groups": groups}
    with pytest.raises(UserError, match=r"share 'mpnet.encoder.relative_attention_bias'.*one group"):
        pruners(config({"head_pruning": technique}), shape("mpnet"), 95)


def test_the_same_listed_heads_of_layers_that_share_a_table(config):
    groups = {
        f"layer_{n}": {"params": {"pruned_heads": [1]}, "modules": [f"layer.{n}.attention.attn.o"]}
        for n in range(2)
    }
    technique = {"shared_parameters": {"enabled": True}, "different_groups": groups}
    [found] = pruners(config({"head_pruning": technique}), shape("mpnet"), 95)
    assert {group.pruned for group in found.groups.values()} == {(1,)}


def test_learned_scores_cannot_choose_the_same_heads(config):
    heads = technique({"params": {"dense_ratio": 0.5}}, method="topk")
    with pytest.raises(UserError, match=r"share 'mpnet.*use method 'importance'"):
        pruners(config({"head_pruning": heads}), shape("mpnet"), 95)


def test_a_number_of_heads_that_layers_cannot_share(config):
    heads = technique({"params": {"target_heads": 5}})
    with pytest.raises(UserError, match=r"target_heads is 5; the 2 layers .* multiple of 2"):
        pruners(config({"head_pruning": heads}), shape("mpnet"), 95)


@pytest.mark.parametrize(("name", "what"), [("modernbert", "two matrices"), ("gemma", "embeddings")])
def test_what_the_library_cannot_mask(config, name, what):
    rows = {"row_pruning": technique({"params": {"dense_ratio": 0.5}})}
    assert pruners(config(rows), shape(name), 95)
    with pytest.raises(UserError, match=rf"DeepSpeed's library.*{what}.*'native'"):
        pruners(config(rows, masks="deepspeed"), shape(name), 95)


def test_the_library_copies_no_layers_that_differ(config):
    halved = config(reduction(teacher_layer=[0]), masks="deepspeed")
    resolved._check_copied(halved, shape("bert"))
    with pytest.raises(UserError, match=r"DeepSpeed's library copies layers.*'native'"):
        resolved._check_copied(halved, shape("modernbert"))


def test_a_repeated_block_loses_no_layer():
    with pytest.raises(UserError, match=r"one block that is used again and again"):
        LayerReduction(enabled=True, teacher_layer="first_half").kept(CONFIGS["albert"])


def test_a_configuration_that_an_entry_does_not_cover(config):
    given = fresh("albert")
    given.inner_group_num = 2
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(given)
    with pytest.raises(UserError, match=r"'albert'.* inner_group_num 1, and here it is 2"):
        pruners(config({"head_pruning": technique({"params": {"dense_ratio": 0.5}})}), model, 95)


def test_an_architecture_without_a_mapping(config):
    with torch.device("meta"):
        sizes = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "d_model": 24}
        model = AutoModelForSequenceClassification.from_config(
            BartConfig(vocab_size=40, encoder_layers=1, decoder_layers=2, **sizes)
        )
    with pytest.raises(UserError, match=r"no entry.*'bart'.*docs/extending.md says how to add one"):
        pruners(config({"head_pruning": technique(HEADS)}), model, 95)
    imp = json.loads((SHIPPED / "imp40.json").read_text())["compression_training"]
    [found] = pruners(config(imp), model, 95)
    names = found.groups["encoder"].layers
    assert sum(".encoder.layers." in name for name in names) == 6  # q, k, v, out, fc1, fc2
    assert sum(".decoder.layers." in name for name in names) == 2 * 10
    assert len(names) == 26
