"""The program of a study: what its words do, and what it says without a run. No training."""

import sys

import pytest
from studies import finish, runs_of, study_file

from compress.errors import UserError
from compress.study import __main__ as program
from compress.study import launch


def test_list_says_what_is_to_do_and_starts_nothing(tmp_path, capsys):
    file = study_file(tmp_path)
    finish(runs_of(tmp_path)[1])
    assert program.main([str(file), "--output_dir", str(tmp_path / "out"), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["fever/imp40-vanilla-seed1: to do", "fever/imp40-rmc-seed1: finished"]
    assert len(lines) == 9 and lines[-1] == "8 runs, 1 finished"


def test_shards_are_the_parts_of_a_study(tmp_path, capsys):
    words = [str(study_file(tmp_path)), "--output_dir", str(tmp_path / "out"), "--list"]
    told = []
    for shard in (["--shard", "1/2"], ["--shard", "2/2"], []):
        assert program.main([*words, *shard]) == 0
        told.append(capsys.readouterr().out.splitlines()[:-1])
    first, second, every = told
    assert len(first) == len(second) == 4 and sorted(first + second) == sorted(every)
    assert all("seed1" in line for line in first) and all("seed2" in line for line in second)


def test_an_ood_set_that_is_not_there_is_told_before_the_first_run(tmp_path, capsys):
    words = [str(study_file(tmp_path, set=[], tasks=["qqp", "mnli"])), "--output_dir", str(tmp_path)]
    assert program.main([*words, "--list"]) == 0
    told = capsys.readouterr()
    assert told.err.startswith("note: qqp ") and told.err.count("\n") == 1
    for fact in (" paws_qqp;", " ood_paws_qqp or dev_and_test ", "robust_compression.task.ood_dir"):
        assert fact in told.err
    assert told.out.startswith("qqp/imp40-vanilla-seed1: to do")
    (tmp_path / "ood/dev_and_test.tsv").touch()
    override = f"robust_compression.task.ood_dir={tmp_path / 'ood'}"
    assert program.main([*words, "--list", "--set", override]) == 0
    assert not capsys.readouterr().err


@pytest.mark.slow
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


def test_a_study_without_a_finished_run_says_so(tmp_path, monkeypatch, capsys):
    script = "raise SystemExit('error: no luck here')"
    monkeypatch.setattr(launch.Machine, "command", lambda *_: [sys.executable, "-c", script])
    words = [str(study_file(tmp_path, seeds=[1])), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(UserError, match="no run has finished"):
        program.main(words)
    told = capsys.readouterr().out
    assert told.count("failed: ") == 4
    assert "failed: fever/imp40-rmc-seed1: no luck here" in told


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--report", "x.parquet", "--shard", "1/1"], "leave out --shard."),
        (["--report", "x.parquet", "--list"], "leave out --list."),
        (["--report", "x.parquet", "--set", "a=1"], "leave out --set."),
        (["--report", "x.parquet", "--jobs", "1"], "leave out --jobs."),
        (["--report", "x.parquet", "--processes", "2"], "leave out --processes."),
        (
            ["--report", "x.parquet", "--launcher=--verbose", "--jobs", "3"],
            "leave out --jobs and --launcher.",
        ),
        (["--launcher", "'open"], "--launcher ''open': No closing quotation."),
        (["--launcher=--num_gpus two"], "invalid int value: 'two'."),
        (
            ["--launcher", "--hostfile hosts", "--processes", "2"],
            "--processes 2: --launcher '--hostfile hosts'",
        ),
        (["--launcher=-i localhost:1", "--processes", "1"], "--processes 1: --launcher '-i local"),
        (["--launcher=--num_accelerators=4", "--processes", "4"], "--processes 4: --launcher"),
        (["--jobs", "0"], "--jobs: must be at least 1"),
    ],
)
def test_words_that_do_not_go_together(tmp_path, monkeypatch, capsys, words, why):
    monkeypatch.setattr(launch, "execute", lambda *_: pytest.fail("a run was started"))
    with pytest.raises(SystemExit) as error:
        program.main([str(study_file(tmp_path)), "--output_dir", str(tmp_path / "out"), *words])
    assert error.value.code == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("launcher", "refused"),
    [
        ("--num_gpus 3", "train_batch_size is 32, but 3 ranks"),
        ("--num_accelerators=5 --num_nodes 1", "train_batch_size is 32, but 5 ranks"),
        ("--num_gpus 4", ""),
        ("--num_gpus 3 --hostfile hosts", ""),
        ("--include localhost:0,1,2", ""),
        ("--num_nodes 3", ""),
        ("--num_gpus 3 --num_nodes 2", ""),
    ],
)
def test_the_batch_is_split_among_the_processes_of_the_launcher(tmp_path, capsys, launcher, refused):
    words = [str(study_file(tmp_path)), "--output_dir", str(tmp_path / "out"), "--list"]
    if refused:
        with pytest.raises(UserError, match=refused):
            program.main([*words, f"--launcher={launcher}"])
    else:
        assert program.main([*words, f"--launcher={launcher}"]) == 0
    with pytest.raises(UserError, match="but 3 ranks"):
        program.main([*words, "--processes", "3", "--launcher=--bind_cores_to_rank"])


def test_a_number_of_the_launchers_words_is_that_of_processes(monkeypatch, tmp_path):
    """Of eight GPUs each of two runs has four of its own."""
    monkeypatch.setattr(launch.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    given = []

    def execute(runs, machine, logs):
        given.extend(machine.command(runs[0], slot)[3:6] for slot in range(2))
        return {}

    monkeypatch.setattr(launch, "execute", execute)
    words = [str(study_file(tmp_path)), "--output_dir", str(tmp_path / "out"), "--jobs", "2"]
    with pytest.raises(UserError, match="no run has finished"):
        program.main([*words, "--launcher=--num_gpus 4 --bind_cores_to_rank"])
    more = "--bind_cores_to_rank"
    assert given == [["--include", f"localhost:{gpus}", more] for gpus in ("0,1,2,3", "4,5,6,7")]


def test_an_interrupted_study_ends_as_an_interrupted_run(monkeypatch, tmp_path, capsys):
    """Not as one with a failed run."""

    def execute(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "execute", execute)
    words = [str(study_file(tmp_path)), "--output_dir", str(tmp_path / "out"), "--processes", "2"]
    monkeypatch.setattr(sys, "argv", ["study", *words])
    with pytest.raises(SystemExit) as ended:
        program.run()
    assert ended.value.code == 75
    assert capsys.readouterr().err.endswith("interrupted; the same command goes on where it stopped\n")


def test_an_output_directory_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("x")
    words = [str(study_file(tmp_path)), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"--output_dir: .* cannot be made"):
        program.main(words)
