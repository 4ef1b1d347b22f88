"""Several hosts and one file system: files appear late, and one rank of a node asks the hub."""

import json
import threading
import time
from pathlib import Path

import pytest
from launcher import two_ranks

from compress.files import shared
from compress.files.shared import await_files

FILES = {"model/weights": b"12345", "scores": b"1"}
MARKER = {"files": {name: {"size": len(content)} for name, content in FILES.items()}}


def put(folder, **contents):
    for name, content in {**FILES, **contents}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_what_is_there_is_not_waited_for(tmp_path):
    put(tmp_path / "made")
    began = time.monotonic()
    assert await_files(tmp_path / "made", MARKER, 20.0) is None
    assert time.monotonic() - began < 0.05


def test_what_appears_late_is_waited_for(tmp_path):
    late = threading.Timer(0.3, put, [tmp_path / "made"])
    late.start()
    began = time.monotonic()
    assert await_files(tmp_path / "made", MARKER, 20.0) is None
    assert 0.2 < time.monotonic() - began < 5
    late.join()


@pytest.mark.parametrize("contents", [None, {"scores": b""}])
def test_what_does_not_appear_is_named(tmp_path, contents):
    if contents is not None:
        put(tmp_path / "made", **contents)
    lacking = await_files(tmp_path / "made", MARKER, 0.2)
    assert (tmp_path / "made").exists() == (contents is not None)
    assert lacking.startswith(str(tmp_path / "made" / ("scores" if contents else "model/weights")))


def test_a_directory_that_is_really_not_there_is_not_made(tmp_path):
    (tmp_path / "there").mkdir()
    shared.look_again(tmp_path / "there" / "a" / "b")
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_the_server_counts_for_more_than_what_is_remembered(tmp_path, monkeypatch):
    """A host that remembers of a directory and of the one above that they were not there."""
    folder = tmp_path / "made" / "model"
    put(tmp_path / "made")
    remembered, look, make = {folder, folder.parent}, Path.stat, Path.mkdir

    def stat(path, **named):
        if remembered & {path, *path.parents}:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return look(path, **named)

    def mkdir(path, *words):
        if path.parent in remembered:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        remembered.discard(path)
        make(path, *words)

    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    began = time.monotonic()
    assert await_files(tmp_path / "made", MARKER, 20.0) is None
    assert time.monotonic() - began < 1


TWO = """
import json, os, sys, time
from pathlib import Path
import torch.distributed as dist
from compress.data import hub
from compress.errors import UserError
from compress.files import shared
from compress.runtime import ranks

dist.init_process_group("gloo")
folder, rank = Path(sys.argv[1]), ranks.rank()
shared.APPEARING = 0.2
marker = {"files": {"a": {"size": 1}}}
said = {}

def tried(name, path):
    try:
        said[name] = shared.await_everywhere(path, marker)
    except UserError as error:
        said[name] = str(error)

(folder / "both").mkdir(exist_ok=True)
(folder / "both" / "a").write_bytes(b"1")
tried("both", folder / "both")
tried("one", folder / ("both" if rank == 0 else "elsewhere"))

def download(repository, local_files_only, **_):
    calls.append([repository, local_files_only, (folder / "cached").exists()])
    if repository == "nobody/broken":
        raise OSError("no such model")
    time.sleep(0.5 * (rank == 0))
    (folder / "cached").touch()
    (folder / "w.safetensors").touch()
    return str(folder)

calls = []
hub.reachable = lambda: True
hub.huggingface_hub.snapshot_download = download
for name in ("nobody/bert", "nobody/broken"):
    try:
        with hub.one_a_node():
            hub.model_directory(name)
    except UserError as error:
        said[name] = str(error)
ranks.barrier()
print(json.dumps([said, calls]))
"""


@pytest.mark.slow
def test_two_ranks(tmp_path):
    done = two_ranks("-c", TWO, str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    (main, first), (other, second) = map(json.loads, done.stdout.splitlines())
    assert main["both"] is None and other["both"] is None
    sentence = "is not to be seen on every host 0 s after it was written"
    assert main["one"].startswith(f"{tmp_path / 'both'}: {sentence}")
    missing = f"(here: {tmp_path / 'elsewhere' / 'a'} (is missing))"
    assert other["one"].startswith(f"{tmp_path / 'elsewhere'}: {sentence} {missing}; ")
    assert first == [["nobody/bert", False, False], ["nobody/broken", False, True]]
    assert second == [["nobody/bert", True, True], ["nobody/broken", True, True]], "from the cache"
    assert "no such model" in main["nobody/broken"] and "no such model" in other["nobody/broken"]
    assert shared.APPEARING == 60
