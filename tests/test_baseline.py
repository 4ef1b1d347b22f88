"""The student with the plain loss beside the other: its training, the differences, where they stand."""

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from configs import BASE, OURS, SPARSE, Files, at
from launcher import job, python, two_ranks
from reports import Page, metrics, model, view, writing
from safetensors.torch import load_file
from stage_runs import run_of

from compress import run
from compress.configuration.config import build
from compress.errors import UserError
from compress.reporting import results_table, summary
from compress.scoring import evaluation, gain
from compress.stages import results
from compress.training import workload

ASKED = f"{OURS}.evaluation.baseline=true"


def hits(share, count, seed):
    return np.random.default_rng(seed).random(count) < share


def test_differences_are_those_of_the_accuracies_and_their_intervals_hold_them():
    plain = {"dev": hits(0.8, 900, 0), "ood_a": hits(0.5, 400, 1), "ood_b": hits(0.6, 200, 2)}
    student = {name: values | hits(0.1, len(values), 3) for name, values in plain.items()}
    sizes = {"ood_a": 400, "ood_b": 600}  # half of b is scored

    def accuracies(found):
        ood = {name: float(found[f"ood_{name}"].mean()) for name in ("a", "b")}
        pooled = (400 * ood["a"] + 600 * ood["b"]) / 1000
        dev = float(found["dev"].mean())
        return {"dev": dev, "ood": ood, "ood_pooled": pooled, "delta": (dev - pooled) / dev}

    both = accuracies(plain), accuracies(student)
    found = gain.figures(both, (plain, student), sizes)
    assert set(found) == {"dev", "ood_a", "ood_b", "ood_pooled", "delta"}
    assert found["dev"]["value"] == both[1]["dev"] - both[0]["dev"]
    assert found["ood_a"]["value"] == both[1]["ood"]["a"] - both[0]["ood"]["a"]
    assert found["delta"]["value"] == both[1]["delta"] - both[0]["delta"]
    for one in found.values():
        low, high = one["interval"]
        assert low <= one["value"] <= high
    # the same samples for both: the interval is that of the difference, far narrower than of each
    wide = 2 * 1.96 * np.sqrt(2 * 0.8 * 0.2 / 900)
    low, high = found["dev"]["interval"]
    assert low > 0 and high - low < wide / 2


@pytest.mark.parametrize("loss", ["vanilla", "poe"])
def test_a_teacher_of_another_loss_is_named_beside_f_bias(loss, tiny_model):
    """In the table and the report of the run, which has no plain teacher to compare with."""
    own = BASE[OURS] | {"teacher": {"loss": {"hook": loss}}}
    made = run_of(build(BASE | {OURS: own}, {}), tiny_model)
    scores = evaluation.Scores(np.log([[0.9, 0.1]] * 2), {"set": np.log([[0.1, 0.9]] * 2)})
    found = results.collect(made, {"teacher": scores, "student": scores}, None)
    remarks = found["remarks"]
    said = "is trained with the loss poe+shallow (teacher.loss), not"
    first = f"F_bias compares with a teacher that {said}"
    assert [remark.startswith(first) for remark in remarks] == [True] * (loss == "poe")
    assert not any(said in note for note in found["notes"])
    none = evaluation.Scores(scores.dev, {})
    made = replace(made, data=replace(made.data, ood={}))
    remarks = results.collect(made, {"teacher": none, "student": none}, None)["remarks"]
    assert not any("F_bias" in remark for remark in remarks)
    assert [said in remark for remark in remarks] == [True] * (loss == "poe")


def test_the_student_with_the_plain_loss_is_judged_too(tiny_model):
    """Teacher and student get dev right; the plain student has one class."""
    made = run_of(build(BASE, {}), tiny_model)
    right = np.log(np.where(np.eye(2)[made.data.dev.labels] > 0, 0.9, 0.1))
    ood = {name: np.log([[0.9, 0.1]] * len(split)) for name, split in made.data.ood.items()}
    good = evaluation.Scores(right, ood)
    lost = evaluation.Scores(np.log([[0.9, 0.1]] * len(right)), ood)
    found = results.collect(made, {"teacher": good, "student": good, "plain": lost}, None)
    ours = [note for note in found["plain"]["notes"] if note not in found["notes"]]
    assert [note.startswith("The student with the plain loss") for note in ours] == [True, True]
    assert "it has collapsed" in ours[0] and "lost more than 2 points of dev accuracy" in ours[1]
    assert not any(note.startswith("The student") for note in found["notes"])


def test_a_class_that_the_teacher_misses_too_is_no_collapse(tiny_model):
    made = run_of(build(BASE, {}), tiny_model)
    sets = {"dev": made.data.dev, **made.data.ood}
    one = {name: np.log([[0.9, 0.1]] * len(split)) for name, split in sets.items()}
    never = evaluation.Scores(one.pop("dev"), one)
    found = results.collect(made, {"teacher": never, "student": never}, None)
    assert found["vanished"] == []
    assert any("nor did its teacher: the class was not learnt" in note for note in found["notes"])


@pytest.mark.parametrize("marked", ["plain", "student", "both"])
def test_a_note_marks_the_f_bias_that_it_speaks_against(marked, tmp_path):
    found, note = three(), "It is so."
    found["plain"]["notes"] = [note] if marked != "student" else []
    found["notes"] = [note] if marked != "plain" else []
    rows = {row[0]: row[-1] for row in summary.cells(found)}
    stars = {"student, plain loss": "1.279", "student": "1.182"}
    for name, role in (("student, plain loss", "plain"), ("student", "student")):
        stars[name] += " *" * (marked in (role, "both"))
        assert rows[name] == stars[name]
    assert summary.terminal(found).splitlines().count(f"* {note}") == 1
    assert ("which the notes speak against" in summary.verdict(found)) == (marked != "plain")
    page = Page(writing(tmp_path)(found))
    shown = {row[0]: row[1:] for row in page.named["results"]}["Fbias"]
    assert shown[1].startswith(f"{stars['student, plain loss']} [") and shown[2] == stars["student"]
    assert page.text.count(note) == 1 and "Read with the notes above" in page.text


def test_equal_models_differ_by_nothing():
    same = {"dev": hits(0.8, 90, 0), "ood_a": hits(0.5, 40, 1)}
    both = {"dev": 0.8, "ood": {"a": 0.5}, "ood_pooled": 0.5, "delta": 0.375}
    found = gain.figures((both, both), (same, same), {"ood_a": 40})
    assert all(one == {"value": 0, "interval": [0, 0]} for one in found.values())


def three(ood=(0.012, 0.038)):
    """Metrics with a student of the plain loss."""
    found = deepcopy(metrics())
    plain = model(0.836, 0.526, 1, sparsity=0.4)
    plain |= {"f_bias": 1.279, "f_bias_interval": [1.2, 1.4]}
    plain["delta_difference"] = {"value": 0.081, "interval": [0.06, 0.1]}
    found["plain"] = plain
    found["gain"] = {
        "dev": {"value": 0.002, "interval": [-0.004, 0.009]},
        "ood_hans": {"value": 0.025, "interval": list(ood)},
        "ood_pooled": {"value": 0.025, "interval": list(ood)},
        "delta": {"value": -0.028, "interval": [-0.05, -0.01]},
    }
    return found


def test_the_terminal_has_three_models_and_a_sentence():
    lines = summary.terminal(three()).splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == ["teacher", "student, plain loss", "student"]
    assert lines[2].rstrip().endswith("1.279")
    assert lines[4] == (
        "Against the same student with the plain loss: dev 83.8 instead of 83.6 % (+0.2 points, 95 % "
        "interval -0.4 to +0.9), OOD 55.1 instead of 52.6 % (+2.5 points, 95 % interval +1.2 to +3.8), "
        "Delta -0.028, 95 % interval -0.050 to -0.010, F_bias 1.182 instead of 1.279. On OOD it is "
        "better, beyond chance over the samples."
    )


@pytest.mark.parametrize(
    ("interval", "words"),
    [((-0.01, 0.03), "chance can explain"), ((-0.04, -0.01), "it is worse, beyond chance")],
)
def test_what_chance_can_explain_is_said(interval, words):
    (sentence,) = summary.gain(three(interval))
    assert words in sentence.partition("On OOD")[2]


def test_with_another_metric_what_is_better_is_the_accuracy():
    (sentence,) = summary.gain(three() | {"metric": "macro_f1"})
    assert sentence.endswith("On OOD it is better in accuracy, beyond chance over the samples.")


def test_without_a_plain_student_nothing_is_said_of_it():
    assert summary.gain(metrics()) == [] and summary.roles(metrics()) == ["teacher", "student"]
    assert results_table.header(metrics()) == ["Teacher", "Student", "Change"]


def test_the_report_has_a_column_for_it(tmp_path):
    page = Page(writing(tmp_path)(three(), view()))
    head, *rows = page.named["results"]
    assert head[1:] == ["Teacher", "Student, plain loss", "Student", "Student minus plain"]
    found = {row[0]: row[1:] for row in rows}
    assert found["Dev accuracy, % n = 1,000"] == ["84.2", "83.6", "83.8", "+0.2 [−0.4, +0.9]"]
    assert found["OOD accuracy on hans, % n = 30,000"][-1] == "+2.5 [+1.2, +3.8]"
    assert found["Parameters"][-1] == ""
    assert found["Fbias"] == ["", "1.279 [1.200, 1.400]", "1.182", ""]
    assert {len(row) for row in (head, *rows)} == {5}
    assert "beyond chance over the samples" in page.text
    bars = [attrs.get("id", "") for _, attrs in page.tags]
    assert sum("bar-plain-" in name for name in bars) == 4


def test_it_is_asked_for_where_it_shows_something(tmp_path):
    files = Files(tmp_path)
    asked = at(f"{OURS}.evaluation.baseline", True)
    robust = files.load(SPARSE, asked).robust
    assert run.stages_of(robust, "all") == ("teacher", "difficulty", "plain", "student", "evaluate")
    assert run.stages_of(robust, "student") == ("plain", "student")
    assert run.stages_of(robust, "evaluate") == ("evaluate",)
    assert "plain" not in run.stages_of(files.load(SPARSE).robust, "all")
    vanilla = at(f"{OURS}.loss", {"hook": "vanilla"})
    with pytest.raises(UserError, match=r"evaluation.baseline. has no effect"):
        files.load(SPARSE, asked, {OURS: {**BASE[OURS], **vanilla[OURS]}})
    files.load(SPARSE, asked, {OURS: vanilla[OURS] | {"layerwise": {"hidden": 1}}})
    debiased = vanilla[OURS] | {"teacher": {"loss": {"hook": "poe"}}}
    files.load(SPARSE, asked, {OURS: debiased | {"student": {"init_from": "teacher"}}})
    with pytest.raises(UserError, match=r"evaluation.baseline. has no effect"):
        files.load(SPARSE, asked, {OURS: debiased})


@pytest.mark.launcher
@pytest.mark.timeout(600)
def test_runs_share_it_and_it_is_the_student_of_the_plain_loss(tiny_model, tmp_path):
    """On two ranks; then the files of a run whose own loss is the plain one."""
    common = [f"{OURS}.epochs=1"]
    for name, extra in (("poe", [ASKED]), ("distil", [ASKED]), ("vanilla", [])):
        start = two_ranks if name == "poe" else python
        parts = ("compression/heads20_rows50_imp40", f"mitigation/{name}")
        done = start(*job(tiny_model, tmp_path / name, *common, *extra, parts=parts))
        assert done.returncode == 0, done.stderr[-3000:]
        if name == "distil":
            assert "plain: reused" in done.stdout and "student, plain loss" in done.stdout
    (made,) = (tmp_path / "shared/plain").iterdir()
    own = load_file(tmp_path / "vanilla/student/model/model.safetensors")
    found = load_file(made / "model/model.safetensors")
    assert own.keys() == found.keys()
    for key, value in own.items():  # one was trained on two ranks
        np.testing.assert_allclose(found[key], value, atol=1e-4, err_msg=key)
    values = json.loads((tmp_path / "poe/metrics.json").read_text())
    assert values["gain"]["dev"]["value"] == values["student"]["dev"] - values["plain"]["dev"]
    assert values["artefacts"]["plain"]["ranks"] == 2
    arrays = np.load(tmp_path / "poe/hits.npz")
    assert arrays["plain/dev"].mean() == values["plain"]["dev"]


@pytest.mark.launcher
@pytest.mark.timeout(600)
def test_a_student_of_a_debiased_teacher_is_compared_with_one_of_a_plain_teacher(tiny_model, tmp_path):
    """Which is the student of a run with the plain loss, bit by bit, and shares its teacher."""
    common = [f"{OURS}.epochs=1", f"{OURS}.student.init_from=teacher", 'csv_monitor={"enabled": true}']

    def start(name, *values, stage="all"):
        parts = ("compression/imp60", f"mitigation/{name}")
        return python(*job(tiny_model, tmp_path / name, *common, *values, parts=parts, stage=stage))

    done = start("debiased_teacher", stage="teacher")
    assert done.returncode == 0, done.stderr[-3000:]
    done = start("debiased_teacher", ASKED, stage="student")
    assert done.returncode == 1
    assert done.stderr.endswith("starts from; run --stage teacher first.\n")
    done = start("debiased_teacher", ASKED, stage="teacher")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "\nteacher: reused" in done.stdout
    assert "\nbaseline teacher: done in " in done.stdout
    done = start("debiased_teacher", ASKED)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "\nteacher: reused" in done.stdout and "\nbaseline teacher: reused" in done.stdout
    assert "The student with the plain loss started from a teacher with the plain loss." in done.stdout
    assert "\nA teacher with the plain loss has " in done.stdout
    curves = {file.name for file in (tmp_path / "debiased_teacher/csv_monitor").rglob("*loss.csv")}
    assert curves >= {"teacher_loss.csv", "baseline_teacher_loss.csv", "plain_loss.csv"}
    done = start("vanilla")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "\nteacher: reused" in done.stdout
    assert len(list((tmp_path / "shared/teacher").glob("*/complete.json"))) == 2
    (made,) = (tmp_path / "shared/plain").iterdir()
    own = load_file(tmp_path / "vanilla/student/model/model.safetensors")
    found = load_file(made / "model/model.safetensors")
    assert all(value.equal(found[key]) for key, value in own.items())
    values, plain = (
        json.loads((tmp_path / name / "metrics.json").read_text())
        for name in ("debiased_teacher", "vanilla")
    )
    assert values["plain"]["origin"] == "started from a teacher with the plain loss"
    against = values["plain_teacher"]
    for key in ("dev", "ood_pooled", "delta", "delta_interval"):
        assert against[key] == plain["teacher"][key]
        assert values["plain"][key] == plain["student"][key]
    for key in ("f_bias", "f_bias_interval", "f_bias_reason", "delta_difference"):
        assert against["plain"][key] == plain[key]
    change = values["student"]["delta"] - plain["teacher"]["delta"]
    assert against["student"]["delta_difference"]["value"] == pytest.approx(change)


@pytest.mark.parametrize(
    ("ood", "biases", "sentence"),
    [
        (0.6, (0.9, 1.2), "has 80.0 % on dev and 60.0 % on OOD, Delta 0.250; F_bias against it: 0.900 "
        "[0.800, 1.000] of the student, 1.200 [0.800, 1.000] of the student with the plain loss."),
        (0.6, (0.9, None), "Delta 0.250; F_bias against it: 0.900 [0.800, 1.000] of the student."),
        (0.6, (None, None), "has 80.0 % on dev and 60.0 % on OOD, Delta 0.250."),
        (None, (None, None), "A teacher with the plain loss has 80.0 % on dev."),
    ],
)  # fmt: skip
def test_both_students_are_compared_with_a_plain_teacher_in_words(ood, biases, sentence):
    found = three()
    delta = None if ood is None else (0.8 - ood) / 0.8
    found["plain_teacher"] = {"dev": 0.8, "ood_pooled": ood, "delta": delta}
    for role, f_bias in zip(("student", "plain"), biases, strict=True):
        own = {"f_bias": f_bias, "f_bias_interval": None if f_bias is None else [0.8, 1.0]}
        found["plain_teacher"][role] = own
    first, second = summary.gain(found)
    assert first.startswith("Against the same student")
    assert second.endswith(sentence)
    assert summary.gain(three()) == [first]


@pytest.mark.parametrize(
    ("values", "other"),
    [
        ({}, True),
        ({"student": {"init_from": "pretrained"}}, False),
        ({"evaluation": {"baseline": False}}, False),
        ({"teacher": {}}, False),
    ],
)
def test_a_plain_teacher_is_trained_where_the_plain_student_starts_from_it(values, other, tmp_path):
    own = {"teacher": {"loss": {"hook": "poe"}}, "student": {"init_from": "teacher"}}
    own |= {"evaluation": {"baseline": True}, "loss": {"hook": "poe"}}
    config = Files(tmp_path).load(SPARSE, {OURS: {**BASE[OURS], **own, **values}})
    assert config.robust.plain_teacher == other
    stages = run.stages_of(config.robust, "all")
    works = workload.planned(config, {"train": 100, "dev": 10}, stages)
    assert ("baseline teacher" in {work.stage for work in works}) == other
