"""The formula of `compress.plan` against live tensor bytes that trainings measure, on 1, 2, 4 ranks."""

import json

import pytest
from launcher import ROOT, run
from measure_memory import write_model
from plan_and_measured import PARTS, measured, planned, specs

from compress.runtime.launchers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.launcher, pytest.mark.timeout(900)]
FILES = ("zero2", "tasks/synthetic", "mitigation/vanilla", "compression/imp40")
NEAR = 0.1
"""Share of the measured bytes by which the formula may be wrong."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan") / "model"
    write_model(folder, "bert", hidden=128, layers=6, vocabulary=1000)
    return folder


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_formula_is_what_trainings_need(model, tmp_path, ranks):
    driver, jobs = str(ROOT / "tests/drivers/training_bytes.py"), specs(bucket=200_000)
    words = ["--num_accelerators", str(ranks), f"--master_port={free_port()}"]
    done = run(["deepspeed", *words, driver, str(tmp_path), str(model), json.dumps(jobs)])
    assert done.returncode == 0, done.stderr[-3000:]
    files = [str(ROOT / f"ds_configs/{name}.json") for name in FILES]
    given = [f"robust_compression.model={model}", "train_batch_size=4"]
    given.append("robust_compression.task.max_length=16")
    for spec in jobs:
        expected = planned(spec, model, files, given, ranks)
        found = measured(tmp_path, spec["name"], ranks)
        for part in PARTS:
            most = max(rank[part] for rank in found)
            assert expected[part] == pytest.approx(most, rel=NEAR), (spec["name"], part)
