"""The benchmark of an optimiser step: its figures by hand, and a small run of it on two ranks."""

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from launcher import benchmark_job, two_ranks

from compress.benchmark import steps
from compress.compression.pruner import Planned
from compress.compression.pruning_schedule import PruningSchedule
from compress.reporting import steps_report
from compress.reporting.steps_report import Refreshes, Turn
from compress.training.profiling import PARTS

ABOUT = {
    "batch": 10,
    "processor": "a processor",
    "device": "cpu",
    "threads": 3,
    "task": "mine",
    "precision": "fp32",
    "ranks": 2,
    "ZeRO": 2,
}
OTHERS = dict.fromkeys(("batch", "data", "backward", "optimizer", "logging", "rest"), 0.01)


def turn(name, number, forward, masks):
    return Turn(name, number, 4, 4, {**OTHERS, "forward": forward, "masks": masks})


TURNS = [
    turn("on", 0, 0.20, 0.02),
    turn("off", 0, 0.10, 0.0),
    turn("off", 1, 0.20, 0.0),
    turn("on", 1, 0.10, 0.04),
    turn("on", 2, 0.30, 0.03),
    turn("off", 2, 0.12, 0.0),
]


def test_figures_by_hand():
    found = {row["part"]: row for row in steps_report.rows(TURNS, Refreshes(3, 600, 2.0))}
    assert list(found) == list(steps_report.NAMES)
    forward = found["forward"]
    on = forward["trainings"]["on"]
    assert [on[key] for key in ("seconds", "low", "high")] == pytest.approx([0.20, 0.12, 0.28])
    assert forward["more"] == pytest.approx(0.10), "the median of 0.1, -0.1 and 0.18"
    assert found["refreshes"]["trainings"]["on"]["seconds"] == pytest.approx(2.0 * 3 / 600)
    assert found["refreshes"]["trainings"]["off"]["seconds"] == 0
    whole = [0.06 + 0.01 + sum(pair) for pair in ((0.20, 0.02), (0.10, 0.04), (0.30, 0.03))]
    assert found["step"]["trainings"]["on"]["seconds"] == pytest.approx(sorted(whole)[1])
    shares = sorted(part / step for part, step in zip((0.20, 0.10, 0.30), whole, strict=True))
    assert on["share"] == pytest.approx(shares[1])
    assert found["step"]["trainings"]["off"]["share"] == 1


def test_the_table_names_the_machine_and_every_part():
    text = steps_report.report(ABOUT, steps_report.rows(TURNS, Refreshes(3, 600, 2.0)))
    assert "device cpu, threads 3" in text and "precision fp32, ranks 2, ZeRO 2" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = {cell[0]: cell[1:] for cell in ([c.strip() for c in n.split("|")[1:-1]] for n in lines)}
    assert list(cells)[2:] == list(steps_report.NAMES.values())
    assert cells["forward"][:2] == ["200.00", "120.00-280.00"]
    assert cells["forward"][-1] == "+100.00"
    assert cells["refreshes of masks"][:2] == ["10.00", ""], "it is measured once"


def test_refreshes_in_every_timed_step_are_part_of_the_masks(tmp_path):
    each = [replace(one, between=0) if one.training == "on" else one for one in TURNS]
    text = steps_report.write(tmp_path, ABOUT, each, Refreshes(36, 60, None))
    assert "timed steps with a refresh 12 of 12, steps of a run with a refresh 36 of 60." in text
    assert "refreshes of masks" not in text


def test_without_compression_one_training_is_compared_with_nothing(tmp_path):
    alone = [one for one in TURNS if one.training == "off"]
    text = steps_report.write(tmp_path, ABOUT, alone, None)
    assert "more with pruning" not in text and "refreshes of masks" not in text
    assert text == (tmp_path / "steps.md").read_text()
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")


def test_a_record_has_what_lies_between_the_ends_of_two_steps(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    recorder = steps.Recorder(torch.device("cpu"))
    for length in (1.0, 2.0):
        for name in PARTS[:-1]:
            with recorder.part(name):
                clock[0] += length
        clock[0] += 0.5
        recorder.step()
    with recorder.part("logging"):
        clock[0] += 7.0
    first, second = recorder.records
    assert first == {**dict.fromkeys(PARTS, 1.0), "logging": 0, "step": 6.5}
    assert second == {**dict.fromkeys(PARTS, 2.0), "logging": 0, "step": 12.5}
    assert recorder.since() == {**dict.fromkeys(PARTS, 0.0), "logging": 7.0}


def test_steps_with_a_refresh():
    pruner = SimpleNamespace(groups={"a": Planned((PruningSchedule(0.0, 0.5, 2, 11, 4),))})
    assert [step for step in range(20) if steps.refreshed([pruner], step)] == [2, 6, 10, 11]
    assert not steps.refreshed([], 0)


@pytest.mark.launcher
def test_pruning_on_and_off_take_turns_on_two_ranks(tiny_model, tmp_path):
    kept = benchmark_job(tiny_model, tmp_path, parts=("compression/imp60", "mitigation/distil"))
    words = ["-m", "compress.benchmark", "steps", "--rounds", "3", "--steps", "2", *kept]
    done = two_ranks(*words, "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "out/steps.json").read_text())
    names = ["pruning on", "pruning off"]
    assert [one["training"] for one in found["turns"]] == [
        names[(n + r) % 2] for r in range(3) for n in range(2)
    ]
    machine = found["machine"]
    assert machine["ranks"] == 2 and machine["ZeRO"] == 2 and machine["steps_per_print"] == 2
    assert machine["compression"] == "imp60" and machine["steps of a run with a refresh"] == "10 of 16"
    assert machine["timed steps with a refresh"] == "4 of 6" and machine["seconds of a refresh"] > 0
    between = [one["between"] for one in found["turns"] if one["training"] == names[0]]
    assert between == [0, 0, 2], "steps 3, 4; 8, 9; 13, 14: the masks are complete at step 10"
    rows = {row["part"]: row["trainings"] for row in found["parts"]}
    for part in ("forward", "backward", "optimizer", "masks", "refreshes", "logging", "rest"):
        assert rows[part][names[0]]["seconds"] > 0
    assert rows["refreshes"][names[1]]["seconds"] == 0
    for one in found["turns"]:
        assert min(one["seconds"].values()) >= 0
    assert (tmp_path / "out/steps.png").read_bytes().startswith(b"\x89PNG")
    assert done.stdout.count("| whole step") == 1
