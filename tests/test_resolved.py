"""What is pruned when, resolved against a model; and every mistake found before training."""

import copy
import json

import pytest
import torch
from small_models import CONFIGS, fresh
from transformers import AutoModelForSequenceClassification

from compress.compression.pruners.heads import Heads
from compress.compression.resolved import pruners, resolve
from compress.configuration.config import load
from compress.errors import UserError
from compress.models import compressed
from compress.stages import difficulty

HEADS = {"params": {"dense_ratio": 0.5}, "modules": [r"attention\.(output\.dense|out_lin)$"]}
ROWS = {"params": {"dense_ratio": 0.5}, "modules": [r"(intermediate\.dense|ffn\.lin1)$"]}
WEIGHTS = {"params": {"dense_ratio": 0.5}, "modules": ["layer"]}
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


def test_the_steps_that_people_are_told(config, tmp_path):
    """Of a training of 20 steps: how often the masks change, between the ends of the schedule."""
    CONFIGS["bert"].save_pretrained(tmp_path)

    def told(compression, **structured):
        ours = {"structured": structured} if structured else {}
        return resolve(config(compression, **ours), tmp_path, 95).timetable

    weights = {"sparse_pruning": technique(WEIGHTS, method="l1", schedule_offset_stride=3)}
    schedule = schedule_of(config(weights))
    steps = [step for step in range(21) if schedule.refresh_at(step) and schedule.sparsity(step) > 0]
    assert (schedule.begin, steps, schedule.changes) == (0, [3, 6, 9, 12], 4)
    both = told({"head_pruning": technique(HEADS), **weights}, begin=0.1, end=0.5, rounds=4)
    imp50 = "imp50 4 times between steps 0 and 12"
    assert both == f"prunes heads50 4 times between steps 2 and 10 and {imp50}, of 20"
    assert told({"row_pruning": technique(ROWS)}) == "prunes rows50 at step 6, of 20"
    learned = technique(HEADS, method="topk", schedule_offset=4, schedule_offset_end=8)
    always = "heads50_learned at every step between steps 4 and 8"
    assert told({"head_pruning": learned}) == f"prunes {always}, of 20"
    assert told({}) == ""


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


UNEVEN = fresh("bert")
compressed.describe(UNEVEN, [compressed.Layer(4, 32), compressed.Layer(2, 32)])


@pytest.mark.parametrize(
    ("params", "keep"),
    [({"dense_ratio": 0.34}, 1), ({"dense_ratio": 0.7}, 2), ({"target_heads": 4}, 2)],
)
def test_even_over_layers_of_different_numbers_takes_a_share_of_their_mean(params, keep, config):
    """Of 4 and 2 heads 0.34 are 2.04, one a layer; 0.7 are 4.2, two a layer."""
    with torch.device("meta"):
        model = compressed.build(UNEVEN)
    heads = {"head_pruning": technique(changed(HEADS, params=params))}
    [found] = pruners(config(heads, structured={"even": True}), model, 95)
    assert found.groups["g"].even and found.groups["g"].keep == keep


@pytest.mark.parametrize("params", [{"dense_ratio": 0.9}, {"target_heads": 6}])
def test_even_keeps_no_more_than_the_smallest_layer_has(params, config):
    with torch.device("meta"):
        model = compressed.build(UNEVEN)
    heads = {"head_pruning": technique(changed(HEADS, params=params))}
    sentence = r"leaves 3 heads in each layer, but one has 2; give a target_heads of at most 4"
    with pytest.raises(UserError, match=sentence):
        pruners(config(heads, structured={"even": True}), model, 95)


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
            "pruned_heads contradict each other; leave dense_ratio out, or set it to 0.75.",
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
                "sparse_pruning": technique(WEIGHTS, schedule_offset_end=10),
            },
            "sparse_pruning ends at step 10, before heads and rows are gone at step 15; raise "
            "compression_training.sparse_pruning.shared_parameters.schedule_offset_end or lower "
            "compression_training.row_pruning.shared_parameters.schedule_offset_end.",
        ),
        (
            {
                "row_pruning": technique(ROWS),
                "sparse_pruning": technique(WEIGHTS, schedule_offset_end=1),
            },
            "schedule_offset_end or lower robust_compression.structured.end.",
        ),
        (
            {"sparse_pruning": technique(WEIGHTS, schedule_offset=30)},
            "from step 30 to 12, but the student trains 20 steps; lower "
            "compression_training.sparse_pruning.shared_parameters.schedule_offset.",
        ),
        (
            {"sparse_pruning": technique(WEIGHTS, schedule_offset=16)},
            "schedule_offset, or raise robust_compression.pruning.end, or give schedule_offset_end ",
        ),
        (
            {"row_pruning": technique(ROWS, schedule_offset=21)},
            "lower compression_training.row_pruning.shared_parameters.schedule_offset.",
        ),
        (
            {"head_pruning": technique(changed(HEADS, params={"target_heads": 8}))},
            "params.target_heads: removes nothing, all 8 heads stay",
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
            {"sparse_pruning": technique({"params": {"dense_ratio": 0.0005}, "modules": ["query"]})},
            {},
            "leaves none of the 576 weights of 'bert.encoder.layer.0.attention.self.query'",
        ),
        (
            {"sparse_pruning": technique({"params": {"dense_ratio": 0.0005}}, method="topk")},
            {},
            "leaves none of the 576 weights",
        ),
        (
            {"sparse_pruning": technique({"params": {"dense_ratio": 0.9995}, "modules": ["query"]})},
            {},
            "removes nothing, all 1152 weights stay",
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


def test_embeddings_that_the_library_changes_in_sub_networks(config, tmp_path):
    """The student loses layers only, so that nothing of it is masked; the sub-networks are."""
    layers = {"layer_reduction": {"enabled": True, "teacher_layer": [0]}}
    CONFIGS["gemma2"].save_pretrained(tmp_path / "gemma")
    settings = config(layers, masks="deepspeed", loss={"hook": "rmc"})
    with pytest.raises(UserError, match=r"masks: .* embeddings of Gemma2ForSequenceClassification"):
        difficulty.check_model(settings, tmp_path / "gemma")
    CONFIGS["bert"].save_pretrained(tmp_path / "bert")
    difficulty.check_model(settings, tmp_path / "bert")


@pytest.mark.parametrize("name", ["bert", "distilbert", "llama"])
def test_neurons_of_an_activation_that_is_not_zero_at_zero(name, config):
    """They would add to the output until they are cut out: sigmoid(0) is 0.5."""
    with pytest.raises(UserError, match=r"row_pruning: '.*act.*' of the model is 'sigmoid'"):
        pruners(config({"row_pruning": technique({"params": {"dense_ratio": 0.5}})}), sigmoid(name), 95)


def test_neurons_whose_gate_is_masked_too(config):
    rows = technique({"params": {"dense_ratio": 0.5}})
    assert pruners(config({"row_pruning": rows}), sigmoid("modernbert"), 95)


def sigmoid(name):
    changed_config = copy.deepcopy(CONFIGS[name])
    for key in ("hidden_act", "hidden_activation", "activation"):
        if hasattr(changed_config, key):
            setattr(changed_config, key, "sigmoid")
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(changed_config)


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


def test_two_groups_with_one_layer(config):
    block = technique(HEADS)
    block["different_groups"]["h"] = changed(HEADS, modules=["layer.0.attention.output"])
    with pytest.raises(UserError, match=r"different_groups.h: another group has .*' too, 'g'"):
        pruners(config({"head_pruning": block}), shape(), 95)


def test_related_modules_of_deepspeeds_examples(config):
    heads = changed(HEADS, related_modules=[["self.query", "self.key", "self.value"]])
    rows = changed(ROWS, related_modules=[[r"layer\.\d+\.output\.dense"]])
    both = {"head_pruning": technique(heads), "row_pruning": technique(rows)}
    assert len(pruners(config(both), shape(), 95)) == 2
