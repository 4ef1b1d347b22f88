"""A training that is continued from a checkpoint goes on as the one that was saved: bit for bit.

That is so on the same ranks. On other ranks, or at another ZeRO stage, it has the same masks, and
losses within rounding.
"""

import json

import pytest
from launcher import ROOT, python, two_ranks

from compress.runtime import versions

DRIVER = str(ROOT / "tests/drivers/resume_steps.py")
STEPS, AT, LATER = 10, 5, 7
BF16, PARTS = ['bf16={"enabled": true}'], ["gradient_accumulation_steps=2"]
FOCAL = ["robust_compression.loss.hook=focal"]
COMBINED = "heads20_rows50_imp40"
EVERY = {
    **{f"imp-zero{n}": {"file": "imp40", "stage": n} for n in range(4)},
    "movement-zero0": {"file": "movement40", "stage": 0},
    "movement-zero3": {"file": "movement40", "stage": 3},
    "combined-zero1": {"file": COMBINED, "stage": 1, "set": PARTS},
    "combined-zero3": {"file": COMBINED, "stage": 3},
    "learned-zero2": {"file": "heads20_learned", "stage": 2},
    "focal-zero2": {"file": "imp40", "stage": 2, "set": [*FOCAL, *PARTS]},
    "library-zero2": {"file": "imp40", "stage": 2, "kinds": ["deepspeed"]},
    **{f"bf16-zero{n}": {"file": "imp40", "stage": n, "set": BF16} for n in (0, 2, 3)},
}
"""Names -> students; each is saved at AT, between two refreshes of its masks."""
SOME = ("imp-zero1", "movement-zero3", "bf16-zero0", "bf16-zero2")
JOBS = EVERY if versions.has_library() else {name: EVERY[name] for name in SOME}

pytestmark = [pytest.mark.launcher, pytest.mark.timeout(600)]


def spec_of(folder, jobs, at=AT, **more):
    jobs = {name: {"kinds": ["native"], **job} for name, job in jobs.items()}
    rates = ["optimizer.params.lr=0.002", "gradient_clipping=0.5"]
    return json.dumps(
        {"steps": STEPS, "at": at, "saved": str(folder), "set": rates, "jobs": jobs, **more}
    )


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, four_heads):
    """The students of two ranks, whole and continued."""
    folder = tmp_path_factory.mktemp("pairs")
    done = two_ranks(DRIVER, str(folder), str(four_heads), spec_of(folder / "saved", JOBS))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.release
@pytest.mark.parametrize("name", JOBS)
def test_a_continued_training_is_the_whole_one(pairs, name):
    kind = JOBS[name].get("kinds", ["native"])[0]
    whole, continued = (read(pairs, f"{name}-{kind}-{which}") for which in ("whole", "continued"))
    assert len(whole["losses"]) == STEPS
    assert continued == {**whole, "losses": whole["losses"][AT:]}


OTHERS = {
    "imp-zero0": "imp-zero3-native",
    "imp-zero3": "imp-zero0-native",
    "movement-zero2": "movement-zero3-native",
    "combined-zero0": "combined-zero1-native",
}
"""Students -> the checkpoints that they continue, of another stage."""


@pytest.fixture(scope="module")
def moved(tmp_path_factory, four_heads):
    """Students without dropout: saved on two ranks, continued on one, and on two again."""
    folder = tmp_path_factory.mktemp("moved")
    source = {name: EVERY[name] for name in ("imp-zero0", "imp-zero3", "movement-zero3")}
    source["combined-zero1"] = {"file": COMBINED, "stage": 1}
    kept = folder / "saved"
    words = [str(folder / "source"), str(four_heads), spec_of(kept, source, dropout=0.0)]
    assert (done := two_ranks(DRIVER, *words)).returncode == 0, done.stderr[-3000:]
    files = {name: source.get(OTHERS[name].removesuffix("-native"))["file"] for name in OTHERS}
    jobs = {
        name: {"file": files[name], "stage": int(name[-1]), "from": start}
        for name, start in OTHERS.items()
    }
    words = [str(folder / "one"), str(four_heads), spec_of(kept, jobs, LATER, dropout=0.0)]
    assert (done := python(DRIVER, *words)).returncode == 0, done.stderr[-3000:]
    words = [str(folder / "two"), str(four_heads), spec_of(kept, jobs, None, dropout=0.0)]
    assert (done := two_ranks(DRIVER, *words)).returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize(
    ("ranks", "which", "at"),
    [("one", "moved", AT), ("one", "continued", LATER), ("two", "moved", LATER)],
)
@pytest.mark.parametrize("name", OTHERS)
def test_another_number_of_ranks_and_another_stage_go_on(moved, name, ranks, which, at):
    whole = read(moved / "source", f"{OTHERS[name]}-whole")
    continued = read(moved / ranks, f"{name}-native-{which}")
    assert continued["losses"] == pytest.approx(whole["losses"][at:], rel=1e-4)
    for key in ("kept", "shapes", "sparsity", "rates"):
        assert continued[key] == whole[key], key
    assert continued["pruned"] == pytest.approx(whole["pruned"], abs=4)
