"""A study file: its runs, its places, shards, resuming, failures. No training."""

import json
import sys
from pathlib import Path

import pytest
from studies import STUDY, finish, runs_of, study_file
from test_launcher import ROOT

from compress.errors import UserError
from compress.study import __main__ as program
from compress.study import launch, plan

SHIPPED = sorted((ROOT / "ds_configs/studies").glob("*.json"))


def make(folder):
    folder.mkdir()
    return folder


def names(runs):
    return [run.name for run in runs]


# Expansion


def test_expansion_keeps_a_teachers_runs_together(tmp_path):
    runs = runs_of(tmp_path, tasks=["fever", "qqp"])
    assert len(runs) == len(set(names(runs))) == 2 * 2 * 2 * 2
    assert names(runs)[:5] == [
        "fever/imp40-vanilla-seed1",
        "fever/imp40-rmc-seed1",
        "fever/imp60-vanilla-seed1",
        "fever/imp60-rmc-seed1",
        "fever/imp40-vanilla-seed2",
    ]
    run = runs[-1]
    assert run.output_dir == tmp_path / "out/qqp/imp60-rmc-seed2"
    robust = run.config.robust
    assert (robust.task.name, robust.seed, robust.loss.hook) == ("qqp", 2, "rmc")
    assert run.config.compression_label == "imp60"


def test_what_is_set_wins_in_its_order(tmp_path):
    file = study_file(
        tmp_path,
        tasks=["fever", "qqp"],
        settings=["minilm_cpu"],
        set=["robust_compression.epochs=7", "robust_compression.task.data_dir=/data/{task}"],
        task_set={"qqp": ["robust_compression.epochs=8"]},
    )
    epochs = {run.task: run.config.robust.epochs for run in plan.expand(file, tmp_path)}
    assert epochs == {"fever": 7, "qqp": 8}
    runs = plan.expand(file, tmp_path, ["robust_compression.epochs=9"])
    assert {run.config.robust.epochs for run in runs} == {9}
    assert {run.config.robust.task.data_dir for run in runs} == {"/data/fever", "/data/qqp"}
    assert runs[0].config.deepspeed.optimizer.params.lr == 1e-4


def test_a_part_may_be_a_path(tmp_path):
    (tmp_path / "mine.json").write_text('{"robust_compression": {"loss": {"hook": "distil"}}}')
    runs = runs_of(tmp_path, mitigations=["vanilla", str(tmp_path / "mine.json")])
    assert names(runs)[1] == "fever/imp40-mine-seed1"
    assert runs[1].config.robust.loss.hook == "distil"


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_study_expands(file, tmp_path):
    runs = plan.expand(file, tmp_path)
    assert len({run.output_dir for run in runs}) == len(runs) >= 3


def test_all_studies_of_the_paper_are_there_in_both_sizes():
    wanted = [f"table{n}" for n in range(1, 7)] + ["figure1", "figure3"]
    there = {file.stem for file in SHIPPED}
    assert {*wanted, *(f"{name}_small" for name in wanted)} <= there


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mitigations": ["vanila"]}, "'mitigations': there is no 'vanila'"),
        ({"mitigations": ["vanila"]}, "did you mean 'vanilla'?"),
        ({"compressions": ["imp41"]}, "'compressions': there is no 'imp41'"),
        ({"tasks": ["nope.json"]}, "'tasks': there is no 'nope.json'"),
        ({"engine": ["zero9"]}, "'engine': there is no 'zero9'"),
        ({"seeds": [1, 1]}, "'seeds' has '1' twice: two runs would share one place"),
        ({"compressions": ["imp40", "imp40"]}, "'compressions' has 'imp40' twice"),
        ({"mitigation": ["rmc"]}, "'mitigation': is not a key of a study; did you mean 'mitigations'?"),
        ({"seeds": []}, "'seeds': list should have at least 1 item"),
        ({"seeds": None}, "'seeds': field required"),
        ({"published": "table9"}, "'published': input should be 'table1'"),
        ({"task_set": {"qqq": []}}, "'task_set.qqq': no such task"),
    ],
)
def test_a_mistake_in_a_study_is_one_sentence(tmp_path, changes, sentence):
    with pytest.raises(UserError) as error:
        runs_of(tmp_path, **changes)
    assert str(error.value).startswith(str(tmp_path / "own/studies/study.json"))
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_two_parts_of_one_name_would_share_a_place(tmp_path):
    (tmp_path / "rmc.json").write_text("{}")
    with pytest.raises(UserError, match="'mitigations' has 'rmc' twice"):
        runs_of(tmp_path, mitigations=["rmc", str(tmp_path / "rmc.json")])


def test_two_runs_that_spell_one_place(tmp_path):
    for name in ("imp40-x", "x-rmc"):
        (tmp_path / f"{name}.json").write_text("{}")
    compressions = ["imp40", str(tmp_path / "imp40-x.json")]
    with pytest.raises(UserError, match=r"imp40 with x-rmc and imp40-x with rmc would share one place"):
        runs_of(tmp_path, compressions=compressions, mitigations=[str(tmp_path / "x-rmc.json"), "rmc"])


def test_the_seeds_are_the_studys(tmp_path):
    for changes, overrides in (
        ({"set": ["robust_compression.seed=3"]}, []),
        ({}, ["robust_compression.seed=3"]),
    ):
        with pytest.raises(UserError, match="the study's 'seeds' say which"):
            plan.expand(study_file(tmp_path, **changes), tmp_path, overrides)


@pytest.mark.parametrize(
    ("override", "processes", "why"),
    [
        ("robust_compression.task.data_dir=/nowhere", 2, "'/nowhere' is not a folder"),
        ("robust_compression.task.name=fevr", 2, "no task is called 'fevr'; did you mean 'fever'"),
        ("robust_compression.loss.hook=mine:loss", 2, "'mine:loss' cannot be imported"),
        ("train_batch_size=32", 3, "train_batch_size is 32, but 3 ranks"),
    ],
)
def test_what_every_run_would_find_is_found_before_the_first(tmp_path, override, processes, why):
    runs = plan.expand(study_file(tmp_path, mitigations=["vanilla"]), tmp_path, [override])
    with pytest.raises(UserError, match=f"^fever/imp40-vanilla-seed1: .*{why}"):
        plan.check(runs, processes)


def test_a_task_without_an_ood_set_is_found_before_the_first_run(tmp_path):
    runs = runs_of(tmp_path, set=[])
    with pytest.raises(UserError, match=r"vanilla-seed1: the hub: has no OOD set of fever"):
        plan.check(runs, 2)


def test_a_refused_configuration_is_found_before_any_run(tmp_path):
    with pytest.raises(UserError, match=r"'robust_compression\.epoch' is not a key"):
        plan.expand(study_file(tmp_path), tmp_path, ["robust_compression.epoch=1"])


# Shards


def test_shards_cover_every_run_once_and_split_no_teacher(tmp_path):
    runs = runs_of(tmp_path, tasks=["fever", "qqp", "mnli"])
    for count in (1, 2, 4, 6):
        parts = [launch.shard(runs, f"{i}/{count}") for i in range(1, count + 1)]
        assert sorted(name for part in parts for name in names(part)) == sorted(names(runs))
        owners = [{(run.task, run.seed) for run in part} for part in parts]
        assert sum(map(len, owners)) == 6
        assert max(map(len, parts)) - min(map(len, parts)) <= 4


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("3/2", "from 1 to n"),
        ("0/2", "from 1 to n"),
        ("2", "as i/n"),
        ("a/b", "as i/n"),
        ("1/3", "has 2 teachers"),
    ],
)
def test_a_shard_that_cannot_be(tmp_path, text, why):
    with pytest.raises(UserError, match=f"--shard {text}.*{why}"):
        launch.shard(runs_of(tmp_path), text)


# Running


class Stub(launch.Machine):
    """Writes a finished run instead of training; some runs fail."""

    def command(self, run):
        script = "import sys; print('working'); sys.exit(0)"
        if run.mitigation == "rmc" and run.seed == 2:
            script = "import sys; print('error: no luck here'); sys.exit(1)"
        elif run.compression == "imp60":
            script = "print('all well')"
        else:
            finish(run)
        return [sys.executable, "-c", script]


def test_execution_goes_on_after_a_failure_and_resumes(tmp_path, capsys):
    runs = runs_of(tmp_path)
    failed = launch.execute(runs, Stub(1, 2), make(tmp_path / "logs"))
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
    assert all(" left" in line for line in lines[:-1]) and " left" not in lines[-1]
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


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupt_starts_no_other_run(tmp_path, jobs):
    class Interrupted(launch.Machine):
        def command(self, run):
            return [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"]

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


def test_ood_sets_may_be_added_to_a_finished_study(tmp_path):
    finish(runs_of(tmp_path)[0])
    changes = [f"robust_compression.task.ood_dir={make(tmp_path / 'more')}"]
    again = plan.expand(study_file(tmp_path), tmp_path / "out", changes)[0]
    assert not launch.finished(again), "to do again, not refused"


def test_a_study_may_lie_anywhere(tmp_path):
    values = {**STUDY, "mitigations": ["vanilla"]}
    (tmp_path / "mine.json").write_text(json.dumps(values))
    assert len(plan.expand(tmp_path / "mine.json", tmp_path / "out")) == 4


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


@pytest.mark.parametrize(
    ("visible", "processes", "places"),
    [("", 2, "localhost:0,1"), ("5,3,7,1", 2, "localhost:5,3"), ("6", 1, "localhost:6")],
)
def test_gpus_are_those_that_are_visible(monkeypatch, tmp_path, visible, processes, places):
    monkeypatch.setattr(launch.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        launch.torch.cuda, "device_count", lambda: len(visible.split(",")) if visible else 4
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    words = launch.Machine(processes, 1).command(runs_of(tmp_path)[0])
    assert words[3:5] == ["--include", places]


def test_threads_are_divided_among_all_processes(monkeypatch):
    monkeypatch.setattr(launch.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(launch.os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launch.Machine(2, 4).environment()["OMP_NUM_THREADS"] == "2"
    assert launch.Machine(16, 4).environment()["OMP_NUM_THREADS"] == "1"
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


# The program


def test_list_says_what_is_to_do_and_starts_nothing(tmp_path, capsys):
    file = study_file(tmp_path)
    finish(runs_of(tmp_path)[1])
    assert program.main([str(file), "--output_dir", str(tmp_path / "out"), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["fever/imp40-vanilla-seed1: to do", "fever/imp40-rmc-seed1: finished"]
    assert len(lines) == 8


def test_a_finished_study_is_reported_without_a_run(tmp_path, capsys):
    file = study_file(tmp_path)
    for run in runs_of(tmp_path):
        finish(run)
    assert program.main([str(file), "--output_dir", str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert output.count("finished before") == 8
    for name in ("results.parquet", "report.html", "report.md"):
        assert (tmp_path / "out" / name).is_file()
    words = [str(file), "--output_dir", str(tmp_path / "again")]
    assert program.main([*words, "--report", str(tmp_path / "out/results.parquet")]) == 0
    first, second = ((tmp_path / n / "report.md").read_text().splitlines() for n in ("out", "again"))
    assert [a for a in first if not a.startswith("`")] == [a for a in second if not a.startswith("`")]


def test_a_study_without_a_finished_run_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(
        launch.Machine, "command", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"]
    )
    words = [str(study_file(tmp_path, seeds=[1])), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(UserError, match="no run has finished"):
        program.main(words)


@pytest.mark.parametrize(
    "words",
    [
        ["--report", "x.parquet", "--shard", "1/2"],
        ["--report", "x.parquet", "--list"],
        ["--launcher", "'open"],
        ["--jobs", "0"],
    ],
)
def test_words_that_do_not_go_together(tmp_path, words):
    with pytest.raises(SystemExit) as error:
        program.main([str(study_file(tmp_path)), "--output_dir", str(tmp_path / "out"), *words])
    assert error.value.code == 2


def test_an_output_directory_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("x")
    words = [str(study_file(tmp_path)), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"--output_dir: .* cannot be made"):
        program.main(words)


def test_study_files_hold_nothing_but_a_study():
    for file in SHIPPED:
        values = json.loads(file.read_text())
        assert values["title"] and "/" not in json.dumps(values.get("set", []))
