"""The runs of a study: resuming, failures, and the command of each. No training."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from launcher import ROOT
from studies import finish, runs_of, study_file

from compress.errors import UserError
from compress.files import processes
from compress.runtime import launcher_watch
from compress.study import launch, plan


def make(folder):
    folder.mkdir()
    return folder


# Running


def test_the_ranks_of_a_run_watch_the_study_that_started_it(monkeypatch):
    """`deepspeed` does not end with it, and its ranks are no children of the study."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    told = launch.Machine(2, 1).environment()[launcher_watch.STUDY]
    assert told == processes.this().label
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        label = processes.of_pid(other.pid).label
        monkeypatch.setenv(launcher_watch.STUDY, label)
        watched = [one for one in launcher_watch.ancestors() if one.label == label]
        assert [one.ended for one in watched] == [False]
        other.kill()
        other.wait()
        launcher_watch.wait_for_end(watched, 0.01)
    monkeypatch.delenv("LOCAL_RANK")
    assert launcher_watch.ancestors() == []


class Stub(launch.Machine):
    """Writes a finished run instead of training; some runs fail."""

    def command(self, run, slot=0):
        script = "import sys; print('working'); sys.exit(0)"
        if run.mitigation == "rmc" and run.seed == 2:
            script = "import sys; print('error: no luck here'); sys.exit(1)"
        elif run.compression == "imp60":
            script = "print('all well')"
        else:
            finish(run)
        return [sys.executable, "-c", script]


@pytest.mark.parametrize("jobs", [1, 2])
def test_execution_goes_on_after_a_failure_and_resumes(tmp_path, capsys, jobs):
    runs = runs_of(tmp_path)
    failed = launch.execute(runs, Stub(1, jobs), make(tmp_path / "logs"))
    assert failed == {
        "fever/imp40-rmc-seed2": "no luck here",
        "fever/imp60-rmc-seed2": "no luck here",
        "fever/imp60-rmc-seed1": "all well",
        "fever/imp60-vanilla-seed1": "all well",
        "fever/imp60-vanilla-seed2": "all well",
    }
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(runs)
    assert sum("failed after" in line for line in lines) == 5
    told = [" left" in line for line in lines]
    assert told[:1] + told[2:] == [False] + [True] * (len(runs) - 3) + [False]
    assert not told[1] or jobs == 2, "the second line may be of a run that followed the first teacher"
    again = launch.execute(runs, Stub(1, 1), tmp_path / "logs")
    assert set(again) == set(failed)
    assert capsys.readouterr().out.count("finished before") == 3


def test_a_run_that_another_configuration_owns_stops_the_study(tmp_path):
    runs = runs_of(tmp_path)
    finish(runs[0])
    other = plan.expand(study_file(tmp_path), tmp_path / "out", ["robust_compression.epochs=9"])
    with pytest.raises(
        UserError, match=r"seed1: holds a run of another configuration \(robust_compression\.epochs"
    ):
        launch.execute(other, Stub(1, 1), make(tmp_path / "logs"))
    assert not (other[1].output_dir).exists()


def test_what_only_concerns_evaluation_is_done_again_in_place(tmp_path):
    finish(runs_of(tmp_path)[0])
    changes = ['robust_compression.evaluation={"sentences": 3}', "tensorboard.enabled=false"]
    assert not launch.finished(plan.expand(study_file(tmp_path), tmp_path / "out", changes)[0])


def test_figures_of_another_evaluation_are_not_those_of_a_run_that_failed(tmp_path):
    """A run writes config.json when it starts, and figures at its end."""
    file, change = study_file(tmp_path), ['robust_compression.evaluation.ood=["sym1"]']
    old, new = (plan.expand(file, tmp_path / "out", texts)[0] for texts in ([], change))
    finish(old)
    (new.output_dir / "config.json").write_text(json.dumps(new.config.merged))
    assert not launch.finished(new)
    assert launch.finished(old)


def test_a_run_whose_alpha_was_chosen_is_finished(tmp_path):
    """Its figures are of the alpha that it settled on."""
    words = ["robust_compression.loss.hook=rmc", "robust_compression.uncertainty.alpha=auto"]
    auto = plan.expand(study_file(tmp_path), tmp_path / "out", words)[0]
    chosen = replace(auto, config=auto.config.with_alpha(0.3))
    finish(chosen)
    (auto.output_dir / "config.json").write_text(json.dumps(auto.config.merged))
    assert launch.finished(auto)


ENDS = {
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "75": "raise SystemExit(75)",
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupt_starts_no_other_run(tmp_path, jobs, end):
    class Interrupted(launch.Machine):
        def command(self, run, slot=0):
            return [sys.executable, "-c", ENDS[end]]

    with pytest.raises(KeyboardInterrupt):
        launch.execute(runs_of(tmp_path), Interrupted(1, jobs), make(tmp_path / "logs"))
    assert len(list((tmp_path / "logs").iterdir())) <= jobs


@pytest.mark.parametrize(
    ("log", "why"),
    [
        ("a\nerror: no such file.\n[launch.py] exits with 1", "no such file."),
        (
            "[rank1]: torch.OutOfMemoryError: CUDA out of memory\n[2026] exits",
            "torch.OutOfMemoryError: CUDA out of memory",
        ),
        ("KeyError: 'x'\nmore", "KeyError: 'x'"),
        ("just\nwords", "words"),
        ("", "no output"),
    ],
)
def test_the_last_word_of_a_failed_run(tmp_path, log, why):
    (tmp_path / "log").write_text(log)
    assert launch._last_word(tmp_path / "log") == why


def test_a_changed_file_makes_a_run_to_do_again(tmp_path):
    data, hook = make(tmp_path / "data"), tmp_path / "my_study_hook.py"
    hook.write_text(
        "def loss(logits, labels, teacher, difficulty, weights):\n    return logits[:, 0]\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        changes = [f"robust_compression.task.data_dir={data}"]
        changes.append("robust_compression.loss.hook=my_study_hook:loss")
        run = plan.expand(study_file(tmp_path, mitigations=["vanilla"]), tmp_path / "out", changes)[0]
        finish(run)
        assert launch.finished(run)
        (data / "train.jsonl").write_text("{}")
        assert not launch.finished(run)
        finish(run)
        hook.write_text(hook.read_text() + "\n")
        assert not launch.finished(run)
    finally:
        sys.path.remove(str(tmp_path))


@pytest.mark.parametrize(
    "origins", [None, [], {"student": None}, {"student": {"versions": []}}, {"student": {}}], ids=repr
)
def test_figures_that_do_not_say_how_they_were_made_are_made_again(tmp_path, origins, capsys):
    run = runs_of(tmp_path)[0]
    finish(run)
    assert launch.finished(run)
    finish(run, artefacts=origins)
    assert not launch.finished(run) and "are damaged" in capsys.readouterr().err
    assert launch.version_lines(run, accept_versions=True) == []


@pytest.mark.parametrize("name", ["parts/pairs.csv", "ood_x.csv", "swapped/test.tsv"])
def test_a_changed_file_that_a_task_in_json_names_makes_a_run_to_do_again(tmp_path, name):
    definition = {
        **{"texts": ["a", "b"], "labels": ["x", "y"], "train": "parts/pairs"},
        "ood": {"x": {}, "swapped": {"file": str(tmp_path / "elsewhere/swapped/test.tsv")}},
    }
    task = {"robust_compression": {"task": {"name": "mine", "definition": definition}, "model": "m"}}
    task["train_batch_size"] = 16
    (tmp_path / "mine.json").write_text(json.dumps(task))
    data = make(tmp_path / "data")
    file = (tmp_path / "elsewhere" if name.startswith("swapped") else data) / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("a,b,label")
    changes = {"tasks": [str(tmp_path / "mine.json")], "mitigations": ["vanilla"]}
    changes["set"] = [f"robust_compression.task.data_dir={data}"]
    run = runs_of(tmp_path, **changes)[0]
    finish(run)
    (file.parent / "notes.txt").touch()
    assert launch.finished(run) or file.parent == data
    finish(run)
    file.write_text("other")
    assert not launch.finished(run)


def test_ood_sets_may_be_added_to_a_finished_study(tmp_path):
    finish(runs_of(tmp_path)[0])
    changes = [f"robust_compression.task.ood_dir={make(tmp_path / 'more')}"]
    again = plan.expand(study_file(tmp_path), tmp_path / "out", changes)[0]
    assert not launch.finished(again), "to do again, not refused"


def test_half_a_run_is_not_finished(tmp_path):
    run = runs_of(tmp_path)[0]
    finish(run)
    assert launch.finished(run)
    (run.output_dir / "hits.npz").unlink()
    assert not launch.finished(run)
    finish(run)
    (run.output_dir / "metrics.json").unlink()
    assert not launch.finished(run)


def test_the_command_of_a_run(tmp_path):
    run = runs_of(tmp_path)[0]
    words = launch.Machine(2, 1, "--bind_cores_to_rank").command(run)
    assert Path(words[0]).name == "deepspeed" and words[1] == "--master_port"
    assert words[3:6] == ["--num_accelerators", "2", "--bind_cores_to_rank"]
    assert words[6] == str(ROOT / "train.py")
    assert words[-2:] == ["--output_dir", str(run.output_dir)]
    assert "robust_compression.seed=1" in words
    other = launch.Machine(2, 1, "--hostfile 'my hosts'").command(run)
    assert words[2] != other[2] and other[3:5] == ["--hostfile", "my hosts"]
    for placing in ("-i localhost:0", "--exclude=localhost:1", "-H hosts", "--num_gpus 4"):
        assert launch.Machine(2, 1, placing).command(run)[3] == placing.split()[0]


@pytest.mark.parametrize(
    ("visible", "processes", "places"),
    [("", 2, "0,1"), ("5,3,7,1", 2, "5,3"), ("6", 1, "6")],
)
def test_gpus_are_those_that_are_visible(monkeypatch, tmp_path, visible, processes, places):
    monkeypatch.setattr(launch.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        launch.torch.cuda, "device_count", lambda: len(visible.split(",")) if visible else 4
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    machine = launch.Machine(processes, 1)
    words, environment = machine.command(runs_of(tmp_path)[0]), machine.environment()
    if processes > 1:
        assert words[3:5] == ["--include", f"localhost:{places}"]
    else:
        assert words[2] == str(launch.TRAIN), "one process is started without a launcher"
        assert environment["CUDA_VISIBLE_DEVICES"] == places
        assert {environment[key] for key in ("RANK", "LOCAL_RANK")} == {"0"}


def test_gpus_by_uuid_are_for_runs_without_a_launcher(monkeypatch):
    monkeypatch.setattr(launch.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-aa,MIG-bb")
    launch.Machine(1, 2).check()
    for machine in (launch.Machine(2, 1), launch.Machine(1, 1, "--bind_cores_to_rank")):
        with pytest.raises(UserError, match=r"^CUDA_VISIBLE_DEVICES is 'MIG-aa,.* --processes 1"):
            machine.check()


@pytest.mark.slow
def test_runs_side_by_side_have_gpus_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setattr(launch.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    used = []

    class Recorder(launch.Machine):
        def command(self, run, slot=0):
            used.append(super().command(run, slot)[4])
            return [sys.executable, "-c", "import time; time.sleep(0.3)"]

    machine = Recorder(launch.default_processes(2), 2)
    machine.check()
    launch.execute(runs_of(tmp_path), machine, make(tmp_path / "logs"))
    assert set(used) == {"localhost:0,1", "localhost:2,3"}
    with pytest.raises(UserError, match="--jobs 3: with 2 processes each they need 6 GPUs and 4"):
        launch.Machine(2, 3).check()
    for placing in ("--hostfile hosts", "--include=localhost:0,1", "--num_gpus 2 --num_nodes 1"):
        with pytest.raises(UserError, match=f"--jobs 3: --launcher '{placing}' places all runs on the"):
            launch.Machine(2, 3, placing).check()
    launch.Machine(2, 1, "--hostfile hosts").check()


def test_small_runs_may_share_a_gpu(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(UserError, match="--runs_per_gpu 4: no GPU is visible"):
        launch.Machine(1, 4, runs_per_gpu=4).check()
    monkeypatch.setattr(launch.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: 2)
    machine = launch.Machine(1, 8, runs_per_gpu=4)
    machine.check()
    places = [machine.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(8)]
    assert places == ["0"] * 4 + ["1"] * 4
    with pytest.raises(UserError, match=r"need 3 GPUs and 2 are visible.*--runs_per_gpu 5"):
        launch.Machine(1, 9, runs_per_gpu=4).check()
    with pytest.raises(UserError, match="--launcher says which processes; leave it out"):
        launch.Machine(1, 2, "--hostfile hosts", runs_per_gpu=2).check()


def test_the_time_left_counts_what_is_still_to_make(capsys):
    progress = launch.Progress(total=6, ahead={"a", "b"}, behind={"c", "d"}, jobs=2)
    for name, seconds, left in (
        ("x", None, None),
        ("a", 1200, None),
        ("c", 600, 15),
        ("y", None, None),
        ("b", 600, 5),
        ("d", 600, None),
    ):
        progress.report(name, "done", seconds)
        line = capsys.readouterr().out
        assert f"about {left} min left" in line if left else "left" not in line


def test_threads_are_divided_among_all_processes(monkeypatch):
    monkeypatch.setattr(launch.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(launch.os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launch.Machine(2, 4).environment()["OMP_NUM_THREADS"] == "2"
    assert launch.Machine(16, 4).environment()["OMP_NUM_THREADS"] == "1"
    assert launch.Machine(2, 1, "--num_accelerators 4").environment()["OMP_NUM_THREADS"] == "4"
    assert launch.Machine(2, 1, "--hostfile hosts").environment()["OMP_NUM_THREADS"] == "8"
    assert launch.Machine(1, 1).environment()["DS_ACCELERATOR"] == "cpu"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert launch.Machine(2, 4).environment()["OMP_NUM_THREADS"] == "3"


def test_the_launcher_is_found_or_missed_in_a_sentence(monkeypatch, tmp_path):
    assert Path(launch._launcher()).name == "deepspeed"
    monkeypatch.setattr(launch.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no `deepspeed` command"):
        launch._launcher()


@pytest.mark.parametrize(("gpus", "processes"), [(0, 2), (1, 1), (3, 2), (8, 8)])
def test_default_number_of_processes(monkeypatch, gpus, processes):
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: gpus)
    assert launch.default_processes() == processes
