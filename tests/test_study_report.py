"""Tables, figures and report of a study say what its results say."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from studies import DEV, SETS, finish, finished_runs, halves, model, runs_of

from compress.reporting import published_tables, study_figures, study_report, study_tables
from compress.reporting.tables import Table
from compress.scoring import bootstrap
from compress.study import analysis, result_rows

pytestmark = pytest.mark.slow


@pytest.fixture
def runs(tmp_path):
    return finished_runs(tmp_path)


@pytest.fixture
def task(runs):
    return analysis.tasks(result_rows.collect(runs))[0]


def test_the_tables_say_what_the_rows_say(task, runs):
    rows = result_rows.collect(runs)
    table = study_tables.accuracies(task)
    assert table.header[2:] == ["dev", "OOD pooled", "Delta", "Delta - teacher", "F_bias"]
    draws = task.teacher.draws
    by_set = study_tables.by_set(task)
    assert by_set.header == ["model", "sym1", "sym2"]
    sets = {row[0]: row[1:] for row in by_set.rows}
    found = {row[0]: row for row in table.rows}
    assert list(found) == ["teacher", "imp40 vanilla", "imp40 rmc", "imp60 vanilla", "imp60 rmc"]
    deltas = {}
    for name, cells in found.items():
        compression, _, mitigation = name.rpartition(" ")
        for cell, key in zip([cells[2], *sets[name]], SETS, strict=True):
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
        assert cells[3].startswith(f"{100 * pooled:.1f} ±") and cells[4].startswith(f"{delta:.3f} ±")
        deltas[name] = delta
        hits = {
            n: result_rows.hits_of(r)
            for n, r in enumerate(r for r in chosen if (r["set"], r["subset"]) == DEV)
        }
        interval = bootstrap.interval(bootstrap.accuracy(draws, DEV, hits))
        assert cells[2].endswith("[{:.1f}, {:.1f}]".format(*(100 * bound for bound in interval)))
    for name, cells in found.items():
        if name != "teacher":
            apart = cells[5].replace("**", "")
            assert apart.startswith(f"{deltas[name] - deltas['teacher']:+.3f} ±")
            assert cells[6].startswith(f"{deltas[name] / deltas['teacher']:.2f} ±")


def test_the_first_caption_says_how_many_samples(task):
    sizes = "(5,000 training samples; dev 400, sym1 300, sym2 100)"
    assert study_tables.accuracies(task).caption.startswith(f"fever {sizes}: accuracies in percent")


def test_how_well_both_difficulties_find_the_known_truth(tmp_path):
    made = runs_of(tmp_path)
    for run in made:
        found = {"auroc": 0.9 + 0.02 * run.seed, "alpha": 0.3}
        shallow = {"shallow_auroc": 0.97 + 0.01 * run.seed} if run.mitigation == "rmc" else {}
        finish(run, difficulty=found | shallow)
    caption = study_tables.accuracies(analysis.tasks(result_rows.collect(made))[0]).caption
    assert "AUROC of the variance against the known truth: 93.0 ± 1.4 %." in caption
    assert "Of the shallow classifier's error: 98.5 ± 0.7 %." in caption


def test_a_set_scored_in_part_pools_as_the_whole_and_the_caption_says_so(tmp_path):
    made = runs_of(tmp_path)
    for run in made:
        finish(run, {"dev": 0.88, "ood_sym1": 0.5, "ood_sym2": 0.8}, wholes={**SETS, "ood_sym2": 2700})
    found = analysis.tasks(result_rows.collect(made))[0]
    assert "dev 400, sym1 300, sym2 100 of 2,700)" in study_tables.accuracies(found).caption
    cells = next(row for row in study_tables.accuracies(found).rows if row[0] == "imp40 vanilla")
    assert cells[3].startswith("77.0 ±"), "0.1 of sym1 and 0.9 of sym2"


def test_bold_stands_where_the_interval_excludes_zero(task):
    assert study_tables.differences(task).header[1:] == [
        "seeds",
        "dev",
        "OOD pooled",
        "Delta",
        "F_bias",
        "gap",
        "sym1",
        "sym2",
    ]
    for row in study_tables.differences(task).rows:
        for cell in row[2:]:
            low, high = map(float, re.search(r"\[(.*), (.*)\]", cell).groups())
            assert cell.startswith("**") == (low > 0 or high < 0)
    cells = {row[0]: row for row in study_tables.differences(task).rows}
    assert set(cells) == {"imp40 rmc", "imp60 rmc"}
    assert cells["imp40 rmc"][1] == "2" and cells["imp40 rmc"][3].startswith("**+15.0** ± ")


def test_one_seed_that_is_left_is_said_and_never_bold(runs):
    """rmc lacks seed 2: its intervals are over the samples alone. Its vanilla has both seeds."""
    kept = [run for run in runs if run.mitigation == "vanilla" or run.seed == 1]
    for run in kept:
        known = json.loads((run.output_dir / "metrics.json").read_text())
        known["at_chance"] = {"sym2": 0.5}
        (run.output_dir / "metrics.json").write_text(json.dumps(known))
    said = "Where there is one seed, intervals are over samples only, and no difference is bold."
    found = analysis.tasks(result_rows.collect(kept), 300)[0]
    assert found.versus(model(found, "imp40", "rmc"))["ood"].certain
    for make in (study_tables.accuracies, study_tables.differences, study_tables.above_chance):
        table = make(found)
        assert table.caption.count(said) == 1
        assert not any(
            "**" in cell for row in table.rows if row[0].startswith("imp40 rmc") for cell in row
        )
    other = [run for run in runs if run.mitigation == "rmc" or run.seed == 1]
    found = analysis.tasks(result_rows.collect(other), 300)[0]
    assert said in study_tables.differences(found).caption, "vanilla lacks a seed"
    alone = analysis.tasks(result_rows.collect([run for run in runs if run.seed == 1]), 300)[0]
    table = study_tables.differences(alone)
    assert table.caption.endswith("Where there is one seed, intervals are over samples only.")
    assert any("**" in cell for row in table.rows for cell in row)
    both = analysis.tasks(result_rows.collect(runs), 300)[0]
    assert not any("over samples only" in table.caption for table in study_tables.all_of(both))


def test_differences_are_those_of_the_rows(task, runs):
    """Recomputed from accuracies: the mean and the standard deviation over seeds of each difference."""
    rows = {
        (r["mitigation"], r["seed"], r["set"]): r["accuracy"]
        for r in result_rows.collect(runs)
        if r["compression"] in ("", "imp40") and not r["subset"]
    }

    def pooled(loss, seed):
        return (300 * rows[loss, seed, "ood_sym1"] + 100 * rows[loss, seed, "ood_sym2"]) / 400

    gains = [100 * (pooled("rmc", s) - pooled("vanilla", s)) for s in (1, 2)]
    ours, theirs, base = (
        1 - np.mean([pooled(loss, s) for s in (1, 2)]) / np.mean([rows[loss, s, "dev"] for s in (1, 2)])
        for loss in ("rmc", "vanilla", "")
    )
    cells = next(row for row in study_tables.differences(task).rows if row[0] == "imp40 rmc")
    told = cells[3].replace("**", "")
    assert told.startswith(f"{np.mean(gains):+.1f} ± {np.std(gains, ddof=1):.1f} [")
    assert cells[4].replace("**", "").startswith(f"{ours - theirs:+.3f} ±")
    assert cells[5].replace("**", "").startswith(f"{(ours - theirs) / base:+.2f} ±")


def test_teacher_at_chance_is_marked(tmp_path):
    made = runs_of(tmp_path)
    for run in made:
        finish(run, at_chance={"sym2": 0.5})
    found = analysis.tasks(result_rows.collect(made))[0]
    table = study_tables.accuracies(found)
    assert study_tables.by_set(found).header[2] == "sym2 †"
    assert "not clearly above the majority class on sym2" in table.caption
    assert table.rows[1][-1].endswith("†")
    row = next(row for row in study_tables.differences(found).rows if row[0] == "imp40 rmc")
    assert row[5].endswith("†") and "**" not in row[5], "it says nothing, so it is not bold"


def test_sets_above_chance_are_judged_by_themselves(tmp_path):
    made = runs_of(tmp_path)
    for run in made:
        better = {"dev": 0.89, "ood_sym1": 0.58} if run.mitigation == "rmc" else None
        finish(run, better, at_chance={"sym2": 0.5})
    found = analysis.tasks(result_rows.collect(made))[0]
    table = study_tables.above_chance(found)
    assert "above chance (sym1)" in table.caption
    assert table.header[1:6] == ["dev", "OOD", "Delta", "Delta - teacher", "F_bias"]
    assert table.header[6:] == [f"{name} - vanilla" for name in ("dev", "OOD", "Delta", "F_bias")]
    rows = {row[0]: [cell.replace("**", "").split(" ")[0] for cell in row[1:]] for row in table.rows}
    base = (0.9 - 0.6) / 0.9
    vanilla, rmc = (0.88 - 0.5) / 0.88, (0.89 - 0.58) / 0.89
    assert rows["teacher"] == ["90.0", "60.0", f"{base:.3f}", *"------"]
    assert rows["imp40 vanilla"] == [
        *("88.0", "50.0", f"{vanilla:.3f}", f"{vanilla - base:+.3f}", f"{vanilla / base:.2f}"),
        *"----",
    ]
    assert rows["imp40 rmc"] == [
        *("89.0", "58.0", f"{rmc:.3f}", f"{rmc - base:+.3f}", f"{rmc / base:.2f}"),
        *("+1.0", "+8.0", f"{rmc - vanilla:+.3f}", f"{(rmc - vanilla) / base:+.2f}"),
    ]
    assert study_tables.accuracies(found) in study_tables.all_of(
        found
    ) and table in study_tables.all_of(found)


def test_no_such_table_where_all_or_none_are_above_chance(task, tmp_path):
    assert not study_tables.above_chance(task).rows
    made = runs_of(tmp_path / "other")
    for run in made:
        finish(run, at_chance={"sym1": 0.5, "sym2": 0.5})
    found = analysis.tasks(result_rows.collect(made))[0]
    assert not study_tables.above_chance(found).rows
    assert "(teacher not clearly above the majority class)" in study_figures.all_of(found)["figure3"]


def test_sizes_seconds_and_alpha_of_the_losses_that_have_one(task):
    table = study_tables.costs([task, task])
    rows = {row[1]: row for row in table.rows}
    assert table.header[2:4] == ["parameters", "non-zero"]
    assert table.header[4:] == ["training", "evaluation", "alpha", "device"]
    assert rows["imp40 rmc"][2:] == ["1,000", "600", "6", "3", "0.3", "cpu"], (
        "means of 5 and 6, rounded to even, 2 and 4"
    )
    assert rows["teacher"][2:] == ["1,000", "1,000", "15", "-", "-", "cpu"]
    assert rows["imp40 vanilla"][6] == "-" and rows["difficulty"][2:6] == ["-", "-", "100", "-"]
    once = 10 + 20 + 2 * 100 + 4 * (5 + 6) + 4 * (2 + 4)
    assert f"evaluations of 16 runs took {2 * once} seconds: each teacher and diff" in table.caption
    assert "a bias or first model with every model that uses it; students of" in table.caption


def test_easy_and_hard_are_those_of_the_hits(tmp_path):
    made = runs_of(tmp_path, tasks=["mnli"])
    for run in made:
        agreement = {1: 0.8, 2: 0.9}[run.seed]
        finish(run, sizes={"dev": 400, "ood_hans": 300}, easy_hard={"agreement": agreement})
    found = analysis.tasks(result_rows.collect(made))[0]
    table = study_tables.easy_hard(found)
    assert table.header == ["model", "easy", "hard", "gap"]
    assert "agrees with this cut on 85.0 ± 7.1 % of dev (the paper, MNLI: 82.8 %)." in table.caption
    assert [row[0] for row in table.rows][:3] == ["teacher", "imp40 vanilla", "imp40 rmc"]
    for label, *cells in table.rows:
        name = ["teacher"] if label == "teacher" else ["student", *label.split(" ")]
        easy, hard = halves(made, *name).T
        for cell, values in zip(cells, (easy, hard, easy - hard), strict=True):
            assert cell.startswith(f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} ["), label
    gains = [halves(made, "student", "imp40", loss) @ (1, -1) for loss in ("rmc", "vanilla")]
    cell = next(row for row in study_tables.differences(found).rows if row[0] == "imp40 rmc")[6]
    assert cell.replace("**", "").startswith(f"{np.mean(gains[0] - gains[1]):+.1f} ± ")


def test_subsets_by_heuristic(task):
    table = study_tables.by_subset(task, "ood_sym1")
    assert table.header == ["model", "kind a, REFUTES", "kind b, REFUTES", "kind b, SUPPORTS"]
    assert [row[0] for row in table.rows][:2] == ["teacher", "imp40 vanilla"]
    assert len(table.rows) == 1 + len(task.students)
    for row, who in zip(table.rows, (task.teacher, *task.students), strict=True):
        own = who.rows.loc[who.rows["subset"] == "kind b, SUPPORTS", "accuracy"]
        assert row[3].startswith(f"{100 * np.mean(own):.1f} ±")
    assert table in study_tables.all_of(task)
    assert not study_tables.by_subset(task, "ood_sym2").rows, "a set without any"
    few = study_tables.by_subset(replace(task, students=task.students[:1]), "ood_sym1")
    assert few.header == ["subset", "teacher", "imp40 vanilla"], "three subsets, two models"
    assert [line[0] for line in few.rows] == table.header[1:]
    assert [line[2] for line in few.rows] == table.rows[1][1:]


def test_a_cell_cannot_break_a_row(tmp_path):
    """In Markdown alone: a reader of the page sees the text as it is."""
    table = Table("x", ["model", "a|b"], [["p|q", "\\|"], ["two\nlines", "**+1.0**"]])
    lines = table.markdown().splitlines()
    split = [re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1] for line in lines]
    assert [len(cells) for cells in split] == [2, 2, 2, 2]
    assert lines[0] == r"| model | a\|b |" and lines[2] == r"| p\|q | \\\| |"
    assert lines[3] == "| two lines | **+1.0** |"
    made = runs_of(tmp_path)
    for run in made:
        finish(run)
    rows = result_rows.collect(made)
    for row in rows:
        row["compression"] = row["compression"].replace("imp40", "a|b")
    page, text = (p.read_text() for p in study_report.write(tmp_path, rows, "x", None, {}, "x"))
    assert r"| a\|b rmc |" in text and "a|b rmc</th>" in page and "\\|" not in page


def test_the_report_is_the_tables(runs, tmp_path):
    rows = result_rows.collect(runs)
    paths = study_report.write(
        tmp_path, rows, "Mine & <yours>", "table4", {"a/b": "no <luck>"}, "python -m x"
    )
    page, text = (path.read_text() for path in paths)
    assert "Mine &amp; &lt;yours&gt;" in page and "no &lt;luck&gt;" in page and "a/b: no <luck>" in text
    found = analysis.tasks(rows)[0]
    for table in study_tables.all_of(found) + published_tables.all_of(found, "table4"):
        assert table.markdown() in text
        for row in table.rows:
            for cell in row:
                html = cell.replace("**", "").replace("&", "&amp;")
                assert html in re.sub(r"</?(strong|span)>", "", page)
    assert (
        page.count("<svg") == 2
        and "src=" not in page
        and "http" not in page.replace("http://www.w3.org", "")
    )
    assert page.count("<strong>") == text.count("**") // 2 > 0
    for name in ("figure1", "figure3"):
        assert f"(<fever-{name}.svg>)" in text
        assert ElementTree.parse(tmp_path / f"fever-{name}.svg").getroot().tag.endswith("}svg")
