"""Every mechanism, trained for 20 steps, gives what tests/golden_runs.json says of it.

That file holds what is the same on all processors; side_by_side.py compares two commits bit by bit.
GOLDEN_JOBS names fewer, of which the first must be imp40.
"""

import json
import os

import pytest
from launcher import ROOT, environment_of
from preloaded import Python
from side_by_side import RECORDED

GOLDEN = json.loads((ROOT / "tests/golden_runs.json").read_text())
CHOSEN = os.environ.get("GOLDEN_JOBS", "").split() or RECORDED
FIRST, *OTHERS = CHOSEN

pytestmark = [pytest.mark.slow, pytest.mark.release, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The facts of all jobs, trained in two processes side by side.

    The first job of each makes the teacher and the difficulty, whose curves are among its facts.
    """
    folder = tmp_path_factory.mktemp("golden")
    driver, halves = str(ROOT / "tests/drivers/golden_jobs.py"), (OTHERS[0::2], OTHERS[1::2])
    started = [
        Python([driver, str(folder / f"{number}.json"), FIRST, *names], environment_of())
        for number, names in enumerate(halves)
    ]
    ended = [process.finished(800) for process in started]
    assert [one.returncode for one in ended] == [0, 0], [one.stderr for one in ended]
    files = [folder / f"{number}.json" for number in range(2)]
    return {name: facts for file in files for name, facts in json.loads(file.read_text()).items()}


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
