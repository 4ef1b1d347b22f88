"""The parts of a step by the clock, and a trace that Chrome's viewer reads."""

import json
import time

import pytest
import torch

from compress.training.profiling import BEFORE, PARTS, STEPS, WARM, StepProfile

CPU = torch.device("cpu")
SECONDS = {name: 0.004 * number for number, name in enumerate(PARTS, 1)}


def steps(profile, count):
    for _ in range(count):
        for name in PARTS:
            with profile.part(name):
                time.sleep(SECONDS[name])
        torch.ones(3) @ torch.ones(3)
        profile.step()


def test_parts_are_means_of_a_step_and_the_next_report_begins_anew(tmp_path):
    profile = StepProfile(tmp_path / "t.json", CPU)
    for count in (3, 2):
        steps(profile, count)
        found = profile.report()
        for name, seconds in SECONDS.items():
            assert found[f"seconds_{name}"] == pytest.approx(seconds, abs=0.02)
            assert found[f"seconds_{name}"] >= seconds
        own = sum(found[f"seconds_{name}"] for name in ("batch", "data", "forward"))
        whole = sum(found[f"seconds_{name}"] for name in PARTS)
        assert found["seconds_slowest_share"] == pytest.approx(own / whole)
    assert profile.report() == {}
    profile.close()


def test_the_trace_has_the_operations_of_ten_steps(tmp_path):
    file = tmp_path / "profile/teacher.json"
    profile = StepProfile(file, CPU)
    steps(profile, BEFORE + WARM + STEPS)
    events = json.loads(file.read_text())["traceEvents"]
    assert sum(event["name"] == "aten::dot" for event in events) == STEPS
    profile.close()


def test_nothing_is_timed_without_a_file(tmp_path):
    profile = StepProfile(None, CPU)
    steps(profile, 1)
    assert profile.report() == {}
    profile.close()
    assert list(tmp_path.iterdir()) == []


def test_the_device_is_waited_for_only_where_parts_are_timed(monkeypatch, tmp_path):
    waits = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: waits.append(1))
    for timed in (False, True):
        profile = StepProfile(None, torch.device("cuda"), timed)
        steps(profile, 1)
        assert len(waits) == (2 * len(PARTS) if timed else 0)
        assert all(seconds > 0 for seconds in profile.seconds.values()) == timed
        assert profile.report() == {}
        profile.close()
