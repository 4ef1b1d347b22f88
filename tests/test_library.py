"""Defects of DeepSpeed's compression library that `compress/compression/library.py` works around."""

import copy

import pytest
import torch

pytest.importorskip("deepspeed.compression.compress", reason="DeepSpeed has it until 0.19.6")

from deepspeed.compression.basic_layer import LinearLayer_Compress
from deepspeed.compression.compress import init_compression, redundancy_clean
from small_models import CONFIGS, IDS
from transformers import AutoModelForSequenceClassification

from compress.compression.library import ratio_of


def fresh(name):
    torch.manual_seed(2)
    model = AutoModelForSequenceClassification.from_config(copy.deepcopy(CONFIGS[name])).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


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
