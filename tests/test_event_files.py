"""Events of a run: each curve has each step once, whatever was started before in the same place."""

import csv
import json

import deepspeed.comm
import pytest
from configs import Files, at
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from compress.errors import UserError
from compress.files import disk
from compress.files.artefacts import temporary_name
from compress.files.ownership import figures_key
from compress.training.monitor import open_monitor

STEPS = (10, 20, 30)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(deepspeed.comm, "get_rank", lambda: 0)  # its writers ask for the process group
    return Files(tmp_path)


def start(
    files, output, *settings, stages=("teacher", "student"), steps=STEPS, figures=True, others=("",)
):
    """One start of a run that trains these stages; others: whose events stay if they are there.

    The key of a stage is its name.
    """
    both = {"tensorboard": {"enabled": True}, "csv_monitor": {"enabled": True}}
    monitor = open_monitor(files.load(both, *settings), output)
    monitor.keep({*stages, *others})
    for stage in stages:
        with monitor.making(stage):
            for step in steps:
                monitor.scalars(stage, {"loss": 1 / step}, step)
    if figures:
        monitor.scalars("accuracy/student", {"dev": 0.5}, 0)
        monitor.table("difficulty/hardest", ["text", "d"], [["a", "1"]])


def curves(folder):
    """Tag -> steps, read as TensorBoard does: the whole folder is one run."""
    found = EventAccumulator(str(folder)).Reload()
    return {tag: [e.step for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def rows(file):
    with file.open() as source:
        return [row for row in csv.reader(source) if row]


def whole(steps=STEPS):
    return {"teacher/loss": list(steps), "student/loss": list(steps), "accuracy/student/dev": [0]}


def test_events_of_an_artefact_are_on_the_disk_when_it_is_made(files, tmp_path, monkeypatch):
    """At a loss of power the artefact would stay, and its curves be cut off for good."""
    flushed, output = [], tmp_path / "runs/careful"
    monkeypatch.setattr(disk, "flush_entry", lambda file: flushed.append(file.name))
    start(files, output, stages=("teacher",), figures=False)
    (events,) = (output / "tensorboard/careful").glob("events.*.teacher")
    assert {events.name, "teacher_loss.csv"} <= set(flushed)


def test_a_run_has_its_name_and_one_curve_a_stage(files, tmp_path):
    output = tmp_path / "runs/careful"
    start(files, output)
    assert curves(output / "tensorboard/careful") == whole()
    assert rows(output / "csv_monitor/teacher_loss.csv") == [
        ["step", "loss"],
        ["10", "0.1"],
        ["20", "0.05"],
        ["30", str(1 / 30)],
    ]


@pytest.mark.parametrize("stages", [(), ("student",), ("teacher", "student")])
def test_a_restart_writes_no_step_twice(files, tmp_path, stages):
    output = tmp_path / "run"
    start(files, output, figures=False, steps=(10, 20, 30, 40))
    start(files, output, stages=stages, others=("teacher", "student"))
    expected = whole() | {f"{s}/loss": [*STEPS, 40] for s in {"teacher", "student"} - set(stages)}
    assert curves(output / "tensorboard/run") == expected
    for stage in ("teacher", "student"):
        table = rows(output / f"csv_monitor/{stage}_loss.csv")
        assert [row[0] for row in table] == ["step", *map(str, expected[f"{stage}/loss"])]
    assert len(rows(output / "csv_monitor/accuracy_student_dev.csv")) == 2


def test_the_events_of_a_run_that_is_renamed_go_with_it(files, tmp_path):
    """Else TensorBoard shows two runs, each with a part of the curves."""
    start(files, tmp_path / "old", figures=False, steps=(10, 20, 30, 40))
    (tmp_path / "old").rename(tmp_path / "new")
    start(files, tmp_path / "new", stages=("student",), others=("teacher",))
    assert curves(tmp_path / "new/tensorboard/new") == whole() | {"teacher/loss": [*STEPS, 40]}
    assert [f.name for f in (tmp_path / "new/tensorboard").iterdir()] == ["new"]


def test_events_of_other_artefacts_go_and_those_of_a_reused_one_stay(files, tmp_path):
    output = tmp_path / "run"
    start(files, output, stages=("teacher", "difficulty 0.30", "student"))
    (output / "csv_monitor/notes.csv").write_text("mine\n1\n")
    start(files, output, at("robust_compression.seed", 7), stages=("difficulty",), others=("teacher",))
    found = whole()
    found["difficulty/loss"] = found.pop("student/loss")
    assert curves(output / "tensorboard/run") == found
    names = {file.name for file in (output / "csv_monitor").glob("*.csv")}
    written = {"teacher_loss.csv", "difficulty_loss.csv", "accuracy_student_dev.csv"}
    assert names == {*written, "notes.csv"}


def test_what_a_killed_run_was_writing_goes(files, tmp_path):
    folder = tmp_path / "run/tensorboard/run"
    folder.mkdir(parents=True)
    mine = temporary_name(folder / "run.json")
    *words, _, number, suffix = mine.name.split(".")
    ended = folder / ".".join([*words, "1", number, suffix])  # this process began at another time
    for file in (mine, ended):
        file.write_text("{")
    start(files, tmp_path / "run")
    assert mine.exists() and not ended.exists()


def test_figures_stay_as_long_as_their_metrics_do(files, tmp_path):
    output = tmp_path / "run"
    start(files, output, stages=())
    owner = json.loads((output / "csv_monitor/run.json").read_text())["keys"]["accuracy"]
    assert owner == figures_key(
        files.load({kind: {"enabled": True} for kind in ("tensorboard", "csv_monitor")})
    )
    start(files, output, at("steps_per_print", 5), stages=(), figures=False, others=(owner,))
    assert curves(output / "tensorboard/run") == {"accuracy/student/dev": [0]}
    start(files, output, stages=(), figures=False)
    assert curves(output / "tensorboard/run") == {}
    assert not list((output / "csv_monitor").glob("*.csv"))


def test_events_of_which_nothing_is_known_go(files, tmp_path):
    """Such as those of an earlier version, whose run.json knows the configuration alone."""
    output = tmp_path / "run"
    start(files, output)
    for mark in output.rglob("run.json"):
        mark.write_text('{"output_dir": "", "configuration": "x"}')
    start(files, output, stages=("teacher",), figures=False, others=("student",))
    assert curves(output / "tensorboard/run") == {"teacher/loss": list(STEPS)}


def test_stages_of_like_names_keep_their_own(files, tmp_path):
    output = tmp_path / "run"
    start(
        files,
        output,
        stages=("difficulty 0.30", "difficulty 0.60", "difficulty", "alpha 0.2", "alpha 0.25"),
    )
    others = ("difficulty 0.30", "difficulty 0.60", "alpha 0.25")
    start(files, output, stages=("difficulty", "alpha 0.2"), others=others)
    found = curves(output / "tensorboard/run")
    assert len(found) == 6 and all(steps in ([0], list(STEPS)) for steps in found.values())
    assert len(rows(output / "csv_monitor/difficulty_0.30_loss.csv")) == 1 + len(STEPS)


@pytest.mark.parametrize("kind", ["tensorboard", "csv_monitor"])
@pytest.mark.parametrize("job", [{}, {"job_name": "ours"}])
def test_a_place_that_several_runs_share_keeps_them_apart(files, tmp_path, kind, job):
    place = {kind: {"output_path": str(tmp_path / "logs"), **job}}
    for name, stages in (
        ("one/run", ("teacher",)),
        ("two/run", ("student",)),
        ("one/run", ("teacher",)),
    ):
        start(files, tmp_path / name, place, stages=stages, figures=False)
    owners = sorted((tmp_path / "logs").rglob("run.json"), key=lambda p: len(p.parts))
    first = tmp_path / "logs" / job.get("job_name", "run")
    assert owners == [first / "run.json", first / "run" / "run.json"]
    for owner, stage in zip(owners, ("teacher", "student"), strict=True):
        if kind == "tensorboard":
            assert curves(owner.parent) == {f"{stage}/loss": list(STEPS)}
        else:
            assert len(rows(owner.parent / f"{stage}_loss.csv")) == 1 + len(STEPS)


def test_files_of_others_are_left_alone(files, tmp_path):
    (tmp_path / "logs/ours").mkdir(parents=True)
    other = tmp_path / "logs/ours/student_loss.csv"
    other.write_text("step,loss\n1,2\n")
    place = {"csv_monitor": {"output_path": str(tmp_path / "logs"), "job_name": "ours"}}
    start(files, tmp_path / "run", place, figures=False)
    assert other.read_text() == "step,loss\n1,2\n"
    assert (tmp_path / "logs/ours/run/student_loss.csv").is_file()


def test_a_place_under_a_file_is_an_error(files, tmp_path):
    (tmp_path / "file").write_text("")
    place = {"csv_monitor": {"output_path": str(tmp_path / "file")}}
    with pytest.raises(UserError, match=r"file.*: cannot be written .*csv_monitor\.enabled"):
        start(files, tmp_path / "run", place)


def test_a_damaged_mark_is_no_obstacle(files, tmp_path):
    start(files, tmp_path / "run")
    (tmp_path / "run/csv_monitor/run.json").write_text("{")
    start(files, tmp_path / "run")
    assert json.loads((tmp_path / "run/csv_monitor/run.json").read_text())["keys"]["teacher"]
    assert len(rows(tmp_path / "run/csv_monitor/teacher_loss.csv")) == 1 + len(STEPS)


def test_a_folder_whose_mark_was_cut_off_is_nobodys(files, tmp_path):
    """As a run leaves it that is killed at its first line there."""
    folder = tmp_path / "logs/run"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("")
    place = {"csv_monitor": {"output_path": str(tmp_path / "logs")}}
    for name, expected in (("one/run", folder), ("two/run", folder / "run")):
        start(files, tmp_path / name, place, figures=False)
        mark = json.loads((expected / "run.json").read_text())
        assert mark["output_dir"] == str(tmp_path / name)


def test_nothing_is_written_without_a_writer(files, tmp_path):
    open_monitor(files.load(), tmp_path / "run").scalars("a", {"b": 1}, 0)
    assert not (tmp_path / "run").exists()
