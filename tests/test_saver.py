"""When checkpoints are written, beside the training or at once, and what a failure leaves."""

import os
import threading

import pytest
import torch
from safetensors import SafetensorError

from compress.checkpoints import pieces
from compress.checkpoints.folders import Folder
from compress.checkpoints.saver import Saver
from compress.configuration.robust_schema import CheckpointBlock
from compress.files import artefacts
from compress.runtime import cgroups, interrupts, memory

WRITE = pieces.write


class Training:
    """One weight that changes in place with each step, and what saves it."""

    def __init__(self, folder, **settings):
        self.weight, self.step = torch.zeros(4), 0
        self.folder = Folder(folder / "t", keep=2)
        self.saver = Saver(CheckpointBlock(**settings), self.folder)
        self.saver.bind(self.state)

    def state(self):
        return self.step, {"weight": self.weight, "part": self.weight[1:], "pending": False}

    def go_on(self):
        self.step += 1
        self.weight += 1

    def names(self):
        return sorted(path.name for path in self.folder.path.iterdir())

    def newest(self):
        """The weight of the newest checkpoint and its part."""
        found = self.folder.newest().state()
        assert torch.equal(found["part"], found["weight"][1:])
        return found["weight"].tolist()


@pytest.fixture
def slow(monkeypatch):
    """An event without which nothing is written."""
    go = threading.Event()
    monkeypatch.setattr(pieces, "write", lambda *words: (go.wait(20), WRITE(*words))[1])
    return go


def test_the_training_goes_on_while_its_state_is_written(tmp_path, slow):
    training = Training(tmp_path)
    training.go_on()
    training.saver.begin()
    training.go_on()
    for _ in range(4):
        assert not training.saver.after_exchange(False, training.saver.writing())
    assert training.saver.writing() and training.folder.newest() is None
    slow.set()
    while training.saver.writing():
        pass
    training.saver.after_exchange(False, False)
    assert training.names() == ["step-000000001"]
    assert training.newest() == [1.0] * 4, "the copy of its step"


def test_flags_of_before_its_begin_count_for_nothing(tmp_path, slow):
    """The first exchange after the begin tells what the ranks said before it: late, and not writing."""
    training = Training(tmp_path)
    assert training.saver.after_exchange(True, False), "the first one"
    training.saver.begin()
    assert not training.saver.after_exchange(True, False) and training.saver.writing()
    slow.set()
    assert training.saver.after_exchange(True, False) and not training.saver.writing()


def test_a_begin_that_fails_is_not_tried_again_at_once(tmp_path, monkeypatch, capsys):
    training = Training(tmp_path)
    (tmp_path / "t").write_text("no directory")
    training.saver.begin()
    assert capsys.readouterr().out.count("WARNING: no checkpoint is written here: ") == 1
    assert not training.saver.after_exchange(True, False)


def test_one_that_is_never_written_is_waited_for_when_the_next_is_late(tmp_path, slow):
    """So a disk that hangs is noticed: ranks that wait are watched."""
    training = Training(tmp_path, every_minutes=1e-9)
    training.saver.begin()
    training.saver._last -= 3600
    assert training.saver.writing() and training.saver.late()
    slow.set()


def test_a_signal_outside_of_a_loop_lets_the_save_end(tmp_path, monkeypatch):
    """Scoring has raised `Interrupted`; the state of its training is saved before the end."""
    training = Training(tmp_path)
    ended = []
    monkeypatch.setattr(interrupts, "_end", lambda code, line: ended.append(training.names()))
    monkeypatch.setattr(interrupts, "_wanted", threading.Event())
    interrupts._wanted.set()
    training.saver.save_now()
    assert ended == [["step-000000000"]]


def test_time_for_which_the_training_stands_still_counts(tmp_path, slow):
    training = Training(tmp_path)
    training.saver.begin()
    training.go_on()
    threading.Timer(0.3, slow.set).start()
    training.saver.begin()
    assert training.saver._cost > 0.25
    training.saver.save_now()
    assert training.saver._cost < 1, "what is saved at an end costs no more often"


def test_the_next_one_waits_for_the_one_before(tmp_path, slow):
    training = Training(tmp_path)
    training.saver.begin()
    training.go_on()
    threading.Timer(0.2, slow.set).start()
    training.saver.save_now()
    assert training.names() == ["step-000000000", "step-000000001"]
    assert training.newest() == [1.0] * 4


def test_without_memory_for_a_copy_the_training_waits(tmp_path, slow, monkeypatch):
    training = Training(tmp_path)
    training.saver.check_space(1000)
    monkeypatch.setattr(memory, "available", lambda: 1999)
    threading.Timer(0.2, slow.set).start()
    training.saver.begin()
    assert not training.saver.writing()


FULL = [
    OSError(28, "No space left on device"),
    MemoryError("No space left"),
    SafetensorError("No space left"),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("beside", [True, False])
def test_what_cannot_be_written_leaves_the_older_one(tmp_path, monkeypatch, capsys, beside, error):
    training = Training(tmp_path)
    training.saver.save_now()
    training.go_on()

    def full(folder, *_):
        (folder / "rank-00000.json").write_text("{")
        raise error

    monkeypatch.setattr(pieces, "write", full)
    training.saver.begin() if beside else training.saver.save_now()
    training.saver.complete()
    said = capsys.readouterr().out
    assert said.count("WARNING: no checkpoint is written here: ") == 1 and "No space left" in said
    assert training.names() == ["step-000000000"] and training.newest() == [0.0] * 4
    monkeypatch.setattr(pieces, "write", WRITE)
    training.saver.save_now()
    assert training.newest() == [1.0] * 4


def test_what_is_given_up_leaves_nothing(tmp_path, slow):
    training = Training(tmp_path)
    training.saver.begin()
    threading.Timer(0.2, slow.set).start()
    training.saver.close()
    assert training.names() == []


def test_a_damaged_one_is_passed_over_and_said(tmp_path, capsys):
    training = Training(tmp_path)
    training.saver.save_now()
    training.go_on()
    training.saver.save_now()
    file = training.folder.path / "step-000000001/rank-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert training.newest() == [0.0] * 4
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and f"passed over a damaged checkpoint: {file}" in said
    assert training.newest() == [0.0] * 4, "it is not looked at again"
    assert capsys.readouterr().out == ""


def test_a_checkpoint_that_is_written_again_is_there_all_the_time(tmp_path, monkeypatch):
    """As after a signal that comes right after the start; it may be the only one."""
    training = Training(tmp_path)
    training.go_on()
    training.saver.save_now()
    found, rename = [], os.rename

    def renamed(source, target):
        rename(source, target)
        other = Folder(training.folder.path, keep=1)
        found.append(other.newest().state()["weight"].tolist())

    again = Training(tmp_path)
    again.weight, again.step = training.weight + 1, training.step
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(artefacts, "sweep", lambda folders, alone: 0)
    again.saver.save_now()
    assert found and [1.0] * 4 not in found[1:], found
    assert [name for name in training.names() if name[0] != "."] == ["step-000000001"]


def test_the_limit_of_a_cgroup_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(cgroups, "CGROUP", tmp_path)
    monkeypatch.setattr(cgroups, "OWN_CGROUP", tmp_path / "own")
    free = memory.available()
    assert free > 2**20
    (tmp_path / "own").write_text("0::/slurm/job/step\n")
    inner = tmp_path / "slurm/job/step"
    inner.mkdir(parents=True)
    for folder, limit in ((inner, "max"), (inner.parent, "500000")):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text("200000\n")
    assert memory.available() == 300_000
