"""Artefacts: whole or not there, and reused for the same inputs only."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import compress
from compress.files.artefacts import MARKER, checked, completed, key, write_json, writing

ROOT = Path(compress.__file__).parents[1]
INPUTS = {"seed": 1, "files": ["a", "b"], "nested": {"x": 0.5, "y": None}}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-1, 1) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def make(path, inputs=INPUTS, text="new"):
    with writing(path, inputs, time.perf_counter()) as folder:
        (folder / "data.txt").write_text(text)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def backwards(value):
    """The same value with the keys of every object in the other order."""
    if isinstance(value, dict):
        return {k: backwards(value[k]) for k in reversed(value)}
    return [backwards(v) for v in value] if isinstance(value, list) else value


def test_a_finished_artefact_is_complete(tmp_path):
    path = tmp_path / "deep" / "er" / "teacher"
    assert completed(path, INPUTS) is None
    with writing(path, INPUTS, time.perf_counter() - 100) as folder:
        assert folder.parent == path.parent and folder != path
        (folder / "data.txt").write_text("whole")
        assert not path.exists()
    marker = completed(path, INPUTS)
    assert marker["inputs"] == INPUTS and marker["key"] == key(INPUTS)
    assert 100 <= marker["seconds"] < 160
    assert names(path) == sorted([MARKER, "data.txt"])
    assert names(path.parent) == ["teacher"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing(tmp_path, error):
    path = tmp_path / "a"
    with pytest.raises(error), writing(path, INPUTS, 0.0) as folder:
        (folder / "data.txt").write_text("half")
        raise error
    assert names(tmp_path) == []
    assert completed(path, INPUTS) is None


def test_an_exception_keeps_the_older_artefact(tmp_path):
    path = tmp_path / "a"
    make(path, text="old")
    with pytest.raises(RuntimeError), writing(path, INPUTS, 0.0) as folder:
        (folder / "data.txt").write_text("half")
        raise RuntimeError
    assert completed(path, INPUTS) and (path / "data.txt").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_inputs_that_are_no_json_leave_nothing(tmp_path):
    with pytest.raises(TypeError):
        make(tmp_path / "a", {"x": object()})
    assert names(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("marked", [False, True])
def test_a_killed_writer_is_never_taken_for_complete(tmp_path, marked):
    script = f"""
import os, signal
from pathlib import Path
from compress.files import artefacts
path = Path({str(tmp_path / "a")!r})
with artefacts.writing(path, {INPUTS!r}, 0.0) as folder:
    (folder / "data.txt").write_text("half")
    if {marked}:
        artefacts.write_json(folder / artefacts.MARKER, {{"key": artefacts.key({INPUTS!r})}})
    os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert done.returncode == -9
    (leftover,) = tmp_path.iterdir()
    assert leftover.name.startswith(".") and (leftover / "data.txt").exists()
    assert completed(tmp_path / "a", INPUTS) is None
    make(tmp_path / "a")
    assert completed(tmp_path / "a", INPUTS)
    assert (tmp_path / "a" / "data.txt").read_text() == "new"


def test_two_writers_do_not_mix(tmp_path):
    path = tmp_path / "a"
    with writing(path, INPUTS, 0.0) as slow:
        (slow / "data.txt").write_text("slow")
        with writing(path, INPUTS, 0.0) as fast:
            assert names(fast) == []
            (fast / "data.txt").write_text("fast")
        assert names(slow) == ["data.txt"]
        assert completed(path, INPUTS)
    # who comes second finds the same artefact finished, perhaps in use, and leaves it
    assert (path / "data.txt").read_text() == "fast"
    assert names(tmp_path) == ["a"]


def test_a_finished_artefact_is_not_moved_for_an_instant(tmp_path, monkeypatch):
    path, rename = tmp_path / "a", Path.rename

    def late(self, target):
        monkeypatch.setattr(Path, "rename", rename)
        make(path, text="other")
        place = path.stat().st_ino
        try:
            return rename(self, target)
        finally:
            assert path.stat().st_ino == place

    with writing(path, INPUTS, 0.0) as folder:
        (folder / "data.txt").write_text("mine")
        monkeypatch.setattr(Path, "rename", late)
    assert (path / "data.txt").read_text() == "other"
    assert names(tmp_path) == ["a"]


def test_the_later_of_two_writers_with_other_inputs_stays(tmp_path):
    path = tmp_path / "a"
    with writing(path, {"seed": 1}, 0.0) as slow:
        (slow / "data.txt").write_text("slow")
        make(path, {"seed": 2}, text="fast")
    assert completed(path, {"seed": 1}) and (path / "data.txt").read_text() == "slow"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "other",
    [
        {**INPUTS, "seed": 2},
        {**INPUTS, "seed": "1"},
        {**INPUTS, "files": ["b", "a"]},
        {**INPUTS, "nested": {"x": 0.5, "y": 0}},
        {**INPUTS, "more": None},
        {},
    ],
)
def test_other_inputs_are_not_taken(tmp_path, other):
    make(tmp_path / "a")
    assert completed(tmp_path / "a", INPUTS)
    assert completed(tmp_path / "a", other) is None


def test_an_older_artefact_is_replaced_whole(tmp_path):
    path = tmp_path / "a"
    make(path, {"seed": 1})
    (path / "extra.txt").write_text("old")
    make(path, {"seed": 2}, text="second")
    assert completed(path, {"seed": 1}) is None and completed(path, {"seed": 2})
    assert names(path) == sorted([MARKER, "data.txt"])
    assert (path / "data.txt").read_text() == "second"


def test_a_directory_without_marker_is_replaced(tmp_path):
    path = tmp_path / "a"
    path.mkdir()
    (path / "half.txt").write_text("half")
    assert completed(path, INPUTS) is None
    make(path)
    assert completed(path, INPUTS) and not (path / "half.txt").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{}",
        b'{"key": null}',
        b"[]",
        b"null",
        b"\xff{",
    ],
)
def test_a_damaged_marker_is_not_taken(tmp_path, content):
    make(tmp_path / "a")
    (tmp_path / "a" / MARKER).write_bytes(content)
    assert completed(tmp_path / "a", INPUTS) is None


ORIGIN = {"versions": {"torch": "2.0"}, "device": "cpu", "ranks": 2, "peak_memory_bytes": {"host": 1}}


def test_a_marker_may_lack_how_it_was_made_or_say_it(tmp_path):
    make(tmp_path / "a")
    marker = json.loads((tmp_path / "a" / MARKER).read_text())
    without_memory = {key: ORIGIN[key] for key in ("versions", "device", "ranks")}
    for more in ({}, {"origin": ORIGIN, "made_from": {"teacher": "0"}}, {"origin": without_memory}):
        write_json(tmp_path / "a" / MARKER, {**marker, **more})
        assert completed(tmp_path / "a", INPUTS)


@pytest.mark.parametrize(
    "change",
    [
        *({"origin": value} for value in (None, [], {}, "x", 3)),
        *({"origin": {**ORIGIN, "versions": value}} for value in (None, [], {"torch": 2})),
        *({"origin": {**ORIGIN, "device": value}} for value in (None, 3)),
        *({"origin": {**ORIGIN, "ranks": value}} for value in (None, "2", 0, 1.5)),
        *({"origin": {**ORIGIN, "peak_memory_bytes": value}} for value in (None, 3, {"host": "x"})),
        *({"seconds": value} for value in (None, "1", float("nan"), float("inf"), [])),
        *({"made_from": value} for value in (None, [], "x", {"teacher": None})),
        *({"inputs": value} for value in (None, {}, {**INPUTS, "seed": 2})),
        {"files": {"data\0.txt": {}}},
    ],
    ids=repr,
)
def test_a_marker_with_fields_of_another_shape_is_damaged(tmp_path, change):
    make(tmp_path / "a")
    file = tmp_path / "a" / MARKER
    file.write_text(json.dumps({**json.loads(file.read_text()), "origin": ORIGIN, **change}))
    assert completed(tmp_path / "a", INPUTS) is None
    marker, line = checked(tmp_path / "a", INPUTS)
    assert (marker is None and MARKER in line) or "data" in line
    assert checked(tmp_path / "a", INPUTS) == (None, None)


@given(st.dictionaries(st.text(max_size=3), json_values, max_size=4))
def test_key_is_of_the_value_not_of_its_spelling(inputs):
    found = key(inputs)
    assert len(found) == 64 and set(found) <= set("0123456789abcdef")
    assert key(backwards(inputs)) == found
    assert key(json.loads(json.dumps(inputs))) == found
    assert key({**inputs, "another": 1}) != found


def test_key_is_the_same_in_every_run():
    # SHA-256 of {"a": [1, null], "b": "\u00e9"}
    expected = "a7ecfa31489e9c28927c541bb96de73d43f080fb97dde6fddaf3f838b2826bce"
    assert key({"b": "é", "a": (1, None)}) == expected


def test_json_is_readable_and_replaced(tmp_path):
    file = tmp_path / "values.json"
    write_json(file, {"a": 1})
    write_json(file, {"b": [1, 2], "word": "naïve"})
    text = file.read_text(encoding="utf-8")
    assert json.loads(text) == {"b": [1, 2], "word": "naïve"}
    assert "naïve" in text and text.endswith("\n")
    assert names(tmp_path) == ["values.json"]


def test_a_failed_json_keeps_the_old_one(tmp_path):
    file = tmp_path / "values.json"
    write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        write_json(file, {"a": 2, "b": object()})
    assert json.loads(file.read_text()) == {"a": 1}
