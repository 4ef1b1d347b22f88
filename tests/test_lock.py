"""The lock of an output directory: one holder, taken over only from a process that has ended."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import compress
from compress.errors import UserError
from compress.files import lock, processes
from compress.files.lock import NAME, Lock

ROOT = Path(compress.__file__).parents[1]
HOLD = """
import sys, time
from pathlib import Path
from compress.errors import UserError
from compress.files.lock import Lock
lock = Lock(Path(sys.argv[1]))
while not Path(sys.argv[2]).exists():
    time.sleep(0.001)
try:
    print(lock.claim() or "free", flush=True)
except UserError as error:
    print("refused", error, flush=True)
    sys.exit()
sys.stdin.read()
"""


def start(folder, signal):
    words = [sys.executable, "-c", HOLD, str(folder), str(signal)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, **pipes, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path`."""
    process = start(tmp_path, tmp_path)
    assert process.stdout.readline() == "free\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def lock_of(monkeypatch):
    """Function folder -> its lock, released when the test ends; locks are watched for a moment."""
    monkeypatch.setattr(lock, "WATCHED", 0.02, raising=False)
    made = []
    yield lambda folder: made.append(Lock(folder)) or made[-1]
    for one in made:
        one.release()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def left(folder, age=0.0, **changes):
    """Leave a lock as another process would: by default of one of this machine that has ended."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    about = {**processes.this().as_json(), "pid": gone.pid, "started": 1, "token": "x", **changes}
    made = folder / "made"
    made.write_text(json.dumps(about))
    os.utime(made, (time.time() - age,) * 2)
    made.rename(folder / NAME)
    return about


def test_a_lock_is_taken_once_and_released(tmp_path, lock_of):
    mine = lock_of(tmp_path)
    assert mine.claim() is None
    about = json.loads((tmp_path / NAME).read_text())
    assert about["pid"] == os.getpid() and about["host"] == processes.this().host
    assert names(tmp_path) == [NAME]
    with pytest.raises(UserError, match=rf"another run .*pid {os.getpid()} on host "):
        lock_of(tmp_path).claim()
    mine.release()
    assert names(tmp_path) == []
    again = lock_of(tmp_path)
    assert again.claim() is None
    again.release()


@pytest.mark.slow
def test_a_living_process_keeps_it_and_a_killed_one_loses_it(tmp_path, holder, lock_of):
    os.utime(tmp_path / NAME, (0, 0))  # however old: this machine knows that it lives
    with pytest.raises(UserError, match=rf"pid {holder.pid} on host .* since 2\d\d\d-") as caught:
        lock_of(tmp_path).claim()
    assert "\n" not in str(caught.value)
    holder.kill()  # not waited for: a process that has ended and was not noticed yet
    deadline, mine = time.monotonic() + 10, lock_of(tmp_path)
    while (
        time.monotonic() < deadline
        and not processes.of_json(json.loads((tmp_path / NAME).read_text())).ended
    ):
        time.sleep(0.01)
    assert f"pid {holder.pid} on host {processes.this().host}, which has ended" in mine.claim()
    assert names(tmp_path) == [NAME]
    mine.release()


def test_a_process_of_the_same_id_that_started_later_is_another(tmp_path, lock_of):
    left(tmp_path, pid=os.getpid(), started=processes.this().started - 1)
    assert "which has ended" in lock_of(tmp_path).claim()


@pytest.mark.parametrize("other", [{"host": "elsewhere"}, {"machine": "00000000"}])
def test_of_another_machine_or_container_the_time_decides(tmp_path, other, lock_of):
    left(tmp_path, age=lock.ABANDONED - 30, **other)
    with pytest.raises(UserError, match="3 minutes after that"):
        lock_of(tmp_path).claim()
    left(tmp_path, age=lock.ABANDONED + 62, **other)
    assert "which has not renewed it for 4 minutes" in lock_of(tmp_path).claim()


def test_a_lock_that_is_dated_in_the_future_is_watched(tmp_path, lock_of):
    """The clock was set back after the lock had been written."""
    left(tmp_path, age=-7200, host="elsewhere")
    assert "has dated it in the future" in lock_of(tmp_path).claim()


def test_it_is_watched_once_while_another_run_takes_it_over(tmp_path, monkeypatch, lock_of):
    seen = []
    monkeypatch.setattr(lock, "_renewed", lambda path: seen.append(path))
    monkeypatch.setattr(lock, "PAUSE", 0.0)
    left(tmp_path, host="elsewhere")
    (tmp_path / NAME).rename(tmp_path / f".{NAME}.guard")
    left(tmp_path, age=7200, host="elsewhere")
    with pytest.raises(UserError, match="several runs are starting there"):
        lock_of(tmp_path).claim()
    assert seen == [tmp_path / NAME]


@pytest.mark.parametrize("age", [-7200, 7200])
def test_a_lock_that_is_renewed_while_one_looks_is_held(tmp_path, age, monkeypatch, lock_of):
    """The clock was set a moment ago, and the run that holds the lock goes on."""
    left(tmp_path, age=age, host="elsewhere")
    monkeypatch.setattr(lock, "WATCHED", 10.0)
    monkeypatch.setattr(lock.time, "sleep", lambda _: os.utime(tmp_path / NAME))
    with pytest.raises(UserError, match="another run writes there"):
        lock_of(tmp_path).claim()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "1"}', "\0\0"])
def test_a_lock_that_cannot_be_read_is_respected_while_new(tmp_path, content, lock_of):
    (tmp_path / NAME).write_text(content)
    with pytest.raises(UserError, match="cannot be read and is new"):
        lock_of(tmp_path).claim()
    os.utime(tmp_path / NAME, (0, 0))
    assert "an unknown process" in lock_of(tmp_path).claim()


def test_without_hard_links(tmp_path, monkeypatch, lock_of):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    test_a_lock_is_taken_once_and_released(tmp_path, lock_of)
    left(tmp_path)
    assert "which has ended" in lock_of(tmp_path).claim()


def test_with_hard_links_that_are_not_counted(tmp_path, monkeypatch, lock_of):
    """sshfs makes them, and says of every file that it has one name."""
    stat = Path.stat

    def single(path, **named):
        found = stat(path, **named)
        return os.stat_result((*found[:3], 1, *found[4:]))

    monkeypatch.setattr(Path, "stat", single)
    test_a_lock_is_taken_once_and_released(tmp_path, lock_of)


@pytest.mark.slow
@pytest.mark.parametrize("guard", [False, True])
def test_of_many_that_start_at_once_one_gets_it(tmp_path, guard):
    """Over what a dead process left; also where another died while it took the lock over."""
    signal, folder = tmp_path / "go", tmp_path / "run"
    folder.mkdir()
    left(folder)
    if guard:
        (folder / NAME).rename(folder / f".{NAME}.guard")
        left(folder)
    started = [start(folder, signal) for _ in range(6)]
    time.sleep(1)
    signal.touch()
    said = [process.stdout.readline() for process in started]
    assert sorted(line.split()[0] for line in said) == ["refused"] * 5 + ["took"]
    for process in started:
        process.communicate()
    assert names(folder) == [NAME]


def test_it_is_renewed_and_a_run_that_has_lost_it_ends(tmp_path, monkeypatch, lock_of):
    said, mine = [], lock_of(tmp_path)

    def fail(error):
        said.append(str(error))
        mine._done.set()  # in place of the end of the process

    monkeypatch.setattr(lock, "RENEWED", 0.02)
    monkeypatch.setattr(lock, "fail", fail)
    mine.claim()
    os.utime(tmp_path / NAME, (0, 0))
    time.sleep(0.2)
    assert time.time() - (tmp_path / NAME).stat().st_mtime < 60
    about = left(tmp_path, host="elsewhere")
    time.sleep(0.2)
    assert len(said) == 1 and f"pid {about['pid']} on host elsewhere" in said[0]
    mine.release()
    assert json.loads((tmp_path / NAME).read_text()) == about
