"""Whole runs: two on one output directory, one that was killed, one whose disk is full."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from conftest import LIBC, mount
from launcher import environment_of, job, python, two_ranks
from preloaded import Python
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = [pytest.mark.launcher, pytest.mark.timeout(600)]


CHECKPOINTS_OFF = "robust_compression.checkpoint.enabled=false"


def test_a_second_run_is_refused_and_a_killed_one_leaves_nothing(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder, words = tmp_path / "run", ("robust_compression.epochs=3000",)
    first = Python(job(tiny_model, folder, *words, stage="teacher"), environment_of())
    try:
        deadline = time.monotonic() + 120
        while not (folder / "config.json").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        other = job(tiny_model, folder, "robust_compression.seed=7", stage="teacher")
        second = python(*other)
        assert second.returncode == 1
        assert second.stderr.count(f"(pid {first.pid} on host ") == 1
        assert "Traceback" not in second.stderr
        assert json.loads((folder / "config.json").read_text())["robust_compression"]["epochs"] == 3000
    finally:
        first.kill()
        assert first.finished(60).returncode == -signal.SIGKILL
    assert (folder / "run.lock").exists()
    third = python(*other)
    assert third.returncode == 0, third.stderr[-3000:]
    assert third.stdout.count(f" lock of pid {first.pid} on host ") == 1
    assert not (folder / "run.lock").exists()
    hidden = [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert hidden == []


def test_a_full_disk_ends_all_ranks_with_one_sentence(small: Path, tiny_model: Path) -> None:
    with (small / "fill").open("wb") as target:
        target.write(b"\0" * 240_000)
    began = time.monotonic()
    done = two_ranks(*job(tiny_model, small / "run", CHECKPOINTS_OFF, stage="teacher"))
    assert done.returncode == 1 and time.monotonic() - began < 200
    assert done.stderr.count("No space left on device") == 1 and " free); " in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in small.rglob("*") if path.name.startswith(".")]
    assert not list(small.glob("shared/teacher/*"))
    assert not (small / "run/run.lock").exists()


def test_a_disk_that_does_not_hold_the_checkpoints(small: Path, tiny_model: Path) -> None:
    done = python(*job(tiny_model, small / "run", stage="teacher"))
    assert done.returncode == 1
    assert "2 checkpoints and the next one take" in done.stderr and "Traceback" not in done.stderr
    assert not list(small.glob("shared/teacher/*"))


def steps(folder: Path, stage: str) -> list[int]:
    reader = EventAccumulator(str(folder / "tensorboard/run")).Reload()
    return [event.step for event in reader.Scalars(f"{stage}/loss")]


def test_a_teacher_of_before_keeps_its_curve_and_its_cache_may_be_read_only(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder, cache = tmp_path / "run", tmp_path / "shared"
    cache.mkdir()
    mount(cache, options="size=20m")
    try:
        done = python(*job(tiny_model, folder, stage="teacher"))
        assert done.returncode == 0, done.stderr[-3000:]
        teacher = steps(folder, "teacher")
        other = "robust_compression.loss.lambda=0.4"
        done = python(*job(tiny_model, folder, other))
        assert done.returncode == 0, done.stderr[-3000:]
        assert steps(folder, "teacher") == teacher == sorted(set(teacher)) != []
        assert steps(folder, "student") == teacher
        mount(cache, flags=32 | 1)  # MS_REMOUNT, MS_RDONLY
        again = [other, "robust_compression.evaluation.sentences=2"]
        done = python(*job(tiny_model, folder, *again))
        assert done.returncode == 0, done.stderr[-3000:]
        keys = ("teacher", "difficulty", "student")
        assert set(keys) <= set(json.loads((folder / "metrics.json").read_text())["reused"])
        assert steps(folder, "teacher") == steps(folder, "student") == teacher
        second = job(tiny_model, tmp_path / "second", "robust_compression.uncertainty.epochs=1")
        done = python(*second)
        assert done.returncode == 1 and "has no difficulty" in done.stderr
        assert not (tmp_path / "second/student").exists()
    finally:
        LIBC.umount2(os.fsencode(cache), 2)
