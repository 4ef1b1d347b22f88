"""The hub: an end within seconds, with a way out, where it cannot be reached; its cache is used."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import torch
from datasets.arrow_writer import ArrowWriter
from safetensors.torch import load_file

from compress import load_compressed, predict
from compress.data import hub
from compress.errors import UserError
from compress.models import encoders

REPOSITORY = Path(hub.__file__).parents[1]
REFUSED = "http://127.0.0.1:9"
WAY_OUT = ("robust_compression.task.data_dir", "local model directory")
TIMEOUT = 0.5


@pytest.fixture(autouse=True)
def fresh_answer(monkeypatch):
    """Forget whether the hub was reachable, before and after; never ask the real one."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", REFUSED)
    monkeypatch.setattr(hub, "TIMEOUT", TIMEOUT)
    for function in (hub.reachable, hub.model_directory):
        function.cache_clear()
    yield
    for function in (hub.reachable, hub.model_directory):
        function.cache_clear()


@pytest.fixture
def silent():
    """Endpoint that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def babbling():
    """Endpoint that answers something that is not HTTP."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"SSH-2.0-server\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def answering():
    """Function (status) -> endpoint that answers every request with this status."""
    servers = []

    def start(status):
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_HEAD  # noqa: N815  the name that http.server calls

            def log_message(self, *_args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def cached(tmp_path, monkeypatch, tiny_model):
    """Function (name) -> snapshot: puts the tiny model into a client's cache of its own."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))

    def put(name):
        sha = "0123456789abcdef0123456789abcdef01234567"
        repository = cache / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / sha
        shutil.copytree(tiny_model, snapshot)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(sha)
        return snapshot

    return put


def endpoint(monkeypatch, address):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    hub.reachable.cache_clear()


def unreachable_model(name, seconds):
    began = time.perf_counter()
    with pytest.raises(UserError) as caught:
        encoders.directory(name)
    assert time.perf_counter() - began < seconds
    message = str(caught.value)
    assert "\n" not in message
    for word in (*WAY_OUT, f"'{name}'", huggingface_hub.constants.ENDPOINT, "cannot be reached"):
        assert word in message


@pytest.mark.parametrize("name", ["bert-tiny", "nobody/bert-tiny", "not a name!"])
@pytest.mark.usefixtures("cached")
def test_a_model_of_a_hub_that_refuses(name):
    unreachable_model(name, seconds=TIMEOUT + 2)


@pytest.mark.usefixtures("cached")
def test_a_model_of_a_hub_that_never_answers(monkeypatch, silent):
    endpoint(monkeypatch, silent)
    unreachable_model("nobody/bert-tiny", seconds=TIMEOUT + 2)


@pytest.mark.usefixtures("cached")
def test_a_model_of_a_hub_that_is_none(monkeypatch, babbling):
    endpoint(monkeypatch, babbling)
    unreachable_model("nobody/bert-tiny", seconds=TIMEOUT + 2)


@pytest.mark.parametrize("address", ["nonsense", "http://", "http://no-such-host.invalid"])
def test_an_endpoint_that_cannot_be_one(monkeypatch, address):
    endpoint(monkeypatch, address)
    assert hub.reachable() is False


@pytest.mark.parametrize("status", [200, 401, 404, 503])
def test_any_answer_means_reachable(monkeypatch, answering, status):
    endpoint(monkeypatch, answering(status))
    assert hub.reachable() is True


def test_offline_mode_asks_nobody(monkeypatch, answering):
    endpoint(monkeypatch, answering(200))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.reachable() is False


def test_the_hub_is_asked_once(monkeypatch):
    asked = []

    def refuse(request, timeout):
        asked.append((request.get_method(), request.full_url, timeout))
        raise OSError("unreachable")

    monkeypatch.setattr(hub.urllib.request, "urlopen", refuse)
    assert [hub.reachable() for _ in range(3)] == [False] * 3
    assert asked == [("HEAD", REFUSED, TIMEOUT)]


@pytest.mark.usefixtures("cached")
def test_a_reachable_hub_without_the_model(monkeypatch, answering):
    endpoint(monkeypatch, answering(404))
    with pytest.raises(UserError) as caught:
        hub.model_directory("nobody/bert-tiny")
    message = str(caught.value)
    assert "\n" not in message
    assert "'nobody/bert-tiny' cannot be had from the hub" in message
    assert "cannot be reached" not in message
    assert WAY_OUT[0] in message


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_model_of_a_reachable_hub_is_downloaded(monkeypatch, answering, tmp_path, kind):
    """Weights that only PyTorch reads are fetched for a model that has no others."""
    small = {"config.json", "tokenizer.json", "vocab.txt", "spm.model"}
    heavy = {"pytorch_model.bin", "tf_model.h5", "model.onnx", "flax_model.msgpack"}
    offered = small | heavy | ({"model.safetensors"} if kind == "safetensors" else set())

    def download(name, revision, allow_patterns, local_files_only):
        assert (name, revision, local_files_only) == ("nobody/bert-tiny", "v1.0", False)
        for file in offered:
            if any(fnmatch(file, pattern) for pattern in allow_patterns):
                (tmp_path / file).touch()
        return str(tmp_path)

    endpoint(monkeypatch, answering(200))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert encoders.directory("nobody/bert-tiny@v1.0") == tmp_path
    weights = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}[kind]
    assert {file.name for file in tmp_path.iterdir()} == small | {weights}


def test_a_model_without_weights_is_refused_before_any_training(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="has no weights of a model"):
        encoders.directory(str(tmp_path))


def test_weights_of_pytorch_load_as_safetensors_do(cached, tmp_path):
    snapshot = cached("nobody/bert-old")
    expected = encoders.load_classifier(snapshot, ("a", "b")).base_model.state_dict()
    torch.save(load_file(snapshot / "model.safetensors"), snapshot / "pytorch_model.bin")
    (snapshot / "model.safetensors").unlink()
    found = encoders.directory("nobody/bert-old")
    assert found == snapshot
    loaded = encoders.load_classifier(found, ("a", "b")).base_model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())
    (found / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="is no readable model directory"):
        encoders.load_classifier(found, ("a", "b"))


def test_a_pinned_revision_is_found_in_the_cache_and_another_is_not(cached):
    snapshot = cached("nobody/bert-tiny")
    assert encoders.directory(f"nobody/bert-tiny@{snapshot.name}") == snapshot
    assert hub.commit(snapshot) == snapshot.name and hub.commit(snapshot.parent) is None
    unreachable_model("nobody/bert-tiny@ffffffffffffffffffffffffffffffffffffffff", TIMEOUT + 2)


def test_a_cached_model_is_used_while_the_hub_refuses(cached):
    snapshot = cached("nobody/bert-tiny")
    assert encoders.directory("nobody/bert-tiny") == snapshot
    assert encoders.load_classifier(snapshot, ("a", "b")).config.num_labels == 2
    unreachable_model("nobody/bert-small", seconds=TIMEOUT + 2)


@pytest.mark.slow
def test_a_cached_model_is_used_while_the_hub_never_answers(monkeypatch, cached, silent):
    snapshot = cached("bert-tiny")
    endpoint(monkeypatch, silent)
    began = time.perf_counter()
    assert encoders.directory("bert-tiny") == snapshot
    assert time.perf_counter() - began < TIMEOUT + 2


LOAD = """
import json, sys, time
from compress.data import hub
from compress.errors import UserError
hub.TIMEOUT = float(sys.argv[1])
began = time.perf_counter()
try:
    message = repr(hub.load_split(*json.loads(sys.argv[2])))
except UserError as error:
    message = f"UserError {error}"
print(json.dumps([message, time.perf_counter() - began]))
"""


def load_elsewhere(address, split, home):
    """Load a split in a process of its own: (message, seconds); the endpoint is read at import."""
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        environment.pop(name, None)
    command = [sys.executable, "-c", LOAD, str(TIMEOUT), json.dumps(split)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "split"),
    [
        ("refuses", ("nyu-mll/glue", "mnli", "train", None)),
        ("never answers", ("jhu-cogsci/hans", None, "validation", "refs/convert/parquet")),
    ],
)
def test_a_data_set_of_a_hub_that_cannot_be_reached(tmp_path, silent, kind, split):
    address = REFUSED if kind == "refuses" else silent
    message, seconds = load_elsewhere(address, split, tmp_path)
    assert message.startswith("UserError")
    assert "\n" not in message
    for word in (*WAY_OUT, f"'{split[0]}'", address, "cannot be reached"):
        assert word in message
    assert seconds < TIMEOUT + 3


@pytest.mark.slow
def test_a_cached_data_set_is_used_while_the_hub_never_answers(tmp_path, silent):
    table = datasets.Dataset.from_dict({"premise": ["a"], "label": [1]})
    folder = tmp_path / "datasets" / "nobody___pairs" / "default" / "0.0.0" / ("0" * 40)
    folder.mkdir(parents=True)
    writer = ArrowWriter(path=str(folder / "pairs-train.arrow"), features=table.features)
    writer.write({"premise": "a", "label": 1})
    size, length = writer.finalize()
    split = datasets.SplitInfo("train", length, size, dataset_name="pairs")
    datasets.DatasetInfo(
        features=table.features,
        builder_name="parquet",
        dataset_name="pairs",
        config_name="default",
        version="0.0.0",
        splits=datasets.SplitDict({"train": split}),
    ).write_to_directory(str(folder))
    message, seconds = load_elsewhere(silent, ("nobody/pairs", None, "train", None), tmp_path)
    assert message.startswith("Dataset(")
    assert "num_rows: 1" in message
    assert seconds < TIMEOUT + 3


def test_a_student_is_loaded_by_its_id(cached):
    snapshot = cached("nobody/student")
    made = encoders.load_classifier(snapshot, ("no", "yes"))
    made.save_pretrained(snapshot)
    found = load_compressed("nobody/student@main")
    assert not found.training and found.config.id2label == {0: "no", 1: "yes"}
    for name, weight in made.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight)
    words = ["nobody/student@main", "--premise", "wa wb", "--hypothesis", "wc"]
    assert next(predict.lines(predict.parse(words))) in ("no", "yes")
    with pytest.raises(UserError, match=r"load_compressed: 'nobody/else' .*cannot be reached"):
        load_compressed("nobody/else")
    with pytest.raises(UserError, match=r"load_compressed: there is no directory './nowhere'"):
        load_compressed("./nowhere")
