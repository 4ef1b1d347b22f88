"""The formula of `compress.plan` against live tensor bytes that trainings measure, on 1, 2, 4 ranks."""

import json

import launcher
import measure_memory
import pytest
from launcher import ROOT
from plan_and_measured import PARTS, measured, planned, specs

pytestmark = [pytest.mark.slow, pytest.mark.launcher, pytest.mark.timeout(900)]
FILES = ("zero2", "tasks/synthetic", "mitigation/vanilla", "compression/imp40")
ON_OTHER_RANKS = ("zero0-fp32", "zero1-bf16", "zero3-fp32", "zero3-bf16", "masked")
"""Trainings that are compared on 1 and 4 ranks."""
PLANNED = ("teacher: load", "teacher: train", "teacher: score", "teacher: export", "difficulty: train")
PLANNED += ("student: load", "student: train", "student: export")
PLANNED += ("scores of the teacher: score", "evaluation: rest")
EXPECTED = {
    "imp40": PLANNED,
    "heads20_rows50_imp40": ("student: importance", "student: train"),
}
"""Parts that are compared, by compression."""
OFFLOADED = ("teacher: load", "teacher: train", "teacher: score", "teacher: export")
NEAR = 0.1
"""Share of the measured bytes by which the formula may be wrong."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan") / "model"
    measure_memory.write_model(folder, "bert", hidden=128, layers=6, vocabulary=1000)
    return folder


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_formula_is_what_trainings_need(model, tmp_path, ranks):
    driver = str(ROOT / "tests/drivers/training_bytes.py")
    jobs = [one for one in specs(bucket=200_000) if ranks == 2 or one["name"] in ON_OTHER_RANKS]
    done = launcher.ranks(ranks, driver, str(tmp_path), str(model), json.dumps(jobs))
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
        if ranks > 1:
            often = found[0]["gatherings"]
            assert expected["gatherings"] == pytest.approx(often, abs=NEAR), spec["name"]


def run(count: int, *words: str, **extra: str) -> None:
    done = launcher.ranks(count, *words, **extra)
    assert done.returncode == 0, done.stderr[-3000:]


def parts_of(*words: str) -> list[dict]:
    """What measure_memory.py measures, of each compression; without a launcher, which takes long."""
    return [found["parts"] for found in measure_memory.measured(measure_memory.parse([*words]), run)]


def compared(script: list[str], expected: dict[str, tuple[str, ...]]) -> None:
    """Measure the parts of each compression and compare them with the plan."""
    every = parts_of(*script, "--compression", *expected)
    for parts, (compression, names) in zip(every, expected.items(), strict=True):
        for name in names:
            most = max(parts[name]["live"])
            assert parts[name]["planned"] == pytest.approx(most, rel=NEAR), (compression, name)


def test_every_part_of_a_run_needs_what_the_plan_says():
    sizes = ["--ranks", "2", "--zero", "3", "--micro", "2", "--hidden", "256", "--layers", "6"]
    compared(sizes, EXPECTED)


@pytest.mark.parametrize("zero", ["2", "3"])
def test_with_states_on_the_host_too(zero):
    """Device and host are one memory here, so that their sum is compared."""
    settings = ['zero_optimization.offload_optimizer={"device":"cpu"}', "gradient_clipping=0"]
    sizes = ["--ranks", "2", "--zero", zero, "--hidden", "256", "--layers", "6"]
    compared([*settings, *sizes, "--stage", "teacher"], {"imp40": OFFLOADED})


def test_weights_that_were_fetched_ahead_are_no_obstacle_to_an_export():
    """Passes of scores end while weights for a backward pass are on their way (ZeRO 3)."""
    ahead = "zero_optimization.stage3_prefetch_bucket_size=200000"
    words = [ahead, "--ranks", "2", "--hidden", "256", "--layers", "8", "--compression", "imp40"]
    assert parts_of(*words, "--stage", "teacher")
