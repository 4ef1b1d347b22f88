"""Whole runs: two on one output directory, one that was killed, one whose disk is full."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launcher import ROOT, job, launch, run

pytestmark = [pytest.mark.launcher, pytest.mark.timeout(600)]


def started(*words: str) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen([sys.executable, *words], env=environment, stdout=subprocess.DEVNULL)


def test_a_second_run_is_refused_and_a_killed_one_leaves_nothing(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder, words = tmp_path / "run", ("robust_compression.epochs=3000",)
    first = started(*job(tiny_model, folder, *words, stage="teacher"))
    try:
        deadline = time.monotonic() + 120
        while not (folder / "config.json").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        other = job(tiny_model, folder, "robust_compression.seed=7", stage="teacher")
        second = run([sys.executable, *other])
        assert second.returncode == 1
        assert second.stderr.count(f"(pid {first.pid} on host ") == 1
        assert "Traceback" not in second.stderr
        assert json.loads((folder / "config.json").read_text())["robust_compression"]["epochs"] == 3000
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert (folder / "run.lock").exists()
    third = run([sys.executable, *other])
    assert third.returncode == 0, third.stderr[-3000:]
    assert third.stdout.count(f" lock of pid {first.pid} on host ") == 1
    assert not (folder / "run.lock").exists()
    hidden = [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert hidden == []


def test_a_full_disk_ends_all_ranks_with_one_sentence(small: Path, tiny_model: Path) -> None:
    with (small / "fill").open("wb") as target:
        target.write(b"\0" * 240_000)
    began = time.monotonic()
    done = launch(*job(tiny_model, small / "run", stage="teacher"))
    assert done.returncode == 1 and time.monotonic() - began < 200
    assert done.stderr.count("No space left on device") == 1 and " free); " in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in small.rglob("*") if path.name.startswith(".")]
    assert not list(small.glob("shared/teacher/*"))
    assert not (small / "run/run.lock").exists()
