"""Several processes give results in order, end with one sentence, and start without large libraries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress.errors import UserError
from compress.runtime import cgroups, long_work, parallel

ROOT = Path(__file__).parents[1]


def double(number):
    if number == 31:
        raise UserError("31")
    return 2 * number


def end(number):
    os._exit(9)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_results_are_in_order_and_an_error_comes_after_those_before_it(processes):
    assert list(parallel.in_order(double, iter(range(30)), processes)) == list(range(0, 60, 2))
    seen = []
    with pytest.raises(UserError, match="31"):
        seen.extend(parallel.in_order(double, range(60), processes))
    found = []

    def items():
        yield from range(25)
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        for number in parallel.in_order(double, items(), processes):
            found.append(number)
    assert found == list(range(0, 50, 2))


@pytest.mark.slow
def test_a_killed_process_is_told():
    with pytest.raises(UserError, match=r"robust_compression\.processes: one of the 2 processes"):
        list(parallel.in_order(end, range(40), 2))


def test_processes_are_those_that_a_limit_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(cgroups, "CGROUP", tmp_path)
    monkeypatch.setattr(cgroups, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(parallel.os, "sched_getaffinity", lambda _: range(64))
    assert parallel.available() == 64
    (tmp_path / "own").write_text("0::/job/step\n")
    (tmp_path / "job/step").mkdir(parents=True)
    (tmp_path / "job/step/cpu.max").write_text("max 100000\n")
    (tmp_path / "job/cpu.max").write_text("250000 100000\n")
    assert parallel.available() == 3


def test_what_works_loads_no_large_library():
    """A process that reads or tokenises starts in about a second."""
    names = "compress.data.rows, compress.data.cutting, compress.stages.bags"
    code = f"import sys, {names}; print({{'torch', 'transformers', 'datasets'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_long_work_is_told_each_minute(monkeypatch):
    said, clock = [], [0.0]
    monkeypatch.setattr(long_work.ranks, "say", said.append)
    monkeypatch.setattr(long_work.time, "monotonic", lambda: clock[0])
    work = long_work.LongWork("rows of train", "rows", 4000)
    for seconds in (30, 61, 90, 125):
        clock[0] = seconds
        work.done(10 * seconds)
    assert said == [
        "rows of train: 610 of 4,000 rows, 10 a second",
        "rows of train: 1,250 of 4,000 rows, 10 a second",
    ]
