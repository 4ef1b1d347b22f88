"""Students that learn by a frozen teacher in parts under ZeRO 3, on two ranks.

The outputs of such a model are those of test_partitioned.py.
"""

import pytest
import torch
from launcher import job, two_ranks
from safetensors.torch import load_file

TERMS = [
    "robust_compression.layerwise.hidden=1",
    "robust_compression.layerwise.attention=1",
]
STATES = ["robust_compression.layerwise.hidden=1", "robust_compression.layerwise.cache_gib=1"]
pytestmark = [pytest.mark.launcher, pytest.mark.timeout(900)]


@pytest.mark.parametrize("terms", [TERMS, STATES], ids=["live", "states"])
def test_students_are_those_of_a_whole_teacher(tiny_model, tmp_path, terms):
    weights = []
    for stage in (0, 3):
        output = tmp_path / str(stage) / "run"  # a cache of its own beside it
        more = [*terms, f"zero_optimization.stage={stage}"]
        parts = ("compression/layers_first_half", "mitigation/distil")
        command = job(tiny_model, output, *more, parts=parts)
        done = two_ranks(*command)
        assert done.returncode == 0, done.stderr[-3000:]
        weights.append(load_file(output / "student/model/model.safetensors"))
    for name, whole in weights[0].items():
        torch.testing.assert_close(weights[1][name], whole, rtol=1e-4, atol=1e-5)
