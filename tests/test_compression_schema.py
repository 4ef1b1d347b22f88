"""Our `compression_training` held against the installed library: same keys, and what is added."""

import json
import runpy
import sys
from typing import get_args

import pytest

pytest.importorskip("deepspeed.compression.compress", reason="DeepSpeed has it until 0.19.6")

from deepspeed.compression import constants as c
from deepspeed.compression.config import get_compression_config

from compress.compression import pruners
from compress.compression.pruners.layers import LayerReduction
from compress.compression.settings import CompressionTraining, techniques
from compress.compression.technique import PruningTechnique
from compress.configuration.config import load
from compress.errors import UserError

BASE = {
    "train_batch_size": 8,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},
    "zero_optimization": {"stage": 3},
    "robust_compression": {"task": {"name": "synthetic"}, "model": "some-encoder"},
}
BLOCKS = {
    "sparse_pruning": {"params": {"dense_ratio": 0.4}, "modules": ["encoder"]},
    "row_pruning": {
        "params": {"dense_ratio": 0.5},
        "modules": ["intermediate.dense"],
        "related_modules": [["output.dense"]],
    },
    "head_pruning": {
        "params": {"dense_ratio": 0.5},
        "modules": ["attention.output.dense"],
        "related_modules": [["self.query", "self.key", "self.value"]],
    },
}
OURS = {
    "shared": {c.SPARSE_PRUNING_SCHEDULE_OFFSET_END},
    "params": {"target_heads", "pruned_heads"},
}


def block(technique, **shared):
    shared = {"enabled": True, "method": "topk", "schedule_offset": 7, **shared}
    if technique == "head_pruning":
        shared["num_heads"] = 12
    return {technique: {"shared_parameters": shared, "different_groups": {"all": BLOCKS[technique]}}}


def read(values, tmp_path):
    file = tmp_path / "c.json"
    file.write_text(json.dumps({**BASE, "compression_training": values}))
    return load([file]).compression


@pytest.mark.parametrize("technique", BLOCKS)
def test_the_library_reads_what_passes_here(technique, tmp_path):
    values = block(technique)
    assert read(values, tmp_path).name.startswith(("movement60", "rows50_learned", "heads50_learned"))
    theirs = get_compression_config({"compression_training": values})[technique]
    shared = values[technique]["shared_parameters"]
    assert theirs["shared_parameters"].items() >= shared.items()
    assert theirs["different_groups"]["all"].items() >= BLOCKS[technique].items()


SHARED = {
    "sparse_pruning": {
        c.SPARSE_PRUNING_ENABLED,
        c.SPARSE_PRUNING_METHOD,
        c.SPARSE_PRUNING_SCHEDULE_OFFSET,
        c.SPARSE_PRUNING_SCHEDULE_OFFSET_STRIDE,
    },
    "row_pruning": {c.ROW_PRUNING_ENABLED, c.ROW_PRUNING_METHOD, c.ROW_PRUNING_SCHEDULE_OFFSET},
    "head_pruning": {
        c.HEAD_PRUNING_ENABLED,
        c.HEAD_PRUNING_METHOD,
        c.HEAD_PRUNING_SCHEDULE_OFFSET,
        c.HEAD_PRUNING_NUM_HEADS,
    },
}
GROUP = {c.DIFFERENT_GROUPS_PARAMETERS, c.DIFFERENT_GROUPS_MODULE_SCOPE}
GROUPS = {"sparse_pruning": GROUP}  # our sparse groups have no related modules
PRUNING = [block for block in techniques() if issubclass(block, PruningTechnique)]


@pytest.mark.parametrize("technique", PRUNING, ids=lambda block: f"{block.key}-{block.method}")
def test_keys_are_the_librarys_and_ours(technique):
    shared = technique.model_fields["shared_parameters"].annotation.model_fields
    pattern = {"pattern"} if technique.method == "l1" else set()
    assert set(shared) == SHARED[technique.key] | OURS["shared"] | pattern
    group = get_args(technique.model_fields["different_groups"].annotation)[1].model_fields
    assert set(group) == GROUPS.get(technique.key, GROUP | {c.DIFFERENT_GROUPS_RELATED_MODULE_SCOPE})
    more = OURS["params"] if technique.key == "head_pruning" else set()
    assert set(group["params"].annotation.model_fields) == {c.HEAD_PRUNING_DENSE_RATIO} | more


def test_layer_reduction_keys_are_the_librarys():
    assert set(LayerReduction.model_fields) == {
        c.LAYER_REDUCTION_ENABLED,
        c.KEEP_NUMBER_LAYER,
        c.MODULE_NAME_PREFIX,
        c.TEACHER_LAYER,
        c.OTHER_MODULE_NAME,
    }


def test_an_unknown_method_is_named_with_those_that_there_are(tmp_path):
    with pytest.raises(UserError) as error:
        read(block("sparse_pruning", method="l2"), tmp_path)
    key = "'compression_training.sparse_pruning.shared_parameters.method'"
    assert all(fact in str(error.value) for fact in ("c.json", key, '"l2"', "'l1'", "'topk'"))


def test_techniques_are_the_librarys():
    names = {c.LAYER_REDUCTION, c.SPARSE_PRUNING, c.ROW_PRUNING, c.HEAD_PRUNING}
    assert set(CompressionTraining.model_fields) == names


NEW = """
from typing import ClassVar
from compress.compression.pruners.magnitude import Magnitude, MagnitudePruning

class Signed(Magnitude):
    name = "signed"

class SignedPruning(MagnitudePruning):
    "Largest negative weights go."
    key: ClassVar[str] = "signed_pruning"
    order: ClassVar[int] = 50
"""


def test_a_new_file_is_a_new_pruner(tmp_path, monkeypatch):
    before = set(techniques())
    (tmp_path / "signed.py").write_text(NEW)
    monkeypatch.setattr(pruners, "__path__", [*pruners.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "compress.compression.pruners.signed", raising=False)
    [new] = set(techniques()) - before
    assert new.key == "signed_pruning"
    values = {
        "shared_parameters": {"enabled": True},
        "different_groups": {"g": BLOCKS["sparse_pruning"]},
    }
    monkeypatch.delitem(sys.modules, "compress.compression.settings")
    again = runpy.run_module("compress.compression.settings")["CompressionTraining"]
    both = again.model_validate({"signed_pruning": values, **block("row_pruning")})
    assert [type(part).__name__ for part in both.active] == ["NeuronPruning", "SignedPruning"]


@pytest.mark.parametrize(
    "params",
    [{}, {"dense_ratio": 0.5, "target_heads": 3}, {"target_heads": 3, "pruned_heads": [1]}],
)
def test_one_way_to_say_how_many_heads(params, tmp_path):
    values = block("head_pruning", method="importance")
    values["head_pruning"]["different_groups"]["all"] = {"params": params, "modules": ["x"]}
    with pytest.raises(UserError, match="give one of dense_ratio, target_heads and pruned_heads"):
        read(values, tmp_path)


def test_disabled_blocks_do_nothing(tmp_path):
    values = {}
    for technique in BLOCKS:
        values |= block(technique, enabled=False)
    values["layer_reduction"] = {"enabled": False, "teacher_layer": [0]}
    compression = read(values, tmp_path)
    assert compression.name == "none"
    assert not compression.active and compression.layers is None


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "none"),
        (block("sparse_pruning", method="l1"), "imp60"),
        ({**block("row_pruning"), **block("head_pruning")}, "heads50_learned+rows50_learned"),
        ({"layer_reduction": {"enabled": True, "teacher_layer": [0, 2]}}, "layers_0_2"),
        (
            {
                "head_pruning": {
                    "shared_parameters": {"enabled": True},
                    "different_groups": {"g": {"params": {"target_heads": 9}, "modules": ["x"]}},
                }
            },
            "heads_keep9",
        ),
        (
            {
                "head_pruning": {
                    "shared_parameters": {"enabled": True, "method": "topk"},
                    "different_groups": {"g": {"params": {"pruned_heads": [1]}, "modules": ["x"]}},
                }
            },
            "heads_listed",
        ),
        (
            {
                "head_pruning": {
                    "shared_parameters": {"enabled": True},
                    "different_groups": {
                        "g": {"params": {"pruned_heads": [1]}, "modules": ["x"]},
                        "h": {"params": {"target_heads": 9}, "modules": ["y"]},
                    },
                }
            },
            "heads_mixed",
        ),
        ({"layer_reduction": {"enabled": True, "teacher_layer": "first_half"}}, "layers_first_half"),
    ],
)
def test_names(values, name, tmp_path):
    assert read(values, tmp_path).name == name
