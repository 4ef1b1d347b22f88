"""A stage is made once for each of its inputs and versions; what its artefact says of its making."""

import json
import shutil
from copy import deepcopy

import numpy as np
import pytest
from configs import BASE, OURS
from stage_runs import run_of

from compress.checkpoints.unfinished import LOCK
from compress.configuration.config import build
from compress.errors import Interrupted, UserError
from compress.runtime import provenance, versions
from compress.stages.prepare import SourceRows, Splits
from compress.stages.stage import Stage, find, key_of, obtain
from compress.stages.student import Student
from compress.stages.tokenised import Tokens


class Small(Stage):
    """Writes the seed and the epochs that it sees."""

    name = "small"

    def __init__(self):
        self.made = 0

    def reads(self, config):
        return (f"{OURS}.seed",)

    def make(self, run, made):
        self.made += 1
        robust = run.config.robust
        return lambda folder: (folder / "seen.json").write_text(f"[{robust.seed}, {robust.epochs}]")


class Large(Small):
    """Needs the small one."""

    name = "large"

    def __init__(self, small):
        super().__init__()
        self.small = small

    def needs(self, run):
        return (self.small,)

    def includes(self, label):
        return label == "small"


class Uneven(Small):
    """Comes out otherwise whenever its noise is another, such as with another number of ranks."""

    name = "uneven"
    noise = 0

    def make(self, run, made):
        self.made += 1
        return lambda folder: (folder / "noise.txt").write_text(str(self.noise))


class Kept(Large):
    """Keeps what it reads from the uneven stage as a part; stops: is interrupted after that."""

    name = "kept"

    def __init__(self, small, stops):
        super().__init__(small)
        self.stops = stops

    def make(self, run, made):
        def read(file):
            self.made += 1
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, np.array([float((made["uneven"].path / "noise.txt").read_text())]))

        part = np.load(run.unfinished.file("part", read))
        if self.stops:
            raise Interrupted("now")
        return lambda folder: (folder / "part.txt").write_text(str(part))


@pytest.fixture
def run(tmp_path, tiny_model):
    """Function (*keys of our block, **changes) -> a run that knows of no artefact yet."""

    def make(values=None, **changes):
        merged = deepcopy(BASE)
        merged[OURS] |= values or {}
        return run_of(build(merged, {}), tiny_model, tmp_path, **changes)

    return make


def installed(monkeypatch, **found):
    real = versions.report()
    monkeypatch.setattr(versions, "report", lambda: {**real, **found})


def test_it_is_made_once_and_sees_only_what_it_reads(run):
    stage = Small()
    first = obtain(stage, run({"seed": 5, "epochs": 9}))
    assert json.loads((first.path / "seen.json").read_text()) == [5, 3]
    assert not first.reused and obtain(stage, run({"seed": 5})).reused and stage.made == 1
    assert obtain(stage, run({"seed": 6})).path != first.path and stage.made == 2


def test_its_origin(run):
    origin = obtain(Small(), run()).origin
    assert origin["versions"] == versions.report() and origin["device"] == "cpu"
    assert origin["ranks"] == 1 and origin["seconds"] >= 0 and origin["command"]
    assert 1e8 < origin["peak_memory_bytes"]["host"] < 1e11


def test_what_it_needs_enters_its_key_and_its_seconds(run):
    small, here = Small(), run()
    large = obtain(Large(small), here)
    assert small.made == 1 and large.seconds >= find(small, here).seconds
    assert key_of(Large(small), run()) != key_of(Large(small), run({"seed": 1}))
    small.name = "other"
    assert key_of(Large(small), run()) != large.key


def test_one_that_was_not_asked_for_is_only_found(run, monkeypatch):
    monkeypatch.setattr(Small, "asked", True)
    with pytest.raises(UserError, match=r"--stage evaluate: .*small.*--stage small"):
        obtain(Small(), run(stage="evaluate", chosen=("evaluate",)))
    made = obtain(Small(), run(chosen=("small",)))
    assert obtain(Small(), run(stage="evaluate", chosen=())).path == made.path


@pytest.mark.parametrize("package", provenance.DECISIVE)
def test_other_versions_are_made_again_or_accepted_and_either_is_said(
    run, monkeypatch, capsys, package
):
    stage, old = Small(), versions.report()[package].partition("+")[0]
    obtain(stage, run())
    installed(monkeypatch, **{package: "99.1.2"})
    capsys.readouterr()
    accepted = run(accept_versions=True)
    assert obtain(stage, accepted).reused and obtain(stage, accepted).reused
    (line,) = capsys.readouterr().out.splitlines()
    assert all(word in line for word in ("small: reused", f"{package} {old} (now 99.1.2)"))
    assert find(stage, run()) is None and not obtain(stage, run()).reused
    line, _ = capsys.readouterr().out.splitlines()
    assert all(word in line for word in ("not reused", package, old, "99.1.2", "--accept_versions"))
    assert obtain(stage, run()).reused and stage.made == 2


def test_a_stage_that_depends_on_fewer_packages_is_made_again_for_those_only(run, monkeypatch):
    monkeypatch.setattr(Small, "packages", ("transformers",))
    obtain(Small(), run())
    installed(monkeypatch, torch="99.1.2", deepspeed="99.1.2")
    assert obtain(Small(), run()).reused
    installed(monkeypatch, transformers="99.1.2")
    assert not obtain(Small(), run()).reused


def test_no_package_decides_over_rows_and_only_transformers_over_tokens():
    """40 million rows are not read again because DeepSpeed was updated."""
    assert SourceRows.packages == Splits.packages == ()
    assert Tokens.packages == ("transformers",) and Student.packages == provenance.DECISIVE


def test_another_build_or_package_changes_nothing(run, monkeypatch):
    obtain(Small(), run())
    release = versions.report()["torch"].partition("+")[0]
    installed(monkeypatch, torch=f"{release}+cu999", numpy="99.0.0", python="9.9")
    assert obtain(Small(), run()).reused


def emptied(artefact):
    """Delete an artefact, as a user may."""
    shutil.rmtree(artefact.path)


def test_what_was_made_from_another_is_made_again_and_that_is_said(run, capsys):
    need = Uneven()
    stage = Large(need)
    first = obtain(stage, run())
    emptied(obtain(need, run()))
    assert obtain(stage, run()).reused, "nothing is there that contradicts it"
    need.noise = 1
    obtain(need, run())
    capsys.readouterr()
    here = run()
    assert find(stage, here) is None and find(stage, here) is None
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("large: not reused") and "another uneven" in line
    again = obtain(stage, here)
    assert not again.reused and again.key == first.key and stage.made == 2
    assert obtain(stage, run()).reused and stage.made == 2


class Watched(Large):
    """Tells whether other runs are kept from making it too."""

    name = "watched"

    def make(self, run, made):
        assert (run.unfinished.path.parent / LOCK).is_file()
        return super().make(run, made)


@pytest.mark.parametrize("other", ["versions", "inputs"])
def test_one_that_is_there_and_not_reused_is_made_by_one_run_alone(run, monkeypatch, other):
    need = Uneven()
    stage = Watched(need)
    obtain(stage, run())
    if other == "versions":
        installed(monkeypatch, torch="99.1.2")
    else:
        emptied(obtain(need, run()))
        need.noise = 1
        obtain(need, run())
    assert not obtain(stage, run()).reused and stage.made == 2


@pytest.mark.parametrize("noise", [0, 1])
def test_unfinished_work_on_what_has_come_out_otherwise_is_not_continued(run, noise):
    uneven, context = Uneven(), run()
    stopped = Kept(uneven, stops=True)
    with pytest.raises(Interrupted):
        obtain(stopped, context)
    shutil.rmtree(obtain(uneven, context).path)
    uneven.noise = noise
    again = Kept(uneven, stops=False)
    made = obtain(again, run())
    assert (made.path / "part.txt").read_text() == f"[{noise}.]"
    assert again.made == noise, "the same content is continued"


def test_what_came_out_the_same_again_changes_nothing(run):
    need = Uneven()
    stage = Large(need)
    obtain(stage, run())
    emptied(obtain(need, run()))
    obtain(need, run())
    assert need.made == 2 and obtain(stage, run()).reused


def test_what_was_made_from_something_stale_is_stale_too(run):
    """As the choice of alpha, of which students were trained from a teacher that is made again."""
    need = Uneven()
    middle = Large(need)
    middle.name = "middle"
    last, here = Large(middle), run()
    obtain(last, run())
    assert find(last, here).reused
    emptied(obtain(need, run()))
    need.noise = 1
    here.known.clear()
    assert find(last, here).reused, "what is not there contradicts nothing"
    obtain(need, here)
    assert find(middle, here) is None and find(last, here) is None, "seen by the run that made it"


def test_two_that_were_made_from_one(run):
    """Each is compared with what is there, whoever made that again."""
    need = Uneven()
    one, two = Large(need), Large(need)
    two.name = "two"
    obtain(one, run()), obtain(two, run())
    emptied(obtain(need, run()))
    need.noise = 1
    obtain(need, run())
    assert not obtain(one, run()).reused
    assert find(two, run()) is None
    assert not obtain(two, run()).reused and obtain(one, run()).reused


def test_a_marker_that_does_not_say_what_it_was_made_from_is_taken(run):
    """Those of earlier versions."""
    need = Uneven()
    stage = Large(need)
    file = obtain(stage, run()).path / "complete.json"
    marker = json.loads(file.read_text())
    assert marker.pop("made_from").keys() == {"uneven"}
    file.write_text(json.dumps(marker))
    emptied(obtain(need, run()))
    need.noise = 1
    obtain(need, run())
    assert obtain(stage, run()).reused


@pytest.mark.parametrize("harm", [None, [], {}, {"versions": {}}])
def test_a_marker_that_does_not_tell_its_making_rightly_is_made_again(run, harm):
    stage = Small()
    file = obtain(stage, run()).path / "complete.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "origin": harm}))
    assert not obtain(stage, run(accept_versions=True)).reused
    assert obtain(stage, run()).reused and stage.made == 2


def test_a_marker_without_its_making_is_accepted_and_can_be_shown(run):
    stage = Small()
    file = obtain(stage, run()).path / "complete.json"
    marker = json.loads(file.read_text())
    del marker["origin"]
    file.write_text(json.dumps(marker))
    assert find(stage, run()) is None
    found = obtain(stage, run(accept_versions=True))
    assert found.reused and found.origin.keys() == obtain(Small(), run()).origin.keys()
    assert provenance.by_versions({"small": found.origin}) == [(["small"], {})]
    assert provenance.sentence(found.origin) == (
        "torch unknown, transformers unknown, deepspeed unknown"
    )
