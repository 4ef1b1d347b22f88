"""A disk that is full, read-only or failing: one sentence, nothing half-written, older files intact.

The full disk is real, a tmpfs of a few hundred kB, where this machine lets the tests mount one; a limit
on the size of files gives the same errors everywhere.
"""

import errno
import os
import resource
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import datasets
import deepspeed.comm
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from configs import Files
from conftest import mount
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from compress import errors
from compress.errors import UserError
from compress.files import artefacts, disk
from compress.files.artefacts import completed, replacing, write_json, writing
from compress.training import monitor

INPUTS = {"seed": 1}
NOISE = np.random.default_rng(0).random(100_000)


@contextmanager
def limit(size):
    """No file may be longer than `size` bytes."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


WRITERS = {
    "npy": lambda folder: np.save(folder / "a.npy", NOISE),
    "npz": lambda folder: np.savez_compressed(folder / "a.npz", a=NOISE),
    "safetensors": lambda folder: save_file({"a": torch.rand(100_000)}, folder / "a.safetensors"),
    "torch": lambda folder: torch.save(torch.rand(100_000), folder / "a.pt"),
    "parquet": lambda folder: pq.write_table(pa.table({"a": NOISE}), folder / "a.parquet"),
    "arrow": lambda folder: datasets.Dataset.from_dict({"a": NOISE}).save_to_disk(folder / "arrow"),
    "text": lambda folder: (folder / "a.txt").write_text("a" * 800_000),
    "json": lambda folder: write_json(folder / "a.json", {"a": "a" * 800_000}),
    "tokenizer": lambda folder: Tokenizer(WORDS).save(str(folder / "tokenizer.json")),
}
WORDS = WordLevel({f"word{number}": number for number in range(60_000)}, unk_token="word0")


def refused(path, writer, *words):
    """Write an artefact, which fails; the sentence names it and says what to do."""
    with pytest.raises(UserError) as caught, writing(path, INPUTS, 0.0) as folder:
        WRITERS[writer](folder)
    sentence = str(caught.value)
    assert sentence.startswith(str(path)) and ".tmp" not in sentence and "\n" not in sentence
    for word in (*words, "cannot be written", " free); "):
        assert word in sentence
    return sentence


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_sentence_and_keeps_the_older_artefact(small, writer):
    path = small / "teacher"
    with writing(path, {"seed": 0}, time.perf_counter()) as folder:
        (folder / "data.txt").write_text("old")
    refused(path, writer, "No space left on device", "free some of it")
    assert completed(path, {"seed": 0}) and (path / "data.txt").read_text() == "old"
    assert [entry.name for entry in small.iterdir()] == ["teacher"]


@pytest.mark.parametrize("writer", sorted(WRITERS))
def test_a_limit_of_the_size_of_files_is_one_sentence(tmp_path, writer):
    with limit(40_000 if writer == "torch" else 200_000):
        refused(tmp_path / "teacher", writer, "File too large")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", sorted(disk.ADVICE))
def test_every_error_of_a_disk_is_a_sentence(tmp_path, code):
    old = tmp_path / "report.html"
    old.write_text("old")
    with pytest.raises(UserError) as caught, replacing(old) as temporary:
        temporary.write_text("half")
        raise OSError(code, os.strerror(code), str(temporary))
    assert str(caught.value).startswith(f"{old}: cannot be written ({os.strerror(code)}")
    assert old.read_text() == "old" and list(tmp_path.iterdir()) == [old]


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (ValueError("a"), RuntimeError("b"), OSError(errno.ENOENT, "c"), KeyError("d")):
        with pytest.raises(type(error)), writing(tmp_path / "a", INPUTS, 0.0):
            raise error
    with pytest.raises(RuntimeError), disk.writing(tmp_path, codes=disk.EVERYWHERE):
        raise RuntimeError("No space left on device, says somebody")


def test_files_are_on_the_disk_before_they_get_their_name(tmp_path, monkeypatch):
    order, sync, rename = [], os.fsync, os.rename

    def synced(handle):
        order.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", lambda a, b: order.append("renamed") or rename(a, b))
    with writing(tmp_path / "a", INPUTS, 0.0) as folder:
        (folder / "deep").mkdir()
        (folder / "deep/x.bin").write_bytes(b"x")
    before = order[: order.index("renamed")]
    expected = [folder / "deep/x.bin", folder / "deep", folder]
    assert set(map(str, expected)) < set(before)
    assert sum("complete.json" in name for name in before) == 1
    assert before[-1] == str(folder) and order[-1] == str(tmp_path)


# The monitors


@pytest.mark.parametrize("kind", ["tensorboard", "csv_monitor"])
def test_a_log_that_cannot_be_written_is_one_sentence(small, kind, monkeypatch, capfd):
    """It names the folder of the events, and how to do without."""
    monkeypatch.setattr(threading, "excepthook", monitor._thread_failed)
    monkeypatch.setattr(deepspeed.comm, "get_rank", lambda: 0)
    (small.parent / "parts").mkdir()
    config = Files(small.parent / "parts").load({kind: {"enabled": True, "output_path": str(small)}})
    watch = monitor.open_monitor(config, small.parent / "run")
    watch.scalars("student", {"loss": 1.0}, 0)
    fill(small)
    with pytest.raises(UserError, match=r"cannot be written \(No space left") as caught:
        for step in range(2000):
            watch.scalars("student", {"loss": 1.0}, step)
    sentence = str(caught.value)
    assert sentence.startswith(str(small / "run")) and "free some of it" in sentence
    assert f"'{kind}.enabled' false" in sentence and "\n" not in sentence
    with pytest.raises(UserError, match=f"'{kind}.enabled' false"):
        monitor.open_monitor(config, small.parent / "other")
    time.sleep(0.2)
    assert capfd.readouterr().err == ""


def test_an_error_of_another_thread_is_still_told(monkeypatch, capfd):
    monkeypatch.setattr(threading, "excepthook", monitor._thread_failed)
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    assert "ZeroDivisionError" in capfd.readouterr().err


def fill(folder):
    """Leave no byte free."""
    with (folder / "fill").open("wb", buffering=0) as target:
        for size in (4096, 1):
            while True:
                try:
                    target.write(b"\0" * size)
                except OSError:
                    break


def test_the_last_sentence_may_have_nowhere_to_go(tmp_path, monkeypatch):
    ended = []
    with (tmp_path / "log").open("w") as log, limit(0):
        monkeypatch.setattr("sys.stderr", log)
        monkeypatch.setattr(os, "_exit", ended.append)
        errors.fail(UserError("x"))
    assert ended == [1]


# Paths, by look alone


def sentence_of(path, name="cache_dir"):
    with pytest.raises(UserError) as caught:
        disk.check(path, name)
    assert str(caught.value).startswith(f"{name} {path}: ") and "\n" not in str(caught.value)
    return str(caught.value)


def test_paths_that_cannot_be_directories(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    assert "is a file" in sentence_of(tmp_path / "file")
    assert f"'{tmp_path / 'file'}' is a file" in sentence_of(tmp_path / "file/a/b")
    assert "a link to nothing" in sentence_of(tmp_path / "nowhere")
    assert "a link to nothing" in sentence_of(tmp_path / "nowhere/a")
    assert "File name too long" in sentence_of(tmp_path / ("x" * 300) / "a")
    assert "the character 0" in sentence_of(tmp_path / "a\0b")
    disk.check(tmp_path / "a/b/c", "cache_dir")
    assert not (tmp_path / "a").exists()


def test_directories_that_may_not_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "locked")
    assert "change its rights" in sentence_of(tmp_path / "locked/a")
    disk.check(tmp_path / "open/a", "cache_dir")


def test_a_read_only_disk(small):
    mount(small, flags=32 | 1)  # MS_REMOUNT, MS_RDONLY
    for place, times in ((small, 1), (small / "a/b", 2)):
        sentence = sentence_of(place)
        assert "its disk is read-only" in sentence and "choose another directory" in sentence
        assert sentence.count(str(small)) == times
    disk.check(small, "cache_dir", writable=False)
    with pytest.raises(UserError, match="Read-only file system"):
        artefacts.write_json(small / "a.json", {})
