"""Layer reduction: which layers stay, and mistakes that are found before training."""

import pytest
import torch
from configs import Files
from small_models import CONFIGS
from transformers import AutoModelForSequenceClassification, BertConfig

from compress.compression.pruners.layers import LayerReduction
from compress.errors import UserError

SIX = BertConfig(num_hidden_layers=6)


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def reduction(**block):
    return {"layer_reduction": {"enabled": True, **block}}


@pytest.mark.parametrize(
    ("given", "kept"),
    [([0, 1, 2], (0, 1, 2)), ("first_half", (0, 1, 2)), ("every_second", (1, 3, 5)), ([5, 0], (5, 0))],
)
def test_layers(given, kept, files):
    assert (
        files.load({"compression_training": reduction(teacher_layer=given)}).compression.layers.kept(
            SIX
        )
        == kept
    )


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
def test_layers_that_are_not_there(block, sentence, files):
    with pytest.raises(UserError) as error:
        files.load({"compression_training": reduction(**block)}).compression.layers.kept(SIX)
    assert sentence in str(error.value)


def others(name):
    return LayerReduction(enabled=True, teacher_layer=[0], other_module_name=[name])


@pytest.mark.parametrize("name", ["bert", "bert.encoder", "bert.encoder.layer.0", "no.such"])
def test_other_modules_lie_outside_the_layers(name):
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(CONFIGS["bert"])
    with pytest.raises(UserError, match=f"other_module_name: .*'{name}'"):
        others(name).check_others(model)
    others("bert.pooler").check_others(model)
