"""Every mechanism, trained for 20 steps, gives what tests/golden_runs.json says of it.

That file holds what is the same on all processors; side_by_side.py compares two commits bit by bit.
GOLDEN_JOBS names fewer, of which the first must be imp40.
"""

import json
import os

import pytest
from launcher import ROOT, python
from side_by_side import RECORDED

GOLDEN = json.loads((ROOT / "tests/golden_runs.json").read_text())
CHOSEN = os.environ.get("GOLDEN_JOBS", "").split() or RECORDED

pytestmark = [pytest.mark.slow, pytest.mark.release, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The facts of all jobs, one after another: they share a teacher and a difficulty."""
    file = tmp_path_factory.mktemp("golden") / "facts.json"
    done = python(str(ROOT / "tests/drivers/golden_jobs.py"), str(file), *CHOSEN)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text())


def test_every_job_is_recorded():
    assert list(GOLDEN) == RECORDED


@pytest.mark.parametrize("name", CHOSEN)
def test_a_mechanism_trains_as_recorded(found, name):
    ours, golden = found[name], GOLDEN[name]
    assert ours.keys() == golden.keys()
    for key, value in golden.items():
        if key.endswith("_loss"):
            value = [pytest.approx(value[0], rel=1e-3), value[1]]
        elif key.endswith(("_sparsity", "_lr")):
            value = pytest.approx(value, abs=1e-6)
        elif key == "zeros":
            value = pytest.approx(value, abs=8)
        assert ours[key] == value, key
