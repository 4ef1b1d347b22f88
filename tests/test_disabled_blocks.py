"""Disabled blocks of `compression_training` are left out before anything is checked."""

import pytest
from configs import SPARSE, Files, at

from compress.configuration.config import NOT_TAKEN


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


DISABLED = {"shared_parameters": {"enabled": False, "method": "other", "schedule_offset": 5}}


@pytest.mark.parametrize("block", [*NOT_TAKEN, "head_pruning", "row_pruning"])
def test_a_disabled_block_asks_for_nothing(files, block):
    """As in DeepSpeed's example files, with any content; an enabled one is checked."""
    with_it = files.load(SPARSE, at(f"compression_training.{block}", DISABLED))
    assert with_it.merged == files.load(SPARSE).merged
    enabled = {"shared_parameters": {**DISABLED["shared_parameters"], "enabled": True}}
    for wrong in (enabled, {"enabled": False}, {"shared_parameters": {"enabled": 0}}):
        files.refused(SPARSE, at(f"compression_training.{block}", wrong))


def test_a_disabled_layer_reduction_and_a_block_of_no_such_name(files):
    reduction = {"enabled": False, "keep_number_layer": 5}
    with_it = files.load(SPARSE, at("compression_training.layer_reduction", reduction))
    assert with_it.merged == files.load(SPARSE).merged
    sentence, _ = files.refused(SPARSE, at("compression_training.sparse_prunning", DISABLED))
    assert "did you mean 'sparse_pruning'?" in sentence
