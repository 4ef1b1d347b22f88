"""Our masks against DeepSpeed's compression library: the same students, on two ranks, at ZeRO 0 to 3.

Where the release has the library it is the reference of ours; ours with one release are the reference
of ours with another (`launch_scripts/test.sh` runs both). The quick run takes one file of each
mechanism, and each stage with the mechanisms that it treats in its own way; PARITY=all takes every file
of ds_configs/compression at every stage, in float32 and bf16.
"""

import json
import os
from pathlib import Path

import deepspeed
import pytest
from launcher import ROOT, two_ranks

from compress.runtime import versions

FILES = sorted(file.stem for file in (ROOT / "ds_configs/compression").glob("*.json"))
EVERYWHERE = ("imp40", "heads20_rows50_imp40")
ONCE = ("heads40", "heads20_learned", "rows50", "rows50_learned", "layers_first_half")
QUICK = {
    0: (*EVERYWHERE, "movement40", *ONCE),
    2: EVERYWHERE,
    3: (*EVERYWHERE, "movement40", "imp2of4"),
}
IN_BF16 = {0: ("imp40",), 2: ("movement40", "heads20_rows50_imp40"), 3: ("imp40",)}
"""Files of the quick run by stage, in float32 and in bf16; ZeRO 1 runs the code of ZeRO 2."""
ALL = os.environ.get("PARITY") == "all"
OFFLOADED = 'zero_optimization.offload_optimizer={"device": "cpu"}'
UNCLIPPED = "gradient_clipping=0"
DEALT = "zero_optimization.round_robin_gradients=true"
PARTITIONED = "zero_optimization.stage3_param_persistence_threshold=0"
VARIANTS = {
    2: {
        "imp40-unclipped": [UNCLIPPED],
        "imp40-offloaded": [UNCLIPPED, OFFLOADED],
        "imp40-dealt": [UNCLIPPED, DEALT],
    },
    3: {"imp40-offloaded": [OFFLOADED], "imp40-partitioned": [PARTITIONED]},
}
"""Ours with other settings, by stage. Under ZeRO 3 all parameters of so small a model persist by
default, but with 0.19.6, where none may. Clipping is refused with an offloaded optimiser at ZeRO 2."""
SAME = {
    2: ("imp40-unclipped", "imp40-offloaded", "imp40-dealt"),
    3: ("imp40", "imp40-offloaded", "imp40-partitioned"),
}
OURS_ALONE = {"imp2of4", *(name for jobs in VARIANTS.values() for name in jobs)}
HUB = {"distilbert", "minilm_l6", "pretrained_l6"}
ROUNDED = {"heads20_rows50_imp40-bf16", "heads20-bf16", "heads40-bf16", "heads20_learned-bf16"}
"""The library multiplies a transposed copy of the weight by a mask of heads; bf16 rounds otherwise."""
STEPS, LIMIT = (50, 4000) if ALL else (20, 500)
LIBRARY = versions.has_library()

pytestmark = [pytest.mark.launcher, pytest.mark.parity, pytest.mark.timeout(LIMIT + 400)]


@pytest.fixture(scope="module")
def record():
    """The file that keeps what each release gave, if there is to be one."""
    file = os.environ.get("PARITY_RECORD")
    return Path(file) if file else None


def jobs(stage: int, model: Path) -> dict[str, dict]:
    """What is trained at a stage: name -> file, kinds of masks, settings."""
    found = {}
    for name in FILES if ALL else QUICK[stage]:
        both = ["native", "deepspeed"] if LIBRARY and name not in OURS_ALONE else ["native"]
        settings = [f"robust_compression.student.model={model}"] if name in HUB else []
        found[name] = {"file": name, "kinds": both, "set": settings}
        if stage != 1 and (ALL or name in IN_BF16[stage]):
            low = [*settings, 'bf16={"enabled": true}']
            found[f"{name}-bf16"] = {"file": name, "kinds": both, "set": low}
    for name, settings in VARIANTS.get(stage, {}).items():
        found[name] = {"file": "imp40", "kinds": ["native"], "set": settings}
    return found


@pytest.fixture(scope="module", params=range(4) if ALL else QUICK, ids=lambda stage: f"zero{stage}")
def students(request, four_heads, tmp_path_factory):
    """The stage, and what each job gave, by kind of masks and name; all of one process group."""
    folder = tmp_path_factory.mktemp("students")
    spec = {
        "stage": request.param,
        "steps": STEPS,
        "set": ["optimizer.params.lr=0.002", "gradient_clipping=0.5"],
        "jobs": jobs(request.param, four_heads),
    }
    driver = str(ROOT / "tests/drivers/parity_steps.py")
    done = two_ranks(driver, str(folder), str(four_heads), json.dumps(spec), limit=LIMIT)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict] = {"native": {}, "deepspeed": {}}
    for name, job in spec["jobs"].items():
        for kind in job["kinds"]:
            found[kind][name] = json.loads((folder / f"{name}-{kind}.json").read_text())
    return f"zero{request.param}", found


@pytest.mark.skipif(not LIBRARY, reason="this release of DeepSpeed has no compression library")
def test_ours_are_the_librarys(students):
    _, found = students
    alone = {name for name in found["native"] if name.removesuffix("-bf16") in OURS_ALONE}
    assert found["deepspeed"].keys() == found["native"].keys() - alone
    for name, theirs in found["deepspeed"].items():
        ours = found["native"][name]
        assert len(ours["losses"]) == STEPS, name
        exact = name not in ROUNDED
        near = {"abs": 1e-6} if exact else {"rel": 2e-3}
        assert ours["losses"] == pytest.approx(theirs["losses"], **near), name
        for key in ("kept", "shapes", "pruned", "sparsity", *(["zeros"] if exact else [])):
            assert ours[key] == theirs[key], (name, key)


def test_students_lose_what_is_asked_and_learn(students):
    _, found = students
    for name, ours in found["native"].items():
        assert min(ours["losses"][-5:]) < ours["losses"][0], name
    at = {name: ours["sparsity"] for name, ours in found["native"].items()}
    assert at["imp40"] == at.get("movement40", at["imp40"]) == pytest.approx(0.4, abs=1e-3)
    assert at.get("imp2of4", 0.5) == 0.5
    kept = found["native"]["heads20_rows50_imp40"]["kept"]
    assert sum(len(heads) for heads, _ in kept) == 13
    assert all(len(neurons) == 32 for _, neurons in kept)


def test_offloaded_and_persisting_parameters_change_nothing(students):
    stage, found = students
    first, *others = SAME.get(int(stage[-1]), (None,))
    for name in others:
        assert found["native"][name] == found["native"][first], name


def test_releases_give_the_same(students, record):
    """Bit for bit: losses, zeros and weights of the first release that ran with PARITY_RECORD."""
    case, found = students
    if record is None:
        pytest.skip("PARITY_RECORD names no file; launch_scripts/test.sh sets it for both releases")
    record.parent.mkdir(parents=True, exist_ok=True)
    recorded = json.loads(record.read_text()) if record.exists() else {}
    release = deepspeed.__version__.split("+")[0]
    others = {r: cases[case] for r, cases in recorded.items() if r != release and case in cases}
    recorded.setdefault(release, {})[case] = found["native"]
    record.write_text(json.dumps(recorded))
    if not others:
        pytest.skip("no other release has run yet")
    for other, theirs in others.items():
        assert theirs.keys() == found["native"].keys()
        for name, values in theirs.items():
            assert found["native"][name] == values, (other, name)
