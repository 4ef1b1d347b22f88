"""Several hosts and one file system: files appear late, and one rank of a node asks the hub."""

import json
import threading
import time

import pytest
from launcher import two_ranks

from compress.files import artefacts
from compress.files.artefacts import await_files

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
    assert lacking.startswith(str(tmp_path / "made" / ("scores" if contents else "model/weights")))


TWO = """
import json, os, sys, time
from pathlib import Path
import torch.distributed as dist
from compress.data import hub
from compress.errors import UserError
from compress.files import artefacts
from compress.runtime import ranks
from compress.stages import stage

dist.init_process_group("gloo")
folder, rank = Path(sys.argv[1]), ranks.rank()
artefacts.APPEARING = 0.2
marker = {"files": {"a": {"size": 1}}}
said = {}

def tried(name, path):
    try:
        said[name] = stage._await(path, marker)
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
    assert other["one"].startswith(f"{tmp_path / 'elsewhere' / 'a'}: {sentence}")
    assert first == [["nobody/bert", False, False], ["nobody/broken", False, True]]
    assert second == [["nobody/bert", True, True], ["nobody/broken", True, True]], "from the cache"
    assert "no such model" in main["nobody/broken"] and "no such model" in other["nobody/broken"]
    assert artefacts.APPEARING == 60
