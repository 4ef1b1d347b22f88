"""Unfinished work: one run makes an artefact while others wait, and what is kept belongs to it."""

import shutil
import threading
import time

import numpy as np
import pytest

from compress.checkpoints.unfinished import LOCK, Unfinished, clear
from compress.configuration.robust_schema import CheckpointBlock
from compress.errors import Interrupted
from compress.files.lock import Lock

SETTINGS = CheckpointBlock()


@pytest.fixture
def place(tmp_path):
    return tmp_path / "teacher" / "0123"


def work_of(place, key="one", settings=SETTINGS):
    return Unfinished.of(settings, place, {"key": key}, shared=True)


def part(work, name, make=lambda: np.zeros(1)):
    """The values of a part; make: called if they are not there."""

    def write(file):
        values = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, values)

    return np.load(work.file(name, write)).tolist()


@pytest.mark.slow
def test_a_run_waits_until_the_artefact_of_another_is_there(place, capsys):
    """The other removes its directory at its end, as `remove` does."""
    work = work_of(place)
    folder = work.path.parent
    folder.mkdir(parents=True)
    other, ready = Lock(folder, LOCK), threading.Event()
    assert other.holder() is None

    def finish():
        time.sleep(0.5)
        ready.set()
        shutil.rmtree(folder)
        other.release()

    threading.Thread(target=finish).start()
    with work.alone("teacher", ready.is_set):
        assert ready.is_set()
    assert "teacher: another run makes it (pid " in capsys.readouterr().out
    assert not folder.exists()


@pytest.mark.slow
def test_a_run_goes_on_where_another_has_given_up(place):
    work = work_of(place)
    work.path.parent.mkdir(parents=True)
    other = Lock(work.path.parent, LOCK)
    assert other.holder() is None
    threading.Timer(0.5, other.release).start()
    with work.alone("teacher", lambda: False):
        assert Lock(work.path.parent, LOCK).holder() is not None, "it has the lock"


def test_a_part_is_made_once_and_only_for_its_key(place):
    made = []

    def make():
        made.append(1)
        return np.array([1.5])

    for _ in range(2):
        work = work_of(place)
        with work.alone("teacher", lambda: False):
            assert work.has("dev") == bool(made)
            assert part(work, "dev", make) == [1.5]
    assert made == [1]
    other = work_of(place, key="two")
    assert work.path.is_dir(), "nothing goes before the other has the place for itself"
    with other.alone("teacher", lambda: False):
        assert not work.path.exists() and not other.has("dev")


@pytest.mark.parametrize(("trained", "saved"), [(False, True), (True, True), (True, False)])
def test_rows_of_a_model_that_is_not_the_one_read_do_not_count(place, trained, saved):
    """As where its checkpoint was damaged, and another number of ranks has trained it again.

    Or where no checkpoint of it is written.
    """
    work, again = work_of(place), work_of(place)

    def stop():
        rows = work.rows(4)
        rows.add(np.zeros((4, 2), np.float32))
        rows.save()
        raise Interrupted("now")

    def go_on():
        return np.array([again.rows(4).read()])

    with work.alone("teacher", lambda: False), pytest.raises(Interrupted):
        part(work, "dev", stop)
    with again.alone("teacher", lambda: False):
        saver = again.training("teacher", saved)
        if trained:
            saver.after_exchange(late=False, writing=False)
        assert part(again, "dev", go_on) == [0 if trained else 1]


def test_seconds_of_earlier_runs_count(place):
    for _ in range(2):
        work = work_of(place)
        with work.alone("teacher", lambda: False):
            work.began -= 100
            part(work, f"part {work.earlier:.0f}")
    assert 200 <= work.seconds < 202


def test_nothing_is_kept_if_that_is_asked(place):
    work = work_of(place, settings=CheckpointBlock(enabled=False))
    with work.alone("teacher", lambda: False):
        part(work, "dev")
        assert not work.has("dev") and work.known("dev") is None
        work.remove()
    assert not work.path.parent.exists()


def test_unfinished_work_of_another_configuration_goes_with_a_line(place, capsys):
    old = work_of(place, "old")
    with old.alone("teacher", lambda: False):
        old.earlier = 3600.0
        part(old, "dev")
    with work_of(place, "old").alone("teacher", lambda: False):
        assert old.path.is_dir() and "deleted" not in capsys.readouterr().out
    with work_of(place, "new").alone("teacher", lambda: False):
        assert not old.path.exists()
    assert "teacher: the unfinished work of another configuration" in (said := capsys.readouterr().out)
    assert "(3600 s of it were done)" in said


def test_what_a_killed_run_has_left_beside_a_finished_artefact_goes(place):
    work = work_of(place)
    with work.alone("teacher", lambda: False):
        part(work, "dev")
    assert work.path.parent.is_dir()
    lock = Lock(work.path.parent, LOCK)
    assert lock.holder() is None
    clear(place)
    assert work.path.is_dir(), "another run is at work"
    lock.release()
    clear(place)
    assert not work.path.parent.exists()
