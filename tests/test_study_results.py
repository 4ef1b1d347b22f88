"""From runs to results.parquet to estimates to the report: the same numbers all the way."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from studies import SETS, finish, runs_of

from compress.errors import UserError
from compress.study import analysis, bootstrap, figures, published, report, results, tables

DEV = ("dev", "")


@pytest.fixture
def runs(tmp_path):
    """8 runs: rmc is better than vanilla out of distribution, clearly at 40 %, hardly at 60 %."""
    made = runs_of(tmp_path)
    for run in made:
        gain = {"imp40": 0.15, "imp60": 0.01}[run.compression] * (run.mitigation == "rmc")
        shift = 0.01 * (run.seed == 2)
        finish(
            run,
            {"dev": 0.88 + shift, "ood_sym1": 0.5 + gain, "ood_sym2": 0.6 + gain},
            {"dev": 0.9 + shift},
        )
    return made


@pytest.fixture
def task(runs):
    return analysis.tasks(results.collect(runs))[0]


def model(task, *name):
    return next(m for m in task.students if m.name == name)


# results.parquet


def test_rows_survive_the_file(runs, tmp_path):
    rows = results.collect(runs)
    results.save(rows, tmp_path / "results.parquet")
    back = results.load([tmp_path / "results.parquet"])
    assert len(back) == len(rows)
    for one, other in zip(rows, back, strict=True):
        assert {k: v for k, v in other.items() if v is not None} == {
            k: v for k, v in one.items() if v is not None
        }


def test_a_teacher_stands_once_for_each_seed(runs):
    rows = [row for row in results.collect(runs) if not row["subset"] and row["set"] == "dev"]
    assert sorted(row["seed"] for row in rows if row["role"] == "teacher") == [1, 2]
    assert sum(row["role"] == "student" for row in rows) == 8


def test_hits_are_those_of_the_run(runs):
    rows = results.collect(runs[:1])
    saved = np.load(runs[0].output_dir / "hits.npz")
    for row in rows:
        if not row["subset"]:
            assert np.array_equal(results.hits_of(row), saved[f"{row['role']}/{row['set']}"])
            assert row["accuracy"] == saved[f"{row['role']}/{row['set']}"].mean()


def test_files_of_several_machines_are_put_together(runs, tmp_path):
    for number, part in enumerate((runs[:4], runs[4:])):
        results.save(results.collect(part), tmp_path / f"{number}.parquet")
    both = results.load([tmp_path / "0.parquet", tmp_path / "1.parquet"])
    assert len(both) == len(results.collect(runs))
    with pytest.raises(UserError, match=r"0\.parquet: repeats fever-1-student-imp40-vanilla of"):
        results.load([tmp_path / "0.parquet", tmp_path / "0.parquet"])


def test_a_file_of_another_version_or_none_of_ours(tmp_path):
    file = tmp_path / "old.parquet"
    schema = results.SCHEMA.with_metadata({"version": "0"})
    pq.write_table(pa.Table.from_pylist([], schema=schema), file)
    with pytest.raises(UserError, match=r"old\.parquet: is a results file of version 0, .* version 1"):
        results.load([file])
    pq.write_table(pa.table({"x": [1]}), file)
    with pytest.raises(UserError, match="of version none"):
        results.load([file])
    file.write_text("no parquet")
    with pytest.raises(UserError, match="cannot be read as results of a study"):
        results.load([file])


def test_halves_and_subsets_are_cut_from_the_hits(runs):
    saved = np.load(runs[0].output_dir / "hits.npz")
    rows = {(r["role"], r["set"], r["subset"]): r for r in results.collect(runs[:1])}
    hard = saved["student/dev"][saved["hard"]]
    assert rows["student", "dev", "hard"]["accuracy"] == hard.mean()
    assert rows["student", "dev", "hard"]["samples"] == len(hard) == 100
    kind = saved["teacher/ood_sym1"][saved["subset/ood_sym1"] == "kind b, REFUTES"]
    assert np.array_equal(results.hits_of(rows["teacher", "ood_sym1", "kind b, REFUTES"]), kind)
    assert not any(name == "ood_sym2" and subset for _, name, subset in rows)


def test_runs_on_different_data_are_not_compared(runs):
    rows = results.collect(runs)
    rows[-1]["samples"] += 1
    with pytest.raises(UserError, match="different data cannot stand in one table"):
        analysis.tasks(rows)


def test_a_run_that_lacks_a_set_is_named(runs):
    rows = results.collect(runs)
    kept = [
        row for row in rows if (row["seed"], row["mitigation"], row["set"]) != (2, "rmc", "ood_sym2")
    ]
    with pytest.raises(UserError, match=r"fever-2-student-imp40-rmc was not evaluated on ood_sym2"):
        analysis.tasks(kept)


def test_a_run_with_another_teacher_is_named(runs):
    finish(runs[1], keys={"teacher": "another"})
    with pytest.raises(
        UserError, match=r"imp40-rmc-seed1: has another teacher than fever/imp40-vanilla"
    ):
        results.collect(runs)


@pytest.mark.parametrize("name", ["metrics.json", "hits.npz"])
def test_a_damaged_result_is_named(runs, name):
    (runs[0].output_dir / name).write_text("{")
    with pytest.raises(UserError, match=r"imp40-vanilla-seed1: its results cannot be read"):
        results.collect(runs)


# The bootstrap


def test_bootstrap_of_a_proportion_is_the_closed_form():
    """With one seed the standard error is sqrt(p (1 - p) / n), and the interval is normal."""
    n, p = 500, 0.8
    hits = np.arange(n) < n * p
    draws = bootstrap.draw({DEV: n}, 1, replicates=4000)
    values = bootstrap.accuracy(draws, DEV, {0: hits})
    error = np.sqrt(p * (1 - p) / n)
    assert values.std() == pytest.approx(error, rel=0.05)
    assert values.mean() == pytest.approx(p, abs=3 * error / np.sqrt(4000))
    low, high = bootstrap.interval(values)
    assert (low, high) == pytest.approx((p - 1.96 * error, p + 1.96 * error), abs=error * 0.2)


def test_bootstrap_over_seeds_is_the_closed_form():
    """Samples that all agree leave the seeds: the variance of the mean of S draws from them."""
    accuracies = [0.0, 1.0, 1.0, 0.0]
    draws = bootstrap.draw({DEV: 50}, 4, replicates=8000)
    hits = {seed: np.full(50, value, dtype=bool) for seed, value in enumerate(accuracies)}
    values = bootstrap.accuracy(draws, DEV, hits)
    assert values.var() == pytest.approx(np.var(accuracies) / 4, rel=0.06)


def test_paired_difference_of_equal_models_is_zero():
    hits = {0: np.random.default_rng(0).random(200) < 0.6}
    draws = bootstrap.draw({DEV: 200}, 1, replicates=50)
    values = bootstrap.accuracy(draws, DEV, hits) - bootstrap.accuracy(draws, DEV, dict(hits))
    assert not values.any()


def test_a_replicate_without_the_models_seed_is_unknown():
    draws = bootstrap.draw({DEV: 10}, 2, replicates=2000)
    values = bootstrap.accuracy(draws, DEV, {1: np.ones(10, dtype=bool)})
    assert np.isnan(values).mean() == pytest.approx(0.25, abs=0.04)  # seed 0 drawn twice
    assert np.isnan(bootstrap.interval(values)).all()
    assert bootstrap.interval(np.array([*[1.0] * 99, np.nan])) == (1.0, 1.0)
    assert np.isnan(bootstrap.interval(np.full(10, np.nan))).all()


def test_draws_repeat():
    first, second = (bootstrap.draw({("a", ""): 30, ("b", "x"): 20}, 3, replicates=5) for _ in range(2))
    assert np.array_equal(first.samples["b", "x"], second.samples["b", "x"])
    assert np.allclose(first.samples["a", ""].sum(axis=1), 1) and np.allclose(
        first.seeds.sum(axis=1), 1
    )


# Estimates


def test_estimates_are_those_of_the_accuracies(task):
    student, teacher = model(task, "imp40", "rmc"), task.teacher
    assert student.dev.value == pytest.approx((0.88 + 0.89) / 2, abs=0.002)
    assert student.dev.estimate().sd == pytest.approx(0.01 / np.sqrt(2), abs=0.002)
    pooled = (0.65 * 300 + 0.75 * 100) / 400
    assert student.ood.value == pytest.approx(pooled, abs=0.003)
    expected = (student.dev.value - student.ood.value) / student.dev.value
    assert student.delta.value == pytest.approx(expected)
    bias = student.f_bias(teacher)
    assert bias.value == pytest.approx(expected / teacher.delta.value)
    for seed, value in bias.by_seed.items():
        assert value == pytest.approx(student.delta.by_seed[seed] / teacher.delta.by_seed[seed])
    assert bias.estimate().low < bias.value < bias.estimate().high


def test_only_a_clear_difference_is_certain(task):
    clear, faint = (task.versus(model(task, c, "rmc")) for c in ("imp40", "imp60"))
    assert clear["ood"].certain and clear["f_bias"].certain and clear["f_bias"].value < 0
    assert clear["ood"].value == pytest.approx(0.15, abs=0.005)
    assert not faint["ood"].certain and not faint["f_bias"].certain and not clear["dev"].certain
    assert task.versus(model(task, "imp40", "vanilla")) == {}


def test_a_difference_is_over_the_seeds_that_both_have(runs):
    kept = [run for run in runs if not (run.mitigation == "vanilla" and run.seed == 2)]
    found = analysis.tasks(results.collect(kept))[0]
    ours = model(found, "imp40", "rmc")
    assert ours.seeds == [1, 2] and found.baseline(ours).seeds == [1]
    assert found.versus(ours)["dev"].value == pytest.approx(0.0, abs=1e-9)


def test_a_teacher_that_loses_nothing_gives_no_bias(tmp_path):
    made = runs_of(tmp_path)
    for run in made:
        finish(run, None, {"dev": 0.5, "ood_sym1": 0.6, "ood_sym2": 0.6})
    found = analysis.tasks(results.collect(made))[0]
    assert found.students[0].f_bias(found.teacher) is None
    assert "f_bias" not in found.versus(model(found, "imp40", "rmc"))
    assert tables.accuracies(found).rows[1][-1] == "-"


def test_collapse_is_marked(tmp_path):
    made = runs_of(tmp_path, compressions=["imp40"])
    for run in made:
        finish(run, {"dev": 0.85} if run.mitigation == "rmc" else None)
    finish(made[0], vanished=["REFUTES"])
    found = analysis.tasks(results.collect(made))[0]
    assert found.collapsed(model(found, "imp40", "rmc")) == ["dev more than 2 points below vanilla"]
    assert found.collapsed(model(found, "imp40", "vanilla")) == ["a class vanished"]
    for table in (tables.accuracies(found), tables.differences(found), tables.beside(found, "table4")):
        labels = [row[0] for row in table.rows if row[0] != "teacher"]
        assert labels and all(name.endswith(" ‡") for name in labels)
    assert "marked: a class vanished; dev more than 2" in tables.accuracies(found).caption


def test_one_collapsed_seed_is_enough(tmp_path):
    made = runs_of(tmp_path, compressions=["imp40"], seeds=[1, 2, 3])
    for run in made:
        finish(run, {"dev": 0.84} if run.mitigation == "rmc" and run.seed == 3 else None)
    found = analysis.tasks(results.collect(made))[0]
    words = found.collapsed(model(found, "imp40", "rmc"))
    assert words == ["dev more than 2 points below vanilla with a seed"]


# Tables, figures, report


def test_the_tables_say_what_the_rows_say(task, runs):
    rows = results.collect(runs)
    table = tables.accuracies(task)
    assert table.header[4:] == ["dev", "OOD pooled", "Delta", "F_bias"]
    draws = task.teacher.draws
    by_set = tables.by_set(task)
    assert by_set.header == ["model", "sym1", "sym2"]
    sets = {row[0]: row[1:] for row in by_set.rows}
    found = {row[0]: row for row in table.rows}
    assert list(found) == ["teacher", "imp40 vanilla", "imp40 rmc", "imp60 vanilla", "imp60 rmc"]
    deltas = {}
    for name, cells in found.items():
        compression, _, mitigation = name.rpartition(" ")
        for cell, key in zip([cells[4], *sets[name]], SETS, strict=True):
            own = [
                row["accuracy"]
                for row in rows
                if not row["subset"]
                and row["set"] == key
                and (row["compression"], row["mitigation"])
                == ((compression, mitigation) if compression else ("", ""))
            ]
            mean, sd = 100 * np.mean(own), 100 * np.std(own, ddof=1)
            assert cell.startswith(f"{mean:.1f} ± {sd:.1f} ["), (name, key)
        chosen = [
            r
            for r in rows
            if (r["compression"], r["mitigation"]) == (compression, mitigation if compression else "")
        ]
        parts = {
            key: np.mean(
                [r["accuracy"] for r in chosen if not r["subset"] and r["set"].startswith(key)], axis=0
            )
            for key in ("dev", "ood_sym1", "ood_sym2")
        }
        pooled = (300 * parts["ood_sym1"] + 100 * parts["ood_sym2"]) / 400
        delta = (parts["dev"] - pooled) / parts["dev"]
        assert cells[5].startswith(f"{100 * pooled:.1f} ±") and cells[6].startswith(f"{delta:.3f} ±")
        deltas[name] = delta
        hits = {
            n: results.hits_of(r)
            for n, r in enumerate(r for r in chosen if (r["set"], r["subset"]) == DEV)
        }
        interval = bootstrap.interval(bootstrap.accuracy(draws, DEV, hits))
        assert cells[4].endswith("[{:.1f}, {:.1f}]".format(*(100 * bound for bound in interval)))
    for name, cells in found.items():
        if name != "teacher":
            assert cells[7].startswith(f"{deltas[name] / deltas['teacher']:.2f} ±")
    assert found["imp40 rmc"][2:4] == ["1,000", "600"]


def test_bold_stands_where_the_interval_excludes_zero(task):
    assert tables.differences(task).header[1:] == [
        "dev",
        "OOD pooled",
        "Delta",
        "F_bias",
        "gap",
        "sym1",
        "sym2",
    ]
    for row in tables.differences(task).rows:
        for cell in row[1:]:
            low, high = map(float, re.search(r"\[(.*), (.*)\]", cell).groups())
            assert cell.startswith("**") == (low > 0 or high < 0)
    cells = {row[0]: row for row in tables.differences(task).rows}
    assert set(cells) == {"imp40 rmc", "imp60 rmc"}
    assert cells["imp40 rmc"][2].startswith("**+15.0**")


def test_published_numbers_stand_beside_ours(task):
    rows = {row[0]: row for row in tables.beside(task, "table4").rows}
    assert rows["teacher"][5:] == ["86.2", "61.7", "-"]
    assert rows["imp40 rmc"][5:] == ["86.1", "64.2", "0.897"]
    assert rows["imp40 vanilla"][7] == "1.051"
    assert not any(name.startswith("imp60") for name in rows), "the table is about 40 %"
    assert published.entry("table5", "fever", "layers_first_half", "rmc")[2] == 1.017
    assert published.entry("table1", "fever", "imp40", "vanilla")[2] == 1.051
    assert published.entry("table1", "fever", "imp40", "rmc") is None
    assert published.entry("table2", "mnli", "distilbert", "vanilla")[2] == 1.289
    assert published.entry("table3", "mnli", "heads20", "vanilla") == pytest.approx(
        (0.841, (0.555 + 0.537 + 0.553) / 3, (1.172 + 1.25 + 1.176) / 3)
    )
    assert published.entry("figure1", "mnli", "imp40", "vanilla") is None
    assert published.entry("table4", "synthetic", "imp40", "vanilla") is None
    assert published.easy_hard("mnli", "imp40", "rmc") == (90.3, 75.9, 14.4)
    assert published.easy_hard("mnli", "imp60", "rmc") is None


def test_teacher_at_chance_is_marked(tmp_path):
    made = runs_of(tmp_path)
    for run in made:
        finish(run, at_chance={"sym2": 0.5})
    found = analysis.tasks(results.collect(made))[0]
    table = tables.accuracies(found)
    assert tables.by_set(found).header[2] == "sym2 †" and "at chance on sym2" in table.caption
    assert table.rows[1][-1].endswith("†")
    assert tables.differences(found).rows[0][4].endswith("†")


def test_subsets_by_heuristic(task):
    table = tables.subsets(task)
    assert table.header[:3] == ["subset", "teacher", "imp40 vanilla"]
    assert [row[0] for row in table.rows] == [
        "sym1: kind a, REFUTES",
        "sym1: kind b, REFUTES",
        "sym1: kind b, SUPPORTS",
    ]
    own = [r for r in task.teacher.rows if r["subset"] == "kind b, SUPPORTS"]
    assert table.rows[2][1].startswith(f"{100 * np.mean([r['accuracy'] for r in own]):.1f} ±")


def test_figures_hold_their_data(task):
    drawn = figures.all_of(task)
    assert list(drawn) == ["figure1", "figure3"]
    for svg in drawn.values():
        assert "sparsity, %" in svg
    for found in (task.teacher, model(task, "imp40", "vanilla"), model(task, "imp60", "vanilla")):
        assert f">{100 * found.gap.value:.1f}<" in drawn["figure1"]
    assert ">vanilla<" in drawn["figure3"] and ">rmc<" in drawn["figure3"]


def test_lines_of_figure_3_are_the_estimates(task, monkeypatch):
    lines = {}
    plot = figures.matplotlib.axes.Axes.plot

    def record(axes, x, y, **style):
        lines.setdefault(style["label"], []).append((list(x), list(y)))
        return plot(axes, x, y, **style)

    monkeypatch.setattr(figures.matplotlib.axes.Axes, "plot", record)
    figures._bias("x", task, figures.by_sparsity(task))
    for loss in ("vanilla", "rmc"):
        models = [model(task, name, loss) for name in ("imp40", "imp60")]
        ood = [100 * m.ood.value for m in (task.teacher, *models)]
        bias = [1, *(m.f_bias(task.teacher).value for m in models)]
        assert [points for points, _ in lines[loss]] == [[0, 40.0, 60.0]] * 2
        assert lines[loss][0][1] == pytest.approx(ood) and lines[loss][1][1] == pytest.approx(bias)


def test_no_figure_with_one_sparsity(runs):
    kept = [run for run in runs if run.compression == "imp40"]
    assert figures.all_of(analysis.tasks(results.collect(kept))[0]) == {}


def test_the_report_is_the_tables(runs, tmp_path):
    rows = results.collect(runs)
    paths = report.write(
        tmp_path, rows, "Mine & <yours>", "table4", {"a/b": "no <luck>"}, "python -m x"
    )
    page, text = (path.read_text() for path in paths)
    assert "Mine &amp; &lt;yours&gt;" in page and "no &lt;luck&gt;" in page and "a/b: no <luck>" in text
    found = analysis.tasks(rows)[0]
    for table in tables.all_of(found, "table4"):
        assert table.markdown() in text
        for row in table.rows:
            for cell in row:
                html = cell.replace("**", "").replace("&", "&amp;")
                assert html in re.sub(r"</?strong>", "", page)
    assert (
        page.count("<svg") == 2
        and "src=" not in page
        and "http" not in page.replace("http://www.w3.org", "")
    )
    assert page.count("<strong>") == text.count("**") // 2 > 0
