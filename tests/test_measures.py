"""`evaluation.metric`: other figures than the accuracy in Delta and F_bias, in a run and in a study.

The reference counts sample by sample in float64, as scikit-learn defines f1_score(labels=unique(gold),
average="macro"), balanced_accuracy_score and matthews_corrcoef.
"""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import Page, metrics, writing
from studies import finish, model, runs_of
from test_card import student, written

from compress.data.splits import Split
from compress.errors import UserError
from compress.reporting import published_tables, study_tables, summary
from compress.scoring import bias, evaluation, gain, measures
from compress.scoring.measures import Answers
from compress.stages import events
from compress.study import analysis, result_rows

OTHERS = [name for name in measures.NAMES if name != "accuracy"]
SIZES = {"ood_a": 300, "ood_b": 900}
SCORED = {"dev": 400, "ood_a": 300, "ood_b": 200}


def reference(metric, predicted, gold):
    """One figure of two arrays of classes, class by class."""
    predicted, gold = np.asarray(predicted), np.asarray(gold)
    classes = sorted(set(gold.tolist()))
    if metric == "accuracy":
        return float((predicted == gold).mean())
    if metric == "matthews":
        every = sorted({*gold.tolist(), *predicted.tolist()})
        x, y = (np.array([[v == c for c in every] for v in s], float) for s in (predicted, gold))
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        spread = np.sqrt((x * x).sum() * (y * y).sum())
        return float((x * y).sum() / spread) if spread > 1e-9 else 0.0
    out = []
    for one in classes:
        both = ((predicted == one) & (gold == one)).sum()
        wrong, missed = ((predicted == one) & (gold != one)).sum(), (gold == one).sum() - both
        f1 = 2 * both / (2 * both + wrong + missed)
        out.append(f1 if metric == "macro_f1" else both / (both + missed))
    return float(np.mean(out))


def answers(rates, seed, classes=3):
    """Answers by set of a model that is right at these rates; gold classes are uneven."""
    generator = np.random.default_rng(seed)
    out = {}
    for n, ((name, size), rate) in enumerate(zip(SCORED.items(), rates, strict=True)):
        shares = np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()
        gold = np.random.default_rng(n).choice(classes, size, p=shares)
        wrong = (gold + generator.integers(1, classes, size)) % classes
        out[name] = Answers(np.where(generator.random(size) < rate, gold, wrong), gold)
    return out


TEACHER, STUDENT = answers((0.9, 0.75, 0.7), 3), answers((0.85, 0.65, 0.55), 4)


def pooled(metric, found):
    total = sum(SIZES.values())
    each = {n: reference(metric, found[n].predicted, found[n].gold) for n in SIZES}
    return sum(each[n] * size for n, size in SIZES.items()) / total


# One set


@pytest.mark.parametrize("metric", measures.NAMES)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_values_are_those_of_the_definitions(metric, pairs):
    predicted, gold = (np.array([pair[n] for pair in pairs]) for n in (0, 1))
    expected = reference(metric, predicted, gold)
    assert Answers(predicted, gold).value(metric) == pytest.approx(expected, abs=1e-9)


def test_a_set_of_fewer_classes_counts_its_own():
    """HANS: neutral and contradiction are one class there; nothing is said of a third."""
    names, groups = ("entailment", "not_entailment"), (0, 1, 1)
    gold = np.array([0, 0, 0, 1, 1, 1])
    said = np.array([0, 1, 2, 0, 1, 2])  # classes of the model
    texts = [""] * 6
    hans = Split.of((texts, texts), gold, names, groups)
    dev = Split.of((texts, texts), np.array([0, 1, 2, 0, 1, 2]), ("a", "b", "c"), (0, 1, 2))
    scores = np.log(np.eye(3)[said] + 0.1)
    found = evaluation.summary(evaluation.Scores(scores, {"hans": scores}), dev, {"hans": hans}, None)
    by_set = found["by_class"]["ood_hans"]
    own = np.array([0, 1, 1, 0, 1, 1])
    for metric in OTHERS:
        assert by_set[metric] == pytest.approx(reference(metric, own, gold), abs=1e-12)


@pytest.mark.parametrize("metric", OTHERS)
def test_a_class_that_gold_lacks_counts_for_the_means_as_a_mistake_only(metric):
    predicted, gold = np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1])
    expected = {"macro_f1": (1 + 2 / 3) / 2, "balanced_accuracy": 0.75}
    value = expected.get(metric, reference(metric, predicted, gold))
    assert Answers(predicted, gold).value(metric) == pytest.approx(value)


# Delta and F_bias of a run


def plain(metric, replicates, seed):
    """Deltas of both [R, 2]: indices drawn with replacement, the same for both models."""
    generator, out = np.random.default_rng(seed), []
    for _ in range(replicates):
        drawn = {name: generator.integers(size, size=size) for name, size in SCORED.items()}
        row = []
        for found in (TEACHER, STUDENT):
            again = {n: Answers(a.predicted[drawn[n]], a.gold[drawn[n]]) for n, a in found.items()}
            dev = reference(metric, again["dev"].predicted, again["dev"].gold)
            row.append((dev - pooled(metric, again)) / dev)
        out.append(row)
    return np.array(out)


@pytest.mark.slow
@pytest.mark.parametrize("metric", OTHERS)
def test_intervals_are_those_of_a_plain_bootstrap(metric):
    drawn = bias.deltas(measures.replicates(metric, TEACHER, STUDENT, SIZES))
    expected = plain(metric, 1500, 1)
    for ours, theirs in (
        (drawn.teacher, expected[:, 0]),
        (drawn.student, expected[:, 1]),
        (drawn.student - drawn.teacher, expected[:, 1] - expected[:, 0]),
    ):
        low, high = np.quantile(theirs, [0.025, 0.975])
        found = np.quantile(ours, [0.025, 0.975])
        assert found == pytest.approx([low, high], abs=0.08 * (high - low))


def test_the_accuracys_replicates_are_what_they_were():
    hits = [{n: a.right for n, a in found.items()} for found in (TEACHER, STUDENT)]
    before = bias.draw(*hits, SIZES)
    now = bias.deltas(measures.replicates("accuracy", TEACHER, STUDENT, SIZES))
    assert np.array_equal(before.teacher, now.teacher)
    assert np.array_equal(before.student, now.student)


@pytest.mark.parametrize("metric", measures.NAMES)
def test_delta_and_f_bias_of_a_run(metric):
    names = ("a", "b")
    splits = {
        name: Split.of(([""] * len(a.gold),) * 2, a.gold, ("x", "y", "z"), (0, 1, 2), whole=whole)
        for (name, a), whole in zip(TEACHER.items(), (None, 300, 900), strict=True)
    }
    ood = {name: splits[f"ood_{name}"] for name in names}
    figures, pairs = [], []
    for found in (TEACHER, STUDENT):
        log = {name: np.log(np.eye(3)[a.predicted] + 0.1) for name, a in found.items()}
        scores = evaluation.Scores(log["dev"], {name: log[f"ood_{name}"] for name in names})
        summed = evaluation.summary(scores, splits["dev"], ood, None, metric)
        dev = reference(metric, found["dev"].predicted, found["dev"].gold)
        assert summed["measure"]["dev"] == pytest.approx(dev)
        assert summed["measure"]["ood_pooled"] == pytest.approx(pooled(metric, found))
        assert summed["delta"] == pytest.approx((dev - pooled(metric, found)) / dev)
        assert summed["dev"] == found["dev"].right.mean(), "accuracies stay"
        figures.append(summed)
        pairs.append((summed["measure"]["dev"], summed["measure"]["ood_pooled"]))
    drawn = bias.deltas(measures.replicates(metric, TEACHER, STUDENT, SIZES))
    told = bias.figures(*pairs, drawn, "name")
    assert told["f_bias"] == pytest.approx(figures[1]["delta"] / figures[0]["delta"])
    low, high = told["f_bias_interval"]
    assert low < told["f_bias"] < high
    measured = measures.replicates(metric, TEACHER, STUDENT, SIZES)
    hits = tuple({n: a.right for n, a in found.items()} for found in (TEACHER, STUDENT))
    changed = gain.figures(tuple(figures), hits, SIZES, measured)
    assert changed["delta"]["value"] == pytest.approx(figures[1]["delta"] - figures[0]["delta"])
    expected = figures[1]["measure"]["dev"] - figures[0]["measure"]["dev"]
    low, high = changed["measure_dev"]["interval"]
    assert changed["measure_dev"]["value"] == pytest.approx(expected) and low < expected < high


def test_a_teacher_that_is_no_better_than_chance_has_no_delta():
    nothing = {n: Answers(np.zeros_like(a.gold), a.gold) for n, a in TEACHER.items()}
    drawn = bias.deltas(measures.replicates("matthews", nothing, STUDENT, SIZES))
    told = bias.figures((0.0, 0.0), (0.7, 0.5), drawn, "Matthews correlation")
    assert told["f_bias"] is None
    assert told["f_bias_reason"] == (
        "the teacher's Matthews correlation on dev is not above 0, so it has no Delta"
    )


# What is shown


def told(metric):
    found = metrics()
    found["metric"] = metric
    for role, dev, ood in (("teacher", 0.8, 0.6), ("student", 0.7, 0.4)):
        found[role]["measure"] = {"dev": dev, "ood": {"hans": ood}, "ood_pooled": ood}
        found[role]["delta"] = (dev - ood) / dev
    found["f_bias"] = found["student"]["delta"] / found["teacher"]["delta"]
    found["delta_difference"] = {"value": 0.179, "interval": [0.1, 0.2]}
    return found


@pytest.mark.parametrize(
    ("metric", "name", "cells"),
    [
        ("macro_f1", "macro F1", ["80.0", "60.0", "0.250"]),
        ("matthews", "Matthews correlation", ["0.800", "0.600", "0.250"]),
    ],
)
def test_terminal_report_card_and_events_name_the_metric(tmp_path, metric, name, cells):
    found = told(metric)
    header, teacher, _ = summary.cells(found)
    assert header[4:8] == ["hans %", f"dev {name}", f"OOD {name}", f"Delta ({name})"]
    assert teacher[5:8] == cells
    assert f"its relative bias by {name} is 1.714 times the teacher's" in summary.verdict(found)
    assert f"Its Delta of {name} differs" in summary.verdict(found)
    page = Page(writing(tmp_path)(found))
    names = [row[0] for row in page.named["results"]]
    assert {f"Dev {name}", f"OOD {name}", f"Delta of {name}"} <= set(names)
    assert f"with m the {name} (evaluation.metric)" in page.text
    student(tmp_path / "model")
    text, front = written(tmp_path / "model", found)
    assert f"Delta = (dev - OOD) / dev of {name};" in text and f"dev {name}" in text
    results = front["model-index"][0]["results"]
    listed = {(r["dataset"]["split"], m["type"], m["name"]) for r in results for m in r["metrics"]}
    assert ("dev", metric, name) in listed and ("hans", metric, name) in listed
    assert ("ood", "f_bias", f"F_bias of {name} (Du et al. 2023)") in listed
    shown = events.figures(told(metric))
    assert shown[f"teacher dev {name}"] == 0.8 and shown[f"student ood {name}"] == 0.4


def test_the_accuracy_is_shown_as_before():
    assert summary.cells(metrics() | {"metric": "accuracy"}) == summary.cells(metrics())
    shown = events.figures(metrics() | {"delta_difference": None})
    assert not any("macro" in name for name in shown)


# A study


def finished(folder, metric="macro_f1"):
    """Runs whose students answer better or worse; the answers of each run are kept."""
    runs = runs_of(folder, compressions=["imp40"])
    for run in runs:
        finish(run)
        place = run.output_dir
        arrays = dict(np.load(place / "hits.npz"))
        for key in [key for key in arrays if key.partition("/")[0] in ("teacher", "student")]:
            role, _, name = key.partition("/")
            gold = np.random.default_rng([len(name)]).choice(3, len(arrays[key]), p=[0.6, 0.3, 0.1])
            seed = [run.seed, len(name), role == "student" and len(run.name)]
            wrong = (gold + np.random.default_rng(seed).integers(1, 3, len(gold))) % 3
            arrays[f"gold/{name}"] = gold.astype(np.int16)
            arrays[f"predicted/{key}"] = np.where(arrays[key], gold, wrong).astype(np.int16)
        np.savez(place / "hits.npz", **arrays)
        values = json.loads((place / "metrics.json").read_text())
        (place / "metrics.json").write_text(json.dumps(values | {"metric": metric}))
    return runs


def by_hand(runs, metric, role, mitigation):
    """By seed the figure on each set, from the files."""
    out = {}
    for run in runs:
        if role == "teacher" or run.mitigation == mitigation:
            saved = np.load(run.output_dir / "hits.npz")
            out[run.seed] = {
                name: reference(metric, saved[f"predicted/{role}/{name}"], saved[f"gold/{name}"])
                for name in ("dev", "ood_sym1", "ood_sym2")
            }
    return out


@pytest.mark.parametrize("metric", OTHERS)
def test_figures_of_a_study(tmp_path, metric):
    runs = finished(tmp_path, metric)
    result_rows.save(result_rows.collect(runs), tmp_path / "results.parquet")
    (task,) = analysis.tasks(result_rows.load([tmp_path / "results.parquet"]), 300)
    own = by_hand(runs, metric, "student", "rmc")
    rmc = model(task, "imp40", "rmc")
    for name in ("dev", "ood_sym1"):
        assert rmc.measured[name].by_seed == pytest.approx({s: v[name] for s, v in own.items()})
        mean = np.mean([v[name] for v in own.values()])
        assert rmc.measured[name].value == pytest.approx(mean)
    means = {n: np.mean([v[n] for v in own.values()]) for n in ("dev", "ood_sym1", "ood_sym2")}
    ood = (300 * means["ood_sym1"] + 100 * means["ood_sym2"]) / 400
    assert rmc.delta().value == pytest.approx((means["dev"] - ood) / means["dev"])
    found = rmc.f_bias(task.teacher)
    assert found.value == pytest.approx(rmc.delta().value / task.teacher.delta().value)
    assert rmc.dev.value == pytest.approx(0.88), "accuracies stay"
    name = measures.NAMES[metric]
    table = study_tables.accuracies(task)
    assert {f"dev {name}", f"OOD {name}", f"Delta ({name})"} <= set(table.header)
    assert f"Delta and F_bias are of the {name} (evaluation.metric)." in table.caption
    assert f"of the {name}" in study_tables.differences(task).caption
    (beside,) = published_tables.all_of(task, "table4")
    assert not beside.rows and name in beside.caption


@pytest.mark.parametrize("metric", OTHERS)
def test_replicates_of_a_study_are_those_of_drawn_samples(tmp_path, metric):
    """One seed, and so the samples alone: each replicate is the figure of the samples it draws."""
    runs = [run for run in finished(tmp_path, metric) if run.seed == 1]
    (task,) = analysis.tasks(result_rows.collect(runs), 20)
    rmc = model(task, "imp40", "rmc")
    saved = np.load(next(r for r in runs if r.mitigation == "rmc").output_dir / "hits.npz")
    times = np.rint(rmc.draws.samples["ood_sym1", ""] * 300).astype(int)
    gold, predicted = saved["gold/ood_sym1"], saved["predicted/student/ood_sym1"]
    expected = [reference(metric, np.repeat(predicted, n), np.repeat(gold, n)) for n in times]
    assert rmc.measured["ood_sym1"].replicates == pytest.approx(np.array(expected))


@pytest.mark.parametrize("seeds", [(2,), (1, 2)])
def test_a_student_of_one_class_has_no_delta(tmp_path, seeds):
    """Its correlation is exactly 0: with one seed that has no Delta, with all the model has none."""
    runs = finished(tmp_path, "matthews")
    for run in runs:
        if run.mitigation == "rmc" and run.seed in seeds:
            arrays = dict(np.load(run.output_dir / "hits.npz"))
            arrays["predicted/student/dev"][:] = 0
            np.savez(run.output_dir / "hits.npz", **arrays)
    (task,) = analysis.tasks(result_rows.collect(runs), 300)
    rmc, teacher = model(task, "imp40", "rmc"), task.teacher
    delta = rmc.delta()
    assert {seed for seed, value in delta.by_seed.items() if np.isnan(value)} == set(seeds)
    whole = len(seeds) == 2
    assert np.isnan(delta.value) == whole and np.isnan(delta.replicates).all() == whole
    assert (rmc.f_bias(teacher) is None) == whole
    cells = next(row for row in study_tables.accuracies(task).rows if row[0].startswith("imp40 rmc"))
    changes = study_tables.differences(task).rows[0]
    assert (cells[-3:] == ["n/a"] * 3) == (changes[4:6] == ["n/a"] * 2) == whole
    why = " F_bias of imp40 rmc is n/a: the student's Matthews correlation on dev is not above 0."
    assert (why in study_tables.accuracies(task).caption) == whole


def test_a_teacher_of_one_class_has_no_delta(tmp_path):
    runs = finished(tmp_path, "matthews")
    for run in runs:
        arrays = dict(np.load(run.output_dir / "hits.npz"))
        arrays["predicted/teacher/dev"][:] = 0
        np.savez(run.output_dir / "hits.npz", **arrays)
    (task,) = analysis.tasks(result_rows.collect(runs), 50)
    why = (
        " F_bias is n/a: the teacher's Matthews correlation on dev is not above 0, so it has no Delta."
    )
    assert why in study_tables.accuracies(task).caption
    assert not any(
        "nan" in cell for table in study_tables.all_of(task) for row in table.rows for cell in row
    )


def test_runs_of_different_metrics_are_not_compared(tmp_path):
    runs = finished(tmp_path)
    rows = result_rows.collect(runs)
    for row in rows:
        row["metric"] = None if row["seed"] == 1 else row["metric"]
    with pytest.raises(UserError, match=r"evaluation.metric is accuracy in one run and macro_f1 in"):
        analysis.tasks(rows)


def test_rows_without_answers_are_of_the_accuracy(tmp_path):
    runs = runs_of(tmp_path, compressions=["imp40"])
    for run in runs:
        finish(run)
    (task,) = analysis.tasks(result_rows.collect(runs), 50)
    rmc = model(task, "imp40", "rmc")
    assert rmc.metric == "accuracy" and task.measure == ""
    assert rmc.measured["dev"] is rmc.parts["dev", ""]
    assert [name for name, _ in study_tables.measured(task)][2] == "Delta"
