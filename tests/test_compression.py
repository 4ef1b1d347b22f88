"""The seam without an engine: masked and cut models agree, state comes back, layers are copied.

The second half shows the defects of the pinned library that the seam works around.
"""

import copy

import pytest
import torch
from deepspeed.compression.basic_layer import LinearLayer_Compress
from deepspeed.compression.compress import init_compression, redundancy_clean
from small_models import CONFIGS, IDS
from transformers import AutoModelForSequenceClassification

from compress.compression.importance import Importance
from compress.compression.library import ratio_of
from compress.compression.masks import Masks
from compress.compression.pruners.heads import Heads
from compress.compression.pruners.layers import LayerReduction, outside
from compress.compression.pruners.magnitude import Magnitude, Weights
from compress.compression.pruners.movement import Movement
from compress.compression.pruners.neurons import Neurons
from compress.compression.pruning_schedule import PruningSchedule
from compress.compression.units import Units
from compress.models import architectures, compressed

END = (PruningSchedule(0.0, 1.0, 0, 4),)
HALF = (PruningSchedule(0.0, 0.5, 0, 4),)


@pytest.fixture(params=CONFIGS)
def model(request):
    return fresh(request.param)


def fresh(name):
    torch.manual_seed(2)
    config = CONFIGS[name].__class__.from_dict(CONFIGS[name].to_dict())
    model = AutoModelForSequenceClassification.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def scorer(weights):
    """Made-up importance: what it is called with does not matter here."""
    generator = torch.Generator().manual_seed(0)
    return Importance(
        [torch.rand(4, generator=generator) for _ in range(2)],
        [torch.rand(32, generator=generator) for _ in range(2)],
    )


def everything(model, learned):
    """Heads, neurons and half of the weights of both blocks."""
    names = [
        layer
        for block in architectures.blocks(model)
        for layer in (*block.projections, block.attention_output, block.intermediate, block.output)
    ]
    heads, neurons = Units(END, (0, 1), keep=3 if learned else 5), Units(END, (0, 1), keep=11)
    weights = Weights(HALF, tuple(names))
    sparse = Movement if learned else Magnitude
    pruners = [Heads({"g": heads}), Neurons({"g": neurons}), sparse({"g": weights})]
    for pruner in pruners:
        pruner.learned = learned
    return pruners


def masked(model, pruners, scorer=scorer):
    masks = Masks(pruners, scorer)
    masks.attach(model)
    return masks


def pruned(model, learned):
    masks = masked(model, everything(model, learned))
    if learned:
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if name.endswith("_scores"):
                parameter.data = torch.randn(parameter.shape, generator=generator)
    for step in range(5):
        masks.after_step(step)
    return masks


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("learned", [False, True], ids=["chosen", "learned"])
def test_masked_and_cut_model_agree(model, learned):
    shape = copy.deepcopy(model)
    dense = logits(model)
    masks = pruned(model, learned)
    wanted = logits(model)
    assert (wanted - dense).abs().max() > 1e-3
    small = masks.shrink(masks.finish(model.state_dict()), shape).eval()
    torch.testing.assert_close(logits(small), wanted, atol=1e-5, rtol=1e-5)
    blocks = architectures.blocks(small)
    assert sum(block.heads for block in blocks) == (6 if learned else 5)
    assert [block.neurons for block in blocks] == [11, 11]


def test_nothing_is_pruned_before_the_first_step(model):
    dense = logits(model)
    masked(model, everything(model, learned=True))
    torch.testing.assert_close(logits(model), dense)


@pytest.mark.parametrize("learned", [False, True], ids=["chosen", "learned"])
def test_state_brings_the_masks_back(model, learned):
    other = copy.deepcopy(model)
    masks = pruned(model, learned)
    again = masked(other, masks.pruners)
    again.load_state_dict(masks.state_dict())
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits(other), logits(model))
    assert again.sparsity() == pytest.approx(masks.sparsity())


def test_sparsity_holds_among_what_heads_and_rows_leave():
    model = fresh("bert")
    shape = copy.deepcopy(model)
    masks = pruned(model, learned=False)
    small = masks.shrink(masks.finish(model.state_dict()), shape)
    for name in masks.sparse[0].carriers:
        weight = dict(small.named_modules())[name].weight
        assert int((weight == 0).sum()) == round(weight.numel() * 0.5), name
    assert masks.sparsity() == pytest.approx(0.5, abs=1e-2)


def test_removed_heads_stay_removed_over_the_rounds():
    model = fresh("bert")
    turn = iter(range(10))

    def changing(weights):
        generator = torch.Generator().manual_seed(next(turn))
        return Importance([torch.rand(4, generator=generator) for _ in range(2)], [])

    linear = PruningSchedule(0.0, 1.0, 0, 4, 1, "linear")
    masks = masked(model, [Heads({"h": Units((linear,), (0, 1), keep=4)})], changing)
    before = [set(range(4)), set(range(4))]
    for step, left in zip(range(1, 5), (7, 6, 5, 4), strict=True):
        masks.after_step(step)
        now = [set(masks.pruners[0].kept[number]) for number in (0, 1)]
        assert sum(map(len, now)) == left
        assert all(new <= old for new, old in zip(now, before, strict=True))
        before = now


# ------------------------------------------------------------------------------------ layer reduction


def reduce_layers(model, layers, others=None):
    block = LayerReduction(enabled=True, teacher_layer=layers, other_module_name=others)
    return block.reduced(model, layers)


def test_layers_are_copied(model, capfd):
    student = reduce_layers(model, [1]).eval()
    prefix = architectures.find(model.config).blocks
    source, target = model.state_dict(), student.state_dict()
    for name, value in target.items():
        assert torch.equal(value, source[name.replace(f"{prefix}.0.", f"{prefix}.1.")]), name
    assert len(architectures.blocks(student)) == 1
    assert capfd.readouterr().out == ""


def test_all_layers_in_order_are_the_model_itself(model):
    assert torch.equal(logits(reduce_layers(model, [0, 1]).eval()), logits(model))


def test_uneven_layers_keep_their_sizes():
    model = fresh("bert")
    shape = copy.deepcopy(model)
    masks = pruned(model, learned=False)
    small = masks.shrink(masks.finish(model.state_dict()), shape)
    sizes = [(b.heads, b.neurons) for b in architectures.blocks(small)]
    one = reduce_layers(small, [1])
    assert [(b.heads, b.neurons) for b in architectures.blocks(one)] == [sizes[1]]
    assert compressed.sizes(one.config) is not None


def test_other_modules_that_are_left_out_are_fresh():
    model = fresh("bert")
    names = outside(model)
    assert set(names) == {"bert.embeddings", "bert.pooler", "classifier"}
    student = reduce_layers(model, [0], ["bert.embeddings"])
    assert torch.equal(
        student.bert.embeddings.word_embeddings.weight, model.bert.embeddings.word_embeddings.weight
    )
    assert not torch.equal(student.classifier.weight, model.classifier.weight)


# ------------------------------------------------------------------------------------ library defects


def block(technique, modules, related, **shared):
    shared = {"enabled": True, "schedule_offset": 0, **shared}
    group = {"params": {"dense_ratio": 0.5}, "modules": modules, "related_modules": related}
    return {
        "compression_training": {
            technique: {"shared_parameters": shared, "different_groups": {"g": group}}
        }
    }


def test_library_mixes_up_masks_of_several_keywords():
    """`redundancy_clean` cuts the columns of the second keyword's layers with the first one's mask."""
    model = fresh("bert")
    modules = ["layer.0.intermediate.dense", "layer.1.intermediate.dense"]
    related = [[r"layer.0.output.dense"], [r"layer.1.output.dense"]]
    settings = block("row_pruning", modules, related, method="l1")
    init_compression(model, copy.deepcopy(settings))
    layers = [dict(model.named_modules())[f"bert.encoder.{name}"] for name in modules]
    for layer in layers:
        layer.row_pruning_enabled = True
    wanted = logits(model)
    redundancy_clean(model, copy.deepcopy(settings))
    assert (logits(model) - wanted).abs().max() > 1e-3


def test_library_rounds_a_ratio_up():
    """All but 11 of 12 heads: the library keeps 2, for `1 - 11 / 12` is a little above 1 / 12."""
    layer = LinearLayer_Compress(24, 24)
    layer.enable_head_pruning(1 - 11 / 12, "topk", 12)
    assert layer.get_mask("head").sum() == 2
    layer.head_pruning_ratio = ratio_of(1, 12)
    assert layer.get_mask("head").sum() == 1


@pytest.mark.parametrize("size", [1, 2, 3, 12, 144, 1536, 589824])
def test_our_ratio_keeps_exactly_what_is_asked(size):
    for keep in {0, 1, size // 3, size // 2, size - 1, size}:
        layer = torch.arange(size, dtype=torch.float32)
        mask = TopK(layer, ratio_of(keep, size))
        assert int(mask.sum()) == keep


def TopK(scores, ratio):  # noqa: N802  the library's name for it
    from deepspeed.compression.utils import TopKBinarizer

    return TopKBinarizer.apply(scores, ratio, False)


def test_library_learns_from_random_scores():
    """Two layers alike start with different heads switched off, before any training."""
    torch.manual_seed(0)
    first, second = LinearLayer_Compress(24, 24), LinearLayer_Compress(24, 24)
    for layer in (first, second):
        layer.enable_head_pruning(0.5, "topk", 12)
    assert not torch.equal(first.get_mask("head"), second.get_mask("head"))


def test_library_takes_a_keyword_that_matches_nothing():
    model = fresh("bert")
    init_compression(model, block("row_pruning", ["no.such.layer"], [["neither"]], method="l1"))


def test_library_configuration_does_not_know_the_new_widths():
    model = fresh("bert")
    settings = block("row_pruning", ["intermediate.dense"], [[r"layer.\d.output.dense"]], method="l1")
    init_compression(model, copy.deepcopy(settings))
    redundancy_clean(model, copy.deepcopy(settings))
    assert model.bert.encoder.layer[0].intermediate.dense.out_features == 16
    assert model.config.intermediate_size == 32
