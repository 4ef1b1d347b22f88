"""What is pruned when, resolved against a model; and every mistake found before training."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from small_models import CONFIGS
from torch import nn
from transformers import AutoModelForSequenceClassification, BartConfig, BertConfig

from compress.compression.pruners.heads import Heads
from compress.compression.pruners.layers import LayerReduction
from compress.compression.resolved import pruners
from compress.configuration.config import load
from compress.errors import UserError

SHIPPED = Path(__file__).parents[1] / "ds_configs" / "compression"
BLOCK = re.compile(r"\.(layer|layers|albert_layers)\.\d+\.")
HEADS = {"params": {"dense_ratio": 0.5}, "modules": [r"attention\.(output\.dense|out_lin)$"]}
ROWS = {"params": {"dense_ratio": 0.5}, "modules": [r"(intermediate\.dense|ffn\.lin1)$"]}
BASE = {
    "train_batch_size": 10,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},
    "zero_optimization": {"stage": 0},
    "robust_compression": {"task": {"name": "mnli"}, "model": "m", "epochs": 2},
}


def technique(group, **shared):
    shared = {"enabled": True, **shared}
    return {"shared_parameters": shared, "different_groups": {"g": group}}


def changed(group, **changes):
    return {**copy.deepcopy(group), **changes}


@pytest.fixture
def config(tmp_path):
    def make(compression, **ours):
        ours = {**BASE["robust_compression"], **ours}
        values = {**BASE, "robust_compression": ours, "compression_training": compression}
        file = tmp_path / "c.json"
        file.write_text(json.dumps(values))
        return load([file])

    return make


def shape(name="bert"):
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(CONFIGS[name])


def schedule_of(settings):
    return pruners(settings, shape(), 95)[0].groups["g"].schedules[0]


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
    with pytest.raises(UserError, match=r"DeepSpeed's library copies layers.*'native'"):
        pruners(halved, shape("modernbert"), 95)


def test_a_repeated_block_loses_no_layer():
    with pytest.raises(UserError, match=r"one block that is used again and again"):
        LayerReduction(enabled=True, teacher_layer="first_half").kept(CONFIGS["albert"])


def test_rounds_are_equal_parts_and_the_last_is_at_the_end(config):
    """20 steps; from 10 % to 70 %: 2 to 14, in 3 rounds."""
    structured = {"begin": 0.1, "end": 0.7, "rounds": 3}
    schedule = schedule_of(config({"head_pruning": technique(HEADS)}, structured=structured))
    steps = [step for step in range(21) if schedule.refresh_at(step) and schedule.sparsity(step) > 0]
    assert steps == [6, 10, 14]
    assert [schedule.sparsity(step) for step in steps] == pytest.approx([1 / 3, 2 / 3, 1])


def test_one_round_is_one_shot_at_the_end(config):
    schedule = schedule_of(config({"row_pruning": technique(ROWS)}))
    steps = [step for step in range(21) if schedule.refresh_at(step) and schedule.sparsity(step) > 0]
    assert steps == [6]  # 30 % of 20


def test_learned_scores_move_at_every_step(config):
    heads = technique(HEADS, method="topk", schedule_offset=4, schedule_offset_end=8)
    [found] = pruners(config({"head_pruning": heads}), shape(), 95)
    assert found.learned and found.groups["g"].keep == 2  # of each layer
    schedule = found.groups["g"].schedules[0]
    assert [step for step in range(21) if schedule.refresh_at(step)] == [4, 5, 6, 7, 8]


@pytest.mark.parametrize(("params", "keep"), [({"dense_ratio": 0.7}, 3), ({"target_heads": 4}, 2)])
def test_even_counts_the_heads_of_a_layer(params, keep, config):
    heads = {"head_pruning": technique(changed(HEADS, params=params))}
    [found] = pruners(config(heads, structured={"even": True}), shape(), 95)
    assert found.groups["g"].even and found.groups["g"].keep == keep
    [found] = pruners(config(heads), shape(), 95)
    assert not found.groups["g"].even and found.groups["g"].keep == {3: 6, 2: 4}[keep]


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"target_heads": 5}, "target_heads is 5; the 2 layers of the group keep equal"),
        ({"target_heads": 10}, "target_heads is 10, but the group has 8 heads"),
        ({"dense_ratio": 0.1}, "leaves 0 heads"),
        ({"dense_ratio": 0.9}, "removes nothing, all 4 heads of a layer stay"),
    ],
)
def test_what_cannot_be_even(params, sentence, config):
    heads = {"head_pruning": technique(changed(HEADS, params=params))}
    with pytest.raises(UserError) as error:
        pruners(config(heads, structured={"even": True}), shape(), 95)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("compression", "sentence"),
    [
        (
            {"head_pruning": technique(HEADS, num_heads=12)},
            "num_heads is 12, but the model has 4 heads",
        ),
        (
            {"head_pruning": technique(changed(HEADS, modules=["transformer.h"]))},
            "'transformer.h' matches no linear layer of the model",
        ),
        (
            {"head_pruning": technique(changed(HEADS, modules=["query"]))},
            "'bert.encoder.layer.0.attention.self.query' is no attention output",
        ),
        (
            {"row_pruning": technique(changed(ROWS, modules=["output.dense"]))},
            "'bert.encoder.layer.0.attention.output.dense' is no first feed-forward layer",
        ),
        (
            {"head_pruning": technique(changed(HEADS, params={"target_heads": 1}))},
            "leaves 1 heads; each layer must keep one, that is 2",
        ),
        (
            {"head_pruning": technique(changed(HEADS, params={"target_heads": 9}))},
            "target_heads is 9, but the group has 8 heads",
        ),
        (
            {"head_pruning": technique(changed(HEADS, params={"pruned_heads": [4]}))},
            "there is no head 4; a layer has 4",
        ),
        (
            {"head_pruning": technique(changed(HEADS, params={"pruned_heads": [0, 1, 2, 3]}))},
            "leaves 0 heads",
        ),
        (
            {
                "head_pruning": technique(
                    changed(HEADS, params={"pruned_heads": [0], "dense_ratio": 0.5})
                )
            },
            "dense_ratio and pruned_heads contradict",
        ),
        (
            {"head_pruning": technique(changed(HEADS, params={"target_heads": 4}), method="topk")},
            "target_heads: has no effect with method 'topk'",
        ),
        (
            {"row_pruning": technique(changed(ROWS, params={"dense_ratio": 0.01}))},
            "dense_ratio: leaves no ffn neuron of 32",
        ),
        (
            {"row_pruning": technique(changed(ROWS, related_modules=[["query"]]))},
            "'bert.encoder.layer.0.output.dense' must shrink too",
        ),
        (
            {
                "head_pruning": technique(
                    changed(HEADS, related_modules=[["query", "key", "value", "pooler"]])
                )
            },
            "'bert.pooler.dense' does not belong to these modules",
        ),
        (
            {"head_pruning": technique(changed(HEADS, related_modules=[["query"], ["key"]]))},
            "must have one list for each of the 1 keywords",
        ),
        (
            {"head_pruning": technique(HEADS, schedule_offset_end=21)},
            "head_pruning: the schedule goes from step 0 to 21, but the student trains 20 steps",
        ),
        (
            {
                "row_pruning": technique(ROWS, schedule_offset_end=15),
                "sparse_pruning": technique(
                    {"params": {"dense_ratio": 0.5}, "modules": ["layer"]}, schedule_offset_end=10
                ),
            },
            "sparse_pruning ends at step 10, before heads and rows are gone at step 15",
        ),
    ],
)
def test_mistakes_are_one_sentence(compression, sentence, config):
    with pytest.raises(UserError) as error:
        pruners(config(compression), shape(), 95)
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith("compression_training")


@pytest.mark.parametrize(
    ("compression", "ours", "sentence"),
    [
        (
            {"head_pruning": technique(changed(HEADS, params={"dense_ratio": 0.99}))},
            {},
            "removes nothing, all 8 heads stay",
        ),
        (
            {"head_pruning": technique(changed(HEADS, params={"dense_ratio": 0.9}), method="topk")},
            {},
            "removes nothing, all 4 heads of a layer stay",
        ),
        (
            {"head_pruning": technique(changed(HEADS, params={"dense_ratio": 0.1}), method="topk")},
            {},
            "leaves 0 heads",
        ),
        (
            {"row_pruning": technique(ROWS)},
            {"structured": {"multiple_of": 64}},
            "removes nothing, all 32 ffn neurons stay",
        ),
        (
            {
                "row_pruning": technique(ROWS),
                "sparse_pruning": technique(
                    {"params": {"dense_ratio": 0.5}, "modules": ["layer"]}, method="topk"
                ),
            },
            {},
            "method 'topk' cannot keep its sparsity while heads or rows go",
        ),
        (
            {"head_pruning": technique(changed(HEADS, related_modules=[["nowhere"]]))},
            {},
            "different_groups.g.related_modules: 'nowhere' matches no linear layer",
        ),
    ],
)
def test_what_would_do_nothing_or_something_else(compression, ours, sentence, config):
    with pytest.raises(UserError) as error:
        pruners(config(compression, **ours), shape(), 95)
    assert sentence in str(error.value)


@pytest.mark.parametrize("method", ["topk", "importance"])
def test_listed_heads_go_whatever_the_method(method, config):
    listed = technique(
        changed(HEADS, params={"pruned_heads": [2, 0], "dense_ratio": 0.5}), method=method
    )
    [found] = pruners(config({"head_pruning": listed}), shape(), 95)
    assert isinstance(found, Heads) and not found.learned
    assert (found.groups["g"].blocks, found.groups["g"].pruned) == ((0, 1), (0, 2))


def test_schedule_offset_alone_is_the_moment_of_one_shot(config):
    heads = technique(HEADS, schedule_offset=13)
    schedule = schedule_of(config({"head_pruning": heads}))
    assert [
        step for step in range(21) if schedule.refresh_at(step) and schedule.sparsity(step) > 0
    ] == [13]


def others(name):
    return LayerReduction(enabled=True, teacher_layer=[0], other_module_name=[name])


@pytest.mark.parametrize("name", ["bert", "bert.encoder", "bert.encoder.layer.0", "no.such"])
def test_other_modules_lie_outside_the_layers(name):
    with pytest.raises(UserError, match=f"other_module_name: .*'{name}'"):
        others(name).check_others(shape())
    others("bert.pooler").check_others(shape())


def test_two_groups_with_one_layer(config):
    block = technique(HEADS)
    block["different_groups"]["h"] = changed(HEADS, modules=["layer.0.attention.output"])
    with pytest.raises(UserError, match=r"different_groups.h: another group has the layer"):
        pruners(config({"head_pruning": block}), shape(), 95)


def test_related_modules_of_deepspeeds_examples(config):
    heads = changed(HEADS, related_modules=[["self.query", "self.key", "self.value"]])
    rows = changed(ROWS, related_modules=[[r"layer\.\d+\.output\.dense"]])
    both = {"head_pruning": technique(heads), "row_pruning": technique(rows)}
    assert len(pruners(config(both), shape(), 95)) == 2


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


# ------------------------------------------------------------------------------------ layer reduction

SIX = BertConfig(num_hidden_layers=6)


def reduction(**block):
    return {"layer_reduction": {"enabled": True, **block}}


@pytest.mark.parametrize(
    ("given", "kept"),
    [([0, 1, 2], (0, 1, 2)), ("first_half", (0, 1, 2)), ("every_second", (1, 3, 5)), ([5, 0], (5, 0))],
)
def test_layers(given, kept, config):
    assert config(reduction(teacher_layer=given)).compression.layers.kept(SIX) == kept


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        ({"teacher_layer": [1, 6]}, "there is no layer 6; the model has 6, from 0"),
        ({"teacher_layer": [1, 1]}, "each once"),
        ({"teacher_layer": [1, 2], "keep_number_layer": 3}, "is 3, but teacher_layer lists 2"),
        (
            {"teacher_layer": [1], "module_name_prefix": "transformer.h"},
            "is 'transformer.h', but the layers of this model are in 'bert.encoder.layer'",
        ),
    ],
)
def test_layers_that_are_not_there(block, sentence, config):
    with pytest.raises(UserError) as error:
        config(reduction(**block)).compression.layers.kept(SIX)
    assert sentence in str(error.value)
