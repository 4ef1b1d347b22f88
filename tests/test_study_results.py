"""From runs to results.parquet to estimates: the same numbers all the way."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from studies import ORIGIN, finish, finished_runs, model, runs_of

from compress.configuration import precision
from compress.errors import UserError
from compress.files import ownership
from compress.reporting import published_tables, study_tables
from compress.runtime import provenance
from compress.study import analysis, comparable, result_rows

OURS = "robust_compression"


@pytest.fixture
def runs(tmp_path):
    return finished_runs(tmp_path)


@pytest.fixture
def task(runs):
    return analysis.tasks(result_rows.collect(runs))[0]


# results.parquet


def test_rows_survive_the_file(runs, tmp_path):
    rows = result_rows.collect(runs)
    result_rows.save(rows, tmp_path / "results.parquet")
    back = result_rows.load([tmp_path / "results.parquet"])
    assert len(back) == len(rows)
    for one, other in zip(rows, back, strict=True):
        assert {k: v for k, v in other.items() if v is not None} == {
            k: v for k, v in one.items() if v is not None
        }


def test_a_teacher_stands_once_for_each_seed(runs):
    rows = [row for row in result_rows.collect(runs) if not row["subset"] and row["set"] == "dev"]
    assert sorted(row["seed"] for row in rows if row["role"] == "teacher") == [1, 2]
    assert sum(row["role"] == "student" for row in rows) == 8


def test_hits_are_those_of_the_run(runs):
    rows = result_rows.collect(runs[:1])
    saved = np.load(runs[0].output_dir / "hits.npz")
    for row in rows:
        if not row["subset"]:
            assert np.array_equal(result_rows.hits_of(row), saved[f"{row['role']}/{row['set']}"])
            assert row["accuracy"] == saved[f"{row['role']}/{row['set']}"].mean()


def test_files_of_several_machines_are_put_together(runs, tmp_path):
    for number, part in enumerate((runs[:4], runs[4:])):
        result_rows.save(result_rows.collect(part), tmp_path / f"{number}.parquet")
    both = result_rows.load([tmp_path / "0.parquet", tmp_path / "1.parquet"])
    assert len(both) == len(result_rows.collect(runs))
    with pytest.raises(UserError, match=r"0\.parquet: repeats fever-1-student-imp40-vanilla of"):
        result_rows.load([tmp_path / "0.parquet", tmp_path / "0.parquet"])


def test_files_with_different_teachers_are_not_put_together(runs, tmp_path):
    """Two students of one task and seed, from two files: either both have the same teacher, or none."""
    ours, theirs = (result_rows.collect([run]) for run in runs[:2])
    same = next(r for r in theirs if r["role"] == "teacher" and r["set"] == "ood_sym1")
    result_rows.save(ours, tmp_path / "0.parquet")
    result_rows.save(theirs, tmp_path / "1.parquet")
    assert result_rows.load([tmp_path / "0.parquet", tmp_path / "1.parquet"])
    same["hits"] = bytes([same["hits"][0] ^ 1]) + same["hits"][1:]
    result_rows.save(theirs, tmp_path / "1.parquet")
    with pytest.raises(UserError, match=r"1\.parquet: its ood_sym1 outcomes are not those of fever-1"):
        result_rows.load([tmp_path / "0.parquet", tmp_path / "1.parquet"])


def test_a_file_without_versions_is_read(runs, tmp_path):
    rows = result_rows.collect(runs)
    assert {row["versions"] for row in rows} == {provenance.packages(ORIGIN)}
    table = pa.Table.from_pylist(rows, schema=result_rows.SCHEMA)
    table = table.drop_columns(["versions", "metric", "answers", "settings"])
    pq.write_table(table.replace_schema_metadata({"version": "4"}), tmp_path / "old.parquet")
    unknown = {"versions": None, "settings": None}
    assert result_rows.load([tmp_path / "old.parquet"]) == [row | unknown for row in rows]


def test_a_file_of_another_version_or_none_of_ours(tmp_path):
    file = tmp_path / "old.parquet"
    schema = result_rows.SCHEMA.with_metadata({"version": "0"})
    pq.write_table(pa.Table.from_pylist([], schema=schema), file)
    with pytest.raises(UserError, match=r"old\.parquet: is a results file of version 0, .* version 7"):
        result_rows.load([file])
    pq.write_table(pa.table({"x": [1]}), file)
    with pytest.raises(UserError, match="of version none"):
        result_rows.load([file])
    file.write_text("no parquet")
    with pytest.raises(UserError, match="cannot be read as results of a study"):
        result_rows.load([file])


def test_halves_and_subsets_are_cut_from_the_hits(runs):
    saved = np.load(runs[0].output_dir / "hits.npz")
    rows = {(r["role"], r["set"], r["subset"]): r for r in result_rows.collect(runs[:1])}
    hard = saved["student/dev"][saved["hard"]]
    assert rows["student", "dev", "hard"]["accuracy"] == hard.mean()
    assert rows["student", "dev", "hard"]["samples"] == len(hard) == 100
    kind = saved["teacher/ood_sym1"][saved["subset/ood_sym1"] == "kind b, REFUTES"]
    assert np.array_equal(result_rows.hits_of(rows["teacher", "ood_sym1", "kind b, REFUTES"]), kind)
    assert not any(name == "ood_sym2" and subset for _, name, subset in rows)


@pytest.mark.parametrize("size", ["samples", "train_samples", "set_size"])
def test_runs_on_different_data_are_not_compared(runs, size):
    rows = result_rows.collect(runs)
    rows[-1][size] += 1
    with pytest.raises(UserError, match="different data cannot stand in one table"):
        analysis.tasks(rows)


def rows_with(folder, *values):
    """Rows of a study of two seeds with these settings."""
    made = runs_of(folder, compressions=["imp40"], set=[f"{OURS}.task.ood_dir={folder}/ood", *values])
    for run in made:
        finish(run)
    return result_rows.collect(made)


def of_two_machines(folder, one, other):
    """Seed 1 of a study with the settings `one`, seed 2 of one with the settings `other`."""
    both = rows_with(folder / "a", *one), rows_with(folder / "b", *other)
    files = []
    for seed, rows in enumerate(both, 1):
        files.append(folder / f"{seed}.parquet")
        result_rows.save([row for row in rows if row["seed"] == seed], files[-1])
    return result_rows.load(files)


def test_seeds_of_different_settings_are_not_averaged(tmp_path):
    rows = of_two_machines(tmp_path, [f"{OURS}.student.epochs=2"], [])
    with pytest.raises(
        UserError,
        match=r"^fever: imp40-vanilla has other settings, .* with seed 2 than with seed 1, so",
    ):
        analysis.tasks(rows)
    for row in rows:
        row["settings"] = row["settings"] if row["seed"] == 1 else None
    assert analysis.tasks(rows, 10), "an earlier version does not say"


def test_where_things_lie_and_how_sums_are_computed_are_no_settings(tmp_path):
    ours = [f"{OURS}.model=/models/minilm", f"{OURS}.task.data_dir=/data", f"{OURS}.cache_dir=/c"]
    theirs = [f"{OURS}.model=/srv/small", f"{OURS}.student.epochs=3", f"{OURS}.precision=fp32"]
    theirs += ["train_micro_batch_size_per_gpu=2", f"{OURS}.processes=3"]
    assert analysis.tasks(of_two_machines(tmp_path, ours, theirs), 10)


def test_a_precision_that_two_machines_chose_differently_is_no_common_setting(tmp_path):
    made = runs_of(tmp_path, compressions=["imp40"], set=[f"{OURS}.precision=auto"])
    for run in made:
        bf16, fp32 = precision.possible(run.config)
        chosen = bf16 if run.seed == 1 else fp32
        keys = {"teacher": f"of seed {run.seed}", "evaluate": ownership.figures_key(chosen)}
        finish(run, keys=keys)
    with pytest.raises(UserError, match=r"robust_compression\.precision for the whole study if"):
        analysis.tasks(result_rows.collect(made))


def test_a_run_that_lacks_a_set_is_named(runs):
    rows = result_rows.collect(runs)
    kept = [
        row for row in rows if (row["seed"], row["mitigation"], row["set"]) != (2, "rmc", "ood_sym2")
    ]
    with pytest.raises(UserError, match=r"fever-2-student-imp40-rmc was not evaluated on ood_sym2"):
        analysis.tasks(kept)


def test_results_without_any_row_or_without_dev_are_an_error(runs, tmp_path):
    result_rows.save([], tmp_path / "empty.parquet")
    with pytest.raises(UserError, match="the results hold no row"):
        comparable.with_teacher(result_rows.load([tmp_path / "empty.parquet"]))
    rows = result_rows.collect(runs)
    for kept in ([row for row in rows if row["set"] != "dev"], [row for row in rows if row["subset"]]):
        with pytest.raises(UserError, match=r"^fever: the results have no figures on dev"):
            analysis.tasks(comparable.with_teacher(kept)[0])


def test_a_run_with_another_teacher_is_named(runs):
    finish(runs[1], keys={"teacher": "another"})
    with pytest.raises(
        UserError, match=r"imp40-rmc-seed1: has another teacher than fever/imp40-vanilla"
    ):
        result_rows.collect(runs)


def test_a_run_with_another_difficulty_is_named(runs):
    """Agreement and AUROC stand once for each task and seed, so they must be those of all its runs."""
    finish(runs[1], keys={"teacher": "teacher of seed 1", "difficulty": "another"})
    with pytest.raises(
        UserError, match=r"imp40-rmc-seed1: has another difficulty than fever/imp40-van"
    ):
        result_rows.collect(runs)


def test_a_run_whose_teacher_was_made_again_is_named(runs):
    """Its key is the same, what it gets right is not."""
    finish(runs[3], teacher={"dev": 0.9, "ood_sym1": 0.5})
    with pytest.raises(
        UserError,
        match=r"imp60-rmc-seed1: its teacher's ood_sym1 outcomes are not those of fever/imp40-vanilla-"
        r"seed1, .*; delete metrics.json of every run of fever with seed 1 and run the study again\.$",
    ):
        result_rows.collect(runs)


def test_a_run_without_a_difficulty_stands_beside_those_with_one(runs):
    """What the difficulty tells comes from a run that has it."""
    nothing = {"easy_hard": {"agreement": None}, "difficulty": None, "seconds": {"teacher": 1.0}}
    keys = {"teacher": "teacher of seed 1"}
    finish(runs[0], keys=keys, **nothing | {"seconds": {"teacher": 10.0, "student": 5.0}})
    rows = result_rows.collect(runs)
    teacher = [row for row in rows if row["role"] == "teacher" and row["seed"] == 1]
    assert {row["agreement"] for row in teacher} == {0.8}
    assert {row["difficulty_seconds"] for row in teacher} == {100.0}
    first = next(row for row in rows if row["role"] == "student")
    assert first["agreement"] is None and first["difficulty_seconds"] is None


def test_seconds_of_a_run_stand_where_they_belong(runs):
    rows = [row for row in result_rows.collect(runs) if (row["set"], row["subset"]) == ("dev", "")]
    for row in rows:
        of_student = (4.0 + row["seed"], 2.0 * row["seed"])
        expected = of_student if row["role"] == "student" else (10.0 * row["seed"], None)
        assert (row["seconds"], row["evaluation_seconds"]) == expected
        assert row["difficulty_seconds"] == 100.0


@pytest.mark.parametrize("name", ["metrics.json", "hits.npz"])
def test_a_damaged_result_is_named(runs, name):
    (runs[0].output_dir / name).write_text("{")
    with pytest.raises(UserError, match=r"imp40-vanilla-seed1: its results cannot be read"):
        result_rows.collect(runs)


# Estimates


def test_estimates_are_those_of_the_accuracies(task):
    student, teacher = model(task, "imp40", "rmc"), task.teacher
    assert student.dev.value == pytest.approx((0.88 + 0.89) / 2, abs=0.002)
    assert student.dev.estimate().sd == pytest.approx(0.01 / np.sqrt(2), abs=0.002)
    pooled = (0.65 * 300 + 0.75 * 100) / 400
    assert student.pool().value == pytest.approx(pooled, abs=0.003)
    expected = (student.dev.value - student.pool().value) / student.dev.value
    assert student.delta().value == pytest.approx(expected)
    bias = student.f_bias(teacher)
    assert bias.value == pytest.approx(expected / teacher.delta().value)
    for seed, value in bias.by_seed.items():
        assert value == pytest.approx(student.delta().by_seed[seed] / teacher.delta().by_seed[seed])
    assert bias.estimate().low < bias.value < bias.estimate().high


def test_only_a_clear_difference_is_certain(task):
    clear, faint = (task.versus(model(task, c, "rmc")) for c in ("imp40", "imp60"))
    assert clear["ood"].certain and clear["f_bias"].certain and clear["f_bias"].value < 0
    assert clear["ood"].value == pytest.approx(0.15, abs=0.005)
    assert not faint["ood"].certain and not faint["f_bias"].certain and not clear["dev"].certain
    assert task.versus(model(task, "imp40", "vanilla")) == {}


@pytest.mark.slow
def test_a_difference_is_over_the_seeds_that_both_have(runs):
    kept = [run for run in runs if not (run.mitigation == "vanilla" and run.seed == 2)]
    found = analysis.tasks(result_rows.collect(kept))[0]
    ours = model(found, "imp40", "rmc")
    assert ours.seeds == [1, 2] and found.baseline(ours).seeds == [1]
    assert found.versus(ours)["dev"].value == pytest.approx(0.0, abs=1e-9)


@pytest.mark.slow
def test_a_teacher_that_loses_nothing_gives_no_bias(tmp_path):
    made = runs_of(tmp_path)
    for run in made:
        finish(run, None, {"dev": 0.5, "ood_sym1": 0.6, "ood_sym2": 0.6})
    found = analysis.tasks(result_rows.collect(made))[0]
    assert found.students[0].f_bias(found.teacher) is None
    assert "f_bias" not in found.versus(model(found, "imp40", "rmc"))
    assert study_tables.accuracies(found).rows[1][-1] == "n/a"
    assert study_tables.differences(found).rows[0][5] == "n/a"
    assert "F_bias is n/a: the teacher is no worse on OOD" in study_tables.accuracies(found).caption


@pytest.mark.slow
def test_collapse_is_marked(tmp_path):
    made = runs_of(tmp_path, compressions=["imp40"])
    for run in made:
        finish(run, {"dev": 0.85} if run.mitigation == "rmc" else None)
    finish(made[0], vanished=["REFUTES"])
    found = analysis.tasks(result_rows.collect(made))[0]
    assert found.collapsed(model(found, "imp40", "rmc")) == ["dev more than 2 points below vanilla"]
    assert found.collapsed(model(found, "imp40", "vanilla")) == ["a class vanished"]
    for table in (
        study_tables.accuracies(found),
        study_tables.differences(found),
        published_tables.pooled(found, "table4"),
    ):
        labels = [row[0] for row in table.rows if row[0] != "teacher"]
        assert labels and all(name.endswith(" ‡") for name in labels)
    assert "marked: a class vanished; dev more than 2" in study_tables.accuracies(found).caption


@pytest.mark.slow
def test_without_vanilla_dev_is_held_against_the_teacher(tmp_path):
    """imp40 lacks vanilla at seed 3, where rmc is lost; imp60 lacks it altogether, and rmc is lost."""
    made = runs_of(tmp_path, seeds=[1, 2, 3])
    kept = [
        run
        for run in made
        if run.mitigation == "rmc" or (run.compression, run.seed) in {("imp40", 1), ("imp40", 2)}
    ]
    for run in kept:
        lost = run.mitigation == "rmc" and (run.compression == "imp60" or run.seed == 3)
        finish(run, {"dev": 0.87} if lost else {"dev": 0.895})
    found = analysis.tasks(result_rows.collect(kept))[0]
    below = "dev more than 2 points below the teacher"
    assert found.collapsed(model(found, "imp40", "rmc")) == [f"{below} with a seed"]
    assert found.collapsed(model(found, "imp60", "rmc")) == [below]
    assert found.collapsed(model(found, "imp40", "vanilla")) == []
    caption = study_tables.accuracies(found).caption
    assert f"marked: {below}; {below} with a seed." in caption
    assert "no such vanilla (imp40 rmc with seed 3, imp60 rmc), with the teacher." in caption


@pytest.mark.slow
def test_vanilla_itself_is_held_against_the_teacher(tmp_path):
    """One of two points exactly is not marked, nor is what stays close to a vanilla that is."""
    made = runs_of(tmp_path)
    for run in made:
        finish(run, {"dev": {"imp40": 0.8775, "imp60": 0.88}[run.compression]})
    found = analysis.tasks(result_rows.collect(made))[0]
    words = {model.name: found.collapsed(model) for model in found.students}
    below = ["dev more than 2 points below the teacher"]
    assert {name for name, why in words.items() if why} == {("imp40", "vanilla")}
    assert words["imp40", "vanilla"] == below
    caption = study_tables.accuracies(found).caption
    assert "vanilla itself, and what has no such vanilla, with the teacher." in caption
    for run in made:
        finish(run, {"dev": 0.88})
    assert "‡" not in study_tables.accuracies(analysis.tasks(result_rows.collect(made))[0]).caption


def test_one_collapsed_seed_is_enough(tmp_path):
    made = runs_of(tmp_path, compressions=["imp40"], seeds=[1, 2, 3])
    for run in made:
        finish(run, {"dev": 0.84} if run.mitigation == "rmc" and run.seed == 3 else None)
    found = analysis.tasks(result_rows.collect(made))[0]
    words = found.collapsed(model(found, "imp40", "rmc"))
    assert words == ["dev more than 2 points below vanilla with a seed"]
