"""When checkpoints are written, beside the training or at once, and what a failure leaves."""

import threading
from types import SimpleNamespace

import psutil
import pytest
import torch

from compress.checkpoints import pieces
from compress.checkpoints.folders import Folder
from compress.checkpoints.saver import Saver
from compress.configuration.robust_schema import CheckpointBlock

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
    training = Training(tmp_path, every_minutes=1e-9)
    training.go_on()
    training.saver.begin()
    training.go_on()
    training.saver.after_exchange(training.saver.writing())
    assert training.saver.writing() and not training.saver.late(), "one at a time"
    assert training.folder.newest() is None
    slow.set()
    while training.saver.writing():
        pass
    training.saver.after_exchange(False)
    assert training.names() == ["step-000000001"]
    assert training.newest() == [1.0] * 4, "the copy of its step"


def test_flags_of_before_its_begin_do_not_end_the_wait(tmp_path, slow):
    """The first exchange after the begin tells what the ranks said before it."""
    training = Training(tmp_path)
    training.saver.begin()
    training.saver.after_exchange(False)
    assert training.saver.writing()
    slow.set()


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
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1999))
    threading.Timer(0.2, slow.set).start()
    training.saver.begin()
    assert not training.saver.writing()


@pytest.mark.parametrize("beside", [True, False])
def test_a_disk_that_is_full_leaves_the_older_one(tmp_path, monkeypatch, capsys, beside):
    training = Training(tmp_path)
    training.saver.save_now()
    training.go_on()

    def full(folder, *_):
        (folder / "rank-00000.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pieces, "write", full)
    training.saver.begin(beside)
    training.saver.save_at_end()
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
