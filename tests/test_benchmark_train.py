"""The benchmark of trainings: its figures by hand, and a small run of it on two ranks."""

import json
import re
import subprocess
from types import SimpleNamespace

import pytest
import torch
from configs import BASE
from launcher import ROOT, benchmark_job, python, two_ranks
from transformers import AutoTokenizer

from compress.benchmark import accuracy, demand, training
from compress.configuration.config import build
from compress.errors import UserError
from compress.models import encoders
from compress.reporting import training_report
from compress.reporting.training_report import Look, Turn
from compress.synthetic.generator import ENTAILED, NOT_ENTAILED

ABOUT = {
    "batch": 10,
    "mean tokens": 20.0,
    "operations of a token": 100.0,
    "peak operations": 24_000.0,
    "processor": "a processor",
    "device": "cpu",
    "task": "mine",
    "precision": "fp32",
    "ranks": 2,
    "zero": None,
}
MEMORY = ("memory of the host before, MB", "peak memory of the host, MB")
TURNS = [
    Turn("ours", 0, 2, 10.0, 400, 440, 3.0),
    Turn("other", 0, 2, 20.0, 400, 800, 4.0),
    Turn("other", 1, 2, 30.0, 200, 500, 4.0),
    Turn("ours", 1, 2, 20.0, 400, 440, 3.0),
    Turn("ours", 2, 2, 5.0, 400, 440, 3.0),
    Turn("other", 2, 2, 25.0, 400, 900, 4.0),
]


OURS = "robust_compression"


def classifier(encoder, folder):
    """A classifier of the embedded benchmark in a directory."""
    model = encoders.load_classifier(encoder, (ENTAILED, NOT_ENTAILED))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    return folder


def test_figures_by_hand():
    ours, other = training_report.rows(ABOUT, TURNS)
    assert ours["samples_per_second"] == pytest.approx(2.0)
    assert other["samples_per_second"] == pytest.approx(16 / 20)
    assert ours["tokens_per_second"] == pytest.approx(40)
    assert ours["of_peak"] == pytest.approx(3 * 100 * 40 / 24_000)
    assert ours["padding"] == pytest.approx(1 - 1200 / 1320)
    assert other["padding"] == pytest.approx(1 - 1000 / 2200)
    assert other["ratio"] == pytest.approx(3.0), "the median of 2, 3 and 5"
    assert other["bound"] == pytest.approx(2200 / 1000 * 4 / 3)
    text = training_report.report(ABOUT, [ours, other])
    (line,) = [line for line in text.splitlines() if line.startswith("| other")]
    assert [cell.strip() for cell in line.split("|")[-4:-1]] == ["3.00", "2.93", "102 %"]
    assert "zero" not in text


LOOKS = [Look("ours", n, a) for n, a in enumerate((0.5, 0.8, 0.9))]
LOOKS += [Look("other", n, a) for n, a in enumerate((0.85, 0.7, 0.8))]


def test_seconds_until_each_keeps_the_accuracy_that_all_have_at_the_end():
    """80 %: ours from its second turn on (10 + 20 s, and 7 before), the other from its third (75 s).

    The other has more after its first turn, which it does not keep.
    """
    ours, other = training_report.reached(TURNS, LOOKS, 7.0)
    assert [ours["level"], ours["last"], other["last"]] == [0.8, 0.9, 0.8]
    assert (ours["steps"], ours["seconds"], ours["ratio"]) == (4, 37.0, 1.0)
    assert (other["steps"], other["seconds"]) == (6, 75.0)
    assert other["ratio"] == pytest.approx(75 / 37)
    text = training_report.report(ABOUT, training_report.rows(ABOUT, TURNS), [ours, other])
    (line,) = [line for line in text.splitlines() if line.startswith("| other") and "80.0 %" in line]
    assert [cell.strip() for cell in line.split("|")[-4:-1]] == ["6", "75", "2.03"]


def test_a_peer_alone_is_not_charged_with_what_ours_needs_before(tmp_path):
    """The facts hold no seconds of the teacher's probabilities where ours takes no part."""
    about = ABOUT | {"teacher's probabilities, s": 7.0}
    turns = [turn for turn in TURNS if turn.training == "ours"]
    for facts, seconds in ((about, 42.0), (ABOUT, 35.0)):
        training_report.write(tmp_path, facts, turns, LOOKS[:3])
        found = json.loads((tmp_path / "training.json").read_text())["reached"]
        assert [row["seconds"] for row in found] == [seconds]


@pytest.mark.parametrize(("part", "more"), [("vanilla", {}), ("distil", {"layerwise": {"hidden": 1}})])
def test_only_distillation_can_be_compared_with_a_trained_teacher(tmp_path, part, more):
    loss = {"hook": part}
    config = build(BASE | {OURS: BASE[OURS] | {"loss": loss, **more}}, {})
    with pytest.raises(UserError, match=r"--teacher: .*mitigation/distil\.json"):
        accuracy.check(tmp_path, config)
    right = build(BASE | {OURS: BASE[OURS] | {"loss": {"hook": "distil"}}}, {})
    accuracy.check(tmp_path, right)
    with pytest.raises(UserError, match=r"--teacher .*none: is no directory"):
        accuracy.check(tmp_path / "none", right)


def test_time_that_spans_cover():
    assert demand.covered([(5, 6), (0, 2), (1, 3), (1, 2)]) == pytest.approx(4)
    assert demand.covered([]) == 0
    described = demand.Demand(100.0, 0.02).described(0.05)
    assert described["GPU idle"] == pytest.approx(0.6)
    assert described["GPU busy a step, ms"] == pytest.approx(20)


def test_operations_that_a_step_asks_for():
    one = torch.ones(3)
    assert (
        demand.measure(lambda count: [one.neg() for _ in range(2 * count)], one.device).operations == 2
    )


@pytest.mark.launcher
@pytest.mark.release
def test_three_trainings_take_turns_on_two_ranks(tiny_model, tmp_path):
    pytest.importorskip("accelerate")
    kept = benchmark_job(tiny_model, tmp_path, parts=("compression/imp60", "mitigation/distil"))
    words = ["-m", "compress.benchmark", "train", "--rounds", "3", "--steps", "2", *kept]
    words += ["--teacher", str(classifier(tiny_model, tmp_path / "teacher"))]
    done = two_ranks(*words, "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "out/training.json").read_text())
    names = ["robust compression", "Hugging Face Trainer", "padded to full length"]
    assert [row["training"] for row in found["trainings"]] == names
    assert [turn["training"] for turn in found["turns"]] == [
        names[(n + r) % 3] for r in range(3) for n in range(3)
    ]
    assert found["machine"]["ranks"] == 2 and found["machine"]["batch"] == 16
    ours, dynamic, padded = found["trainings"]
    assert ours["padding"] < dynamic["padding"] < padded["padding"]
    for turn in found["turns"]:
        assert 0 < turn["tokens"] <= turn["places"]
    assert padded["bound"] > dynamic["bound"] > 4 / 3
    assert (tmp_path / "out/training.png").read_bytes().startswith(b"\x89PNG")
    assert done.stdout.count("| robust compression") == 2
    said = re.findall(r"^round (\d) of 3: (.+): \d+\.\d s, dev \d+\.\d%$", done.stdout, re.M)
    assert said == [(str(turn["round"] + 1), turn["training"]) for turn in found["turns"]]
    assert [look["round"] for look in found["looks"]] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert {row["level"] for row in found["reached"]} == {min(row["last"] for row in found["reached"])}
    ours, *_ = found["reached"]
    before = found["machine"]["teacher's probabilities, s"]
    spent = sum(t["seconds"] for t in found["turns"] if t["training"] == names[0])
    assert before < ours["seconds"] <= before + spent + 1e-6


def test_without_accelerate_only_ours_can_be_timed(monkeypatch):
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    monkeypatch.setattr(training.ours, "settled", lambda *_: None)
    for only in (None, "padded"):
        with pytest.raises(UserError, match=r"needs accelerate .* or add --only ours"):
            training.run(SimpleNamespace(only=only), None)


@pytest.mark.launcher
def test_one_alone_tells_its_memory_and_operations(tiny_model, tmp_path):
    kept = benchmark_job(tiny_model, tmp_path, parts=("compression/imp60", "mitigation/poe"))
    kept += ["--set", 'bf16={"enabled": true}']
    words = ["-m", "compress.benchmark", "train", "--only", "ours", "--rounds", "2", "--steps", "2"]
    done = python(*words, *kept, "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "out/training.json").read_text())
    assert [row["training"] for row in found["trainings"]] == ["robust compression"]
    assert re.search(r"^round 2 of 2: robust compression: \d+\.\d s$", done.stdout, re.M)
    before, peak = (found["machine"][key] for key in MEMORY)
    assert 100 < before <= peak < 10_000
    asked = found["machine"]["operations a step"]
    assert 1_000 < asked < 2_800, "2,512; 3,255 if DeepSpeed searches the gradients once more"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git repository")
def test_what_a_benchmark_leaves_is_not_committed():
    """Rows of the user's data lie below the default of --output."""
    shown = subprocess.run(
        ["git", "-C", str(ROOT), "check-ignore", "benchmark/shared/rows", "runs/x"], capture_output=True
    )
    assert shown.stdout.split() == [b"benchmark/shared/rows", b"runs/x"]
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "compress/benchmark"], capture_output=True
    )
    assert b"compress/benchmark/ours.py" in tracked.stdout
