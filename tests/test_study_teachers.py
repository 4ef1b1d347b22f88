"""Studies whose mitigations choose the teacher's loss too: two teachers of a seed. No training."""

import json

import pytest
from studies import finish, model, runs_of, study_file

from compress.errors import UserError
from compress.reporting import study_tables
from compress.study import __main__ as study
from compress.study import analysis, comparable, plan, result_rows, run_order

POE = {"hook": "poe", "bias": "partial"}
DEBIASED = {"robust_compression": {"teacher": {"loss": POE}, "loss": POE}}


@pytest.fixture
def runs(tmp_path):
    """Of two seeds vanilla, a mitigation that trains its teacher, and `poe` with the plain teacher."""
    return expanded(tmp_path)


def expanded(folder, own=DEBIASED, **changes):
    (folder / "debiased.json").write_text(json.dumps(own))
    mitigations = [str(folder / "debiased.json"), "vanilla", "poe_partial"]
    return runs_of(folder, compressions=["imp40"], mitigations=mitigations, **changes)


def finished(runs):
    for run in runs:
        key = {"teacher": f"{run.teacher or 'plain'} of seed {run.seed}"}
        better = 0.05 if run.teacher else 0.0
        students = {"ood_sym1": 0.5 + 2 * better, "ood_sym2": 0.6 + 2 * better}
        finish(run, students, {"ood_sym1": 0.6 + better}, keys=key)
    return result_rows.collect(runs)


def test_a_teacher_goes_by_its_loss(runs):
    assert {run.mitigation: run.teacher for run in runs} == {
        "debiased": "poe bias=partial",
        "vanilla": "",
        "poe_partial": "",
    }


def test_a_teachers_loss_is_written_as_in_json(tmp_path):
    loss = {"hook": "poe", "calibrate": False, "plain_weight": 0.5}
    first, *_ = expanded(tmp_path, {"robust_compression": {"teacher": {"loss": loss}, "loss": POE}})
    assert first.teacher == "poe calibrate=false plain_weight=0.5"


def test_the_teachers_loss_may_differ_and_nothing_else_of_a_teacher(runs, tmp_path):
    plan.check(runs, 2)
    own = {"robust_compression": {**DEBIASED["robust_compression"], "epochs": 9}}
    with pytest.raises(UserError, match=r"'robust_compression\.epochs' is not that of .*debiased-"):
        plan.check(expanded(tmp_path, own), 2)


def test_runs_of_either_teacher_wait_for_one_of_their_own(runs):
    first = run_order.pioneers(runs)
    assert sorted(name.split("/")[1] for name in first) == [
        f"imp40-{name}-seed{seed}" for name in ("debiased", "vanilla") for seed in (1, 2)
    ]
    parts = [run_order.shard(runs, f"{number}/2") for number in (1, 2)]
    assert [{run.seed for run in part} for part in parts] == [{1}, {2}]
    assert sorted(run.name for part in parts for run in part) == sorted(run.name for run in runs)


def test_each_teacher_stands_once_and_all_are_compared_with_the_plain_one(runs):
    """Though the runs of the other come first in the study."""
    rows = finished(runs)
    dev = [
        row for row in rows if row["role"] == "teacher" and (row["set"], row["subset"]) == ("dev", "")
    ]
    assert sorted((row["seed"], row["compression"], row["mitigation"]) for row in dev) == [
        (seed, *name)
        for seed in (1, 2)
        for name in (("", ""), (result_rows.TEACHER, "poe bias=partial"))
    ]
    [task] = analysis.tasks(rows)
    assert task.teacher.name == ("", "") and task.models[:2] == [task.teacher, *task.others]
    ood = (0.6 * 300 + 0.7 * 100) / 400
    assert task.teacher.pool().value == pytest.approx(ood)
    assert task.others[0].pool().value == pytest.approx((0.65 * 300 + 0.7 * 100) / 400)
    student = model(task, "imp40", "debiased")
    own, plain = (0.88 - (0.6 * 300 + 0.7 * 100) / 400) / 0.88, (0.9 - ood) / 0.9
    assert student.f_bias(task.teacher).value == pytest.approx(own / plain)
    assert task.versus(student)["ood"].value == pytest.approx(0.1)


def test_the_tables_name_each_teacher_and_say_what_all_are_compared_with(runs):
    [task] = analysis.tasks(finished(runs))
    table = study_tables.accuracies(task)
    labels = [row[0].removesuffix(" ‡") for row in table.rows]
    assert labels == [
        "teacher",
        "teacher poe bias=partial",
        "imp40 debiased",
        "imp40 vanilla",
        "imp40 poe_partial",
    ]
    assert "All are compared with the first teacher, those that have another one too." in table.caption
    row = dict(zip(table.header, table.rows[1], strict=True))
    assert row["F_bias"] != "-" != row["Delta - teacher"]
    same = analysis.tasks(
        [r for r in finished(runs) if r["mitigation"] in ("", "vanilla", "poe_partial")]
    )
    assert "another one too" not in study_tables.accuracies(same[0]).caption


def test_seconds_count_each_teacher_and_the_difficulty_that_they_share(runs):
    """As `finish` has them, by seed: 10 for a teacher, 4 + 3 for a student; 100 for a difficulty."""
    caption = study_tables.costs(analysis.tasks(finished(runs))).caption
    wanted = sum(2 * 10 * seed + 100 + 3 * (4 + 3 * seed) for seed in (1, 2))
    assert f"evaluations of 6 runs took {wanted:,} seconds: each teacher" in caption


def test_one_debiased_teacher_for_all_is_what_they_are_compared_with(runs):
    [task] = analysis.tasks(finished([run for run in runs if run.teacher]))
    assert task.others == [] and study_tables.label(task.teacher) == "teacher poe bias=partial"


def test_another_teacher_of_the_same_loss_is_an_error(runs):
    finished(runs)
    finish(runs[2], keys={"teacher": "another"})
    with pytest.raises(UserError, match=r"has another teacher than fever/imp40-vanilla-seed1"):
        result_rows.collect(runs)


def with_difficulty(run, seconds, **changes):
    """A finished run whose difficulty took so long; None: it has none."""
    of_run = {"teacher": 10.0, "student": 1.0, "evaluate": 2.0}
    key = {"teacher": f"{run.teacher or 'plain'} of seed {run.seed}"}
    if seconds is not None:
        of_run["difficulty"] = seconds
        key["difficulty"] = f"of {seconds}"
    auroc = {"difficulty": None if seconds is None else {"auroc": 0.8, "alpha": 0.3}}
    agreement = {"easy_hard": {"agreement": None if seconds is None else 0.7}}
    finish(run, seconds=of_run, keys=key, **auroc, **agreement, **changes)


@pytest.mark.parametrize(
    ("plain", "own", "counted"),
    [(100.0, 100.0, 100), (100.0, 40.0, 140), (100.0, None, 100), (None, 40.0, 40), (None, None, 0)],
)
def test_a_difficulty_that_teachers_share_counts_once(tmp_path, plain, own, counted):
    """It is one unless it starts from the teacher; a run may have none because it needs none."""
    runs = expanded(tmp_path, seeds=[1])
    for run in runs:
        with_difficulty(run, own if run.teacher else plain)
    found = analysis.tasks(result_rows.collect(runs))
    table = study_tables.costs(found)
    assert f"evaluations of 3 runs took {2 * 10 + 3 * (1 + 2) + counted:,} seconds" in table.caption
    assert [row[1] for row in table.rows].count("difficulty") == (counted > 0)
    said = study_tables.accuracies(found[0]).caption, study_tables.easy_hard(found[0]).caption
    assert ["AUROC of the variance" in said[0], "agrees with this cut on 70" in said[1]] == [
        counted > 0
    ] * 2


def test_the_marks_of_another_teacher_are_explained(tmp_path):
    """Of seed 2 alone there is an F_bias: the plain teacher of seed 1 loses nothing."""
    runs = expanded(tmp_path)
    for run in runs:
        key = {"teacher": f"{run.teacher or 'plain'} of seed {run.seed}"}
        even = {"ood_sym1": 0.9, "ood_sym2": 0.9} if run.seed == 1 else {}
        finish(run, {"dev": 0.9}, {"dev": 0.8 if run.teacher else 0.9, **even}, keys=key)
    rows = [
        row
        for row in result_rows.collect(runs)
        if row["seed"] == 1 or row["compression"] != result_rows.TEACHER
    ]
    [task] = analysis.tasks(rows)
    table = study_tables.accuracies(task)
    marked = dict(zip(table.header, table.rows[1], strict=True))
    assert (marked["model"], marked["F_bias"]) == ("teacher poe bias=partial ‡", "n/a")
    assert "marked: dev more than 2 points below the teacher." in table.caption
    assert "F_bias of teacher poe bias=partial is n/a: the teacher is" in table.caption


def test_a_seed_without_the_plain_teacher_is_left_out_of_the_report(runs, tmp_path, capsys):
    """Its run with the plain teacher may have failed; the other seeds are reported all the same."""
    lacking = [
        row
        for row in finished(runs)
        if row["seed"] == 1 or row["mitigation"] in ("debiased", "poe bias=partial")
    ]
    result_rows.save(lacking, tmp_path / "lacking.parquet")
    place = ["--output_dir", str(tmp_path / "report"), "--report", str(tmp_path / "lacking.parquet")]
    assert study.main([str(study_file(tmp_path)), *place]) == 0
    why = "no run of seed 2 has finished with the teacher that all are compared with"
    said, name = capsys.readouterr().out, "fever/imp40-debiased-seed2"
    assert f"left out of the report: {name}: {why}\n" in said and said.count("left out") == 1
    text, page = ((tmp_path / "report" / name).read_text() for name in ("report.md", "report.html"))
    assert f"## Runs left out\n\n* {name}: {why}\n" in text
    assert f"<li>{name} is left out: {why}</li>" in page
    seeds = [line.split("|")[2].strip() for line in text.splitlines() if line.startswith("| imp40 deb")]
    assert seeds[0] == "1"
    assert len(result_rows.load([tmp_path / "report" / "results.parquet"])) == len(lacking)


def test_results_without_a_teacher_are_an_error(runs):
    students = [row for row in finished(runs) if row["role"] == "student"]
    with pytest.raises(UserError, match=r"^fever: the results have no teacher"):
        comparable.with_teacher(students)


def test_without_a_plain_teacher_all_seeds_of_the_first_other_stay(runs):
    rows = finished([run for run in runs if run.teacher])
    assert comparable.with_teacher(rows) == (rows, {})
