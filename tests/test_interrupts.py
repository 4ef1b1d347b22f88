"""A signal saves and ends with 75, whichever process gets it; a rank that hangs is named."""

import socket
import time
from pathlib import Path

import pytest
from launcher import ROOT, deepspeed, job, python, two_ranks
from same_run import differences

pytestmark = [pytest.mark.launcher, pytest.mark.timeout(600)]
USR1, TERM, STOP = "10", "15", "19"


def words(model: Path, folder: Path, *overrides: str) -> list[str]:
    """The teacher of the usual job, started by the driver that sends signals."""
    _, *rest = job(model, folder, *overrides, stage="teacher")
    return [str(ROOT / "tests/drivers/killed_run.py"), *rest]


def checkpoints(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("step-*") if path.is_dir()]


def test_a_signal_saves_and_the_same_command_continues(tiny_model, tmp_path):
    command = words(tiny_model, tmp_path / "run")
    done = python(*command, KILL_AT="step teacher 5", KILL_WITH=USR1)
    assert done.returncode == 75
    assert done.stderr == "interrupted in teacher, step 6 of 16; the same command continues\n"
    assert checkpoints(tmp_path) == ["step-000000006"]
    assert not (tmp_path / "run/run.lock").exists()
    again = python(*command, KILL_AT="score teacher train 1", KILL_WITH=TERM)
    assert again.returncode == 75
    assert "teacher: continues at step 6 of 16\n" in again.stdout
    assert again.stderr == "interrupted in teacher, step 16 of 16; the same command continues\n"
    last = python(*command, KILL_AT="never 0")
    assert last.returncode == 0, last.stderr[-3000:]
    assert "teacher: continues at step 16 of 16\n" in last.stdout
    assert not list(tmp_path.rglob("*.unfinished"))


def test_a_signal_to_one_of_two_ranks_while_an_epoch_is_measured(tiny_model, tmp_path):
    """The state is that before the measurement, which is made when the run continues."""
    part = ("compression/imp60", "mitigation/vanilla")
    options = ("robust_compression.student.keep=best_dev", 'csv_monitor={"enabled": true}')
    alone, hit = (
        [str(ROOT / "tests/drivers/killed_run.py"), *job(tiny_model, folder, *options, parts=part)[1:]]
        for folder in (tmp_path / "alone/run", tmp_path / "hit/run")
    )
    assert (done := two_ranks(*alone, KILL_AT="never 0")).returncode == 0, done.stderr[-3000:]
    signal = {"KILL_AT": "score student dev 1", "KILL_WITH": USR1, "KILL_RANK": "1"}
    done = two_ranks(*hit, **signal)
    assert done.returncode == 75
    assert done.stderr == "interrupted in student, step 8 of 16; the same command continues\n"
    done = two_ranks(*hit, KILL_AT="never 0")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "student: continues at step 8 of 16\n" in done.stdout
    assert differences(tmp_path / "alone", tmp_path / "hit") == []


def running(folder: Path) -> list[str]:
    """Processes that have a directory in their command."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found += [text] if str(folder) in text else []
    return found


def test_no_rank_outlives_the_command_that_started_it(tiny_model, tmp_path):
    """SIGTERM to `deepspeed` ends that alone; its launcher and its ranks would train on."""
    long = "robust_compression.epochs=2000"
    hit = {"KILL_AT": "step teacher 5", "KILL_WITH": TERM, "KILL_RANK": "1", "KILL_WHOM": "runner"}
    done = deepspeed(*words(tiny_model, tmp_path / "run", long), **hit)
    assert done.returncode not in (0, 1)
    deadline = time.monotonic() + 30
    while running(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert running(tmp_path) == []
    assert len(checkpoints(tmp_path)) == 1
    assert not (tmp_path / "run/run.lock").exists()


def test_a_rank_that_hangs_is_named(tiny_model, tmp_path):
    """Without DeepSpeed's launcher, which gives a stopped rank 30 seconds to end."""
    began = time.monotonic()
    hit = {"KILL_AT": "step teacher 5", "KILL_WITH": STOP, "KILL_RANK": "1"}
    limit = "robust_compression.timeout=0.2"
    done = two_ranks(*words(tiny_model, tmp_path / "run", limit), **hit)
    assert done.returncode == 1
    assert time.monotonic() - began < 200
    sentence = f"error: rank 1 on host {socket.gethostname()} did not answer for 12 s"
    assert done.stderr.count(sentence) == 1, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
