"""Artefacts whose files are no longer what was written; what dead processes left."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

import compress
from compress.errors import UserError
from compress.files import integrity
from compress.files.artefacts import MARKER, checked, completed, sweep, temporary_name, writing

ROOT = Path(compress.__file__).parents[1]
INPUTS = {"seed": 1}


def make(path):
    with writing(path, INPUTS, time.perf_counter()) as folder:
        (folder / "model").mkdir()
        save_file({"a": torch.arange(50.0)}, folder / "model/model.safetensors")
        np.save(folder / "probabilities.npy", np.arange(30.0))
        pq.write_table(pa.table({"a": range(40)}), folder / "train.parquet")
        table = pa.table({"a": range(400)})
        with pa.ipc.new_stream(folder / "data.arrow", table.schema) as stream:
            stream.write_table(table)
        (folder / "student.json").write_text('{"sparsity": 0.5}')
        (folder / "heads.json").write_text("{}")
        (folder / "model/README.md").write_text("card")
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def cut(file):
    file.write_bytes(file.read_bytes()[:-3])


def empty(file):
    file.write_bytes(b"")


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def gone(file):
    file.unlink()


def folder_instead(file):
    file.unlink()
    file.mkdir()


FILES = ("model/model.safetensors", "probabilities.npy", "train.parquet", "data.arrow", "student.json")


@pytest.mark.parametrize("harm", [cut, empty, flip, gone, folder_instead])
@pytest.mark.parametrize("name", FILES)
def test_every_damage_is_found_named_and_put_aside(tmp_path, name, harm):
    path = make(tmp_path / "teacher")
    assert checked(path, INPUTS)[1] is None
    harm(path / name)
    assert completed(path, INPUTS) is None
    marker, line = checked(path, INPUTS)
    assert marker is None and str(path / name) in line and "\n" not in line
    (aside,) = names(tmp_path)
    assert aside.startswith("teacher.damaged-") and aside in line
    assert checked(path, INPUTS) == (None, None)
    make(path)
    assert completed(path, INPUTS) and names(tmp_path) == ["teacher", aside]


def test_only_the_last_damaged_one_is_kept(tmp_path):
    for turn in range(3):
        path = make(tmp_path / "a")
        (path / "turn").write_text(str(turn))
        cut(path / "train.parquet")
        assert checked(path, INPUTS)[1]
    (aside,) = tmp_path.iterdir()
    assert (aside / "turn").read_text() == "2"


def test_another_process_may_have_made_it_again_meanwhile(tmp_path):
    path = make(tmp_path / "a")
    inode = path.stat().st_ino
    path.rename(tmp_path / "older")
    make(path)
    assert integrity.put_aside(path, inode) is None and completed(path, INPUTS)


def test_files_that_may_change_and_files_that_were_added(tmp_path):
    path = make(tmp_path / "a")
    (path / "model/README.md").write_text("a card with figures")
    (path / "heads.json").unlink()
    (path / "notes.txt").write_text("mine")
    assert completed(path, INPUTS)
    listed = json.loads((path / MARKER).read_text())["files"]
    assert set(listed) == set(FILES)
    assert listed["student.json"]["size"] == 17 and len(listed["student.json"]["sha256"]) == 64


def test_contents_are_read_once_a_process(tmp_path, monkeypatch):
    path, read = make(tmp_path / "a"), []
    digest = integrity.hashlib.file_digest
    monkeypatch.setattr(integrity.hashlib, "file_digest", lambda f, n: read.append(f) or digest(f, n))
    assert completed(path, INPUTS) and read == []  # the writer knows them
    os.utime(path / "train.parquet")
    assert completed(path, INPUTS) and completed(path, INPUTS) and len(read) == 1


@pytest.mark.parametrize("files", [None, [], {"train.parquet": 3}, {"train.parquet": {}}, "x"])
def test_a_list_of_files_that_makes_no_sense(tmp_path, files):
    path = make(tmp_path / "a")
    marker = json.loads((path / MARKER).read_text())
    (path / MARKER).write_text(json.dumps({**marker, "files": files}))
    assert checked(path, INPUTS)[1]


@pytest.mark.parametrize("change", [{"seconds": None}, {"seconds": "1"}])
def test_a_marker_without_seconds_is_damaged(tmp_path, change):
    path = make(tmp_path / "a")
    marker = json.loads((path / MARKER).read_text())
    (path / MARKER).write_text(json.dumps({**marker, **change}))
    marker, line = checked(path, INPUTS)
    assert marker is None and "complete.json (" in line


@pytest.mark.parametrize("spoil", [cut, empty, gone])
def test_a_damaged_marker_is_said_and_its_artefact_put_aside(tmp_path, spoil):
    path = make(tmp_path / "a")
    spoil(path / MARKER)
    marker, line = checked(path, INPUTS)
    assert marker is None and f"damaged: {path / MARKER} (" in line
    assert not path.exists() and len(names(tmp_path)) == 1


@pytest.mark.parametrize("name", [MARKER, "train.parquet"])
def test_a_file_that_may_not_be_read_is_no_damage(tmp_path, monkeypatch, name):
    """It may be another user's, whose artefact must stay where it is."""
    path, read = make(tmp_path / "a"), Path.open
    os.utime(path / "train.parquet")

    def refuse(file, *words, **named):
        if file.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return read(file, *words, **named)

    monkeypatch.setattr(Path, "open", refuse)
    for look in (checked, completed):
        with pytest.raises(UserError, match=rf"{path / name}: may not be read \(Permission denied\);"):
            look(path, INPUTS)
    assert names(tmp_path) == ["a"]


def test_a_marker_of_other_inputs_is_no_damage(tmp_path):
    path = make(tmp_path / "a")
    assert checked(path, {"seed": 2}) == (None, None) and path.is_dir()
    assert checked(tmp_path / "nowhere", INPUTS) == (None, None)


# What dead processes left

KILLED = """
import os, signal, sys
from pathlib import Path
from compress.files import artefacts
folder = Path(sys.argv[1])
file = folder / "x.json"
with artefacts.writing(folder / "teacher", {}, 0.0) as made, artefacts.replacing(file) as x:
    (made / "data").write_text("half")
    x.write_text("half")
    if len(sys.argv) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    print("there", flush=True)
    sys.stdin.read()
"""


def start(*words):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", KILLED, *words], env=environment, **pipes)


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    assert start(str(tmp_path)).wait() == -9
    dead = names(tmp_path)
    alive = start(str(tmp_path), "stay")
    alive.stdout.readline()
    mine = temporary_name(tmp_path / "x")
    mine.write_text("")
    assert len(dead) == 2 and len(names(tmp_path)) == 5
    assert sweep([tmp_path, tmp_path / "none"]) == 2
    left = names(tmp_path)
    assert mine.name in left and len(left) == 3 and not set(dead) & set(left)
    alive.kill()
    alive.communicate()
    assert sweep([tmp_path]) == 2 and names(tmp_path) == [mine.name]


def test_of_other_hosts_processes_only_what_is_old_is_removed(tmp_path):
    """And nothing that another program called so."""
    folder = tmp_path / ".a.far_00000000.1.2.0.tmp"
    folder.mkdir()
    (folder / "data").write_text("half")
    (tmp_path / "mine.tmp").write_text("no name of ours")
    (tmp_path / ".hidden").write_text("nor this")
    (tmp_path / ".scratch.tmp").mkdir()
    (tmp_path / ".x.json.77.tmp").write_text("nor that")
    for name in ("", ".scratch.tmp", ".x.json.77.tmp"):
        os.utime(tmp_path / name, (0, 0))
    os.utime(folder, (0, 0))
    assert sweep([tmp_path]) == 0, "a file in it is new"
    os.utime(folder / "data", (0, 0))
    assert sweep([tmp_path]) == 1
    assert names(tmp_path) == [".hidden", ".scratch.tmp", ".x.json.77.tmp", "mine.tmp"]


def test_the_clock_of_the_file_system_says_what_is_old(tmp_path, monkeypatch):
    """On a host whose own clock is days ahead, what another one writes is new."""
    folder = tmp_path / ".a.far_00000000.1.2.0.tmp"
    folder.mkdir()
    ahead = time.time() + 3 * 24 * 3600
    monkeypatch.setattr(time, "time", lambda: ahead)
    assert sweep([tmp_path]) == 0
    assert names(tmp_path) == [folder.name]
    mine = temporary_name(tmp_path / "x")
    mine.write_text("")
    assert sweep([tmp_path], alone=True) == 1 and names(tmp_path) == [mine.name]
