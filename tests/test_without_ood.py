"""A task without an OOD set: what is read, what its figures are, what a reader is told."""

import json
from copy import deepcopy

import numpy as np
import pytest
from configs import Files
from folders import config, error_of, from_folder
from launcher import ROOT, python
from reports import Page, metrics, view, writing
from studies import finish, model, runs_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_card import student, written

from compress.data import sources, tasks
from compress.data.splits import Split
from compress.errors import UserError
from compress.reporting import study_report, study_tables, summary
from compress.scoring import bias, evaluation, gain
from compress.stages import events
from compress.study import analysis, result_rows

DEFINITION = {
    "texts": ["premise", "hypothesis"],
    "labels": ["entailment", "neutral", "contradiction"],
}
DEV = {"flips": {"dev": {"lost": {"samples": 41, "share": 0.041, "interval": [0.03, 0.055]}}}}
DEV["flips"]["dev"]["gained"] = {"samples": 37, "share": 0.037, "interval": [0.027, 0.051]}


@pytest.fixture
def no_ood(small_task):
    """A folder of train and dev alone."""
    (small_task / "ood_hans.jsonl").unlink()
    return small_task


# What is read


@pytest.mark.parametrize("more", [{}, {"ood": {}}])
def test_a_definition_without_ood_is_read(no_ood, more):
    data = from_folder(no_ood, "mine", definition={**DEFINITION, **more})
    assert (len(data.train), len(data.dev), dict(data.ood)) == (6, 3, {})
    assert list(data.splits()) == ["train", "dev"]


def test_a_file_called_ood_is_still_evaluated(no_ood, put_split):
    put_split("ood_mine", [{"premise": "p", "hypothesis": "q", "label": "neutral"}])
    assert list(from_folder(no_ood, "mine", definition=DEFINITION).ood) == ["mine"]


def test_a_task_of_the_program_needs_one_as_before(no_ood):
    error_of(no_ood, str(no_ood), "has no OOD set of mnli", "ood_<name>")


HANS = {
    "labels": ["entailment", "not_entailment"],
    "label_map": dict.fromkeys(DEFINITION["labels"], "not_entailment") | {"entailment": "entailment"},
}


@pytest.mark.parametrize(
    ("task", "more"),
    [("mnli", {}), ("mine", {"definition": {**DEFINITION, "ood": {"hans": HANS}}})],
)
def test_an_empty_list_is_no_ood_set_though_the_folder_and_the_task_have_one(small_task, task, more):
    assert list(from_folder(small_task, task, **more).ood) == ["hans"]
    found = from_folder(small_task, task, ood=[], **more)
    assert (len(found.dev), dict(found.ood)) == (3, {})
    chosen = config(task, ood=[], data_dir=str(small_task), **more)
    assert sources.absent_ood(chosen, tasks.of(chosen.task)) == {}


@pytest.mark.parametrize("key", ['ood_dir="more"', "drop_overlap=true"])
def test_an_empty_list_beside_what_needs_a_set(tmp_path, key):
    part = {"robust_compression": {"task": {"name": "mnli"}, "evaluation": {"ood": []}}}
    files = Files(tmp_path)
    files.load(part)
    sentence, _ = files.refused(part, overrides=[f"robust_compression.task.{key}"])
    assert "has no effect: evaluation.ood is empty" in sentence


def test_what_asks_for_an_ood_set_is_refused_without_one(no_ood, tmp_path):
    (tmp_path / "more").mkdir()
    mine = {"task": "mine", "definition": DEFINITION}
    error_of(no_ood, "evaluation.ood: there is no set 'hans'", ood=["hans"], **mine)
    error_of(no_ood, "task.drop_overlap: has no effect", drop_overlap=True, **mine)
    error_of(
        no_ood, f"{no_ood} and {tmp_path / 'more'}: has no", ood_dir=str(tmp_path / "more"), **mine
    )
    defined = {**DEFINITION, "ood": {"hard": {"file": "hard.tsv"}}}
    error_of(no_ood, "has no file hard", task="mine", definition=defined)


def test_a_file_that_is_meant_as_one_and_cannot_be_read(no_ood):
    (no_ood / "ood_hans.xlsx").touch()
    mine = {"task": "mine", "definition": DEFINITION}
    error_of(no_ood, "ood_hans.xlsx is of another kind", ".jsonl", **mine)
    (no_ood / "ood_other.jsonl").touch()
    (no_ood / "ood_other.jsonl.bak").touch()
    (line,) = sources.passed_over([no_ood], {"other"})
    assert line.startswith(f"{no_ood}: ood_hans.xlsx is of another kind, so it cannot be an OOD set")


def test_on_the_hub_alone_nothing_else_is_needed():
    on_hub = {name: {"path": "a/b", "split": name} for name in ("train", "dev")}
    chosen = config("mine", definition={**DEFINITION, **on_hub})
    assert list(sources.every(chosen, tasks.of(chosen.task))) == ["train", "dev"]


def test_subsets_of_dev_are_columns_of_dev_alone(no_ood, put_split):
    rows = [
        {"premise": f"p{n}", "hypothesis": "h", "label": label, "source": source}
        for n, (label, source) in enumerate([("neutral", "a"), ("neutral", "b"), ("entailment", "b")])
    ]
    put_split("dev", rows)
    data = from_folder(no_ood, "mine", definition={**DEFINITION, "subsets": ["source"]})
    assert data.dev.subsets == {"source": ["a", "b", "b"]} and data.train.subsets == {}
    with pytest.raises(UserError, match=r"dev\.jsonl: has no column 'sauce' of the 'subsets'"):
        from_folder(no_ood, "mine", definition={**DEFINITION, "subsets": ["sauce"]})


# Its figures


def test_pooled_accuracy_and_delta_are_none():
    labels = np.array([0, 1, 1, 0])
    dev = Split.of(([""] * 4, [""] * 4), labels, ("no", "yes"), (0, 1))
    scores = evaluation.Scores(np.log(np.eye(2)[[0, 1, 0, 0]] + 0.1), {})
    found = evaluation.summary(scores, dev, {}, np.array([True, False, True, False]))
    assert (found["dev"], found["dev_easy"], found["dev_hard"]) == (0.75, 1.0, 0.5)
    assert (found["ood"], found["ood_subsets"]) == ({}, {})
    assert found["ood_pooled"] is None and found["delta"] is None
    (note,) = evaluation.notes(found, found, dev, {})
    assert note == evaluation.WITHOUT_OOD
    assert evaluation.at_chance(found, {}) == {}


def test_no_bias_and_the_gain_on_dev_alone():
    generator = np.random.default_rng(0)
    teacher, student = ({"dev": generator.random(300) < share} for share in (0.9, 0.8))
    drawn = bias.draw(teacher, student, {})
    found = bias.figures((0.9, None), (0.8, None), drawn)
    assert found.pop("f_bias_reason") == bias.NO_OOD
    empty = {"delta_interval": None}
    assert found.pop("teacher") == found.pop("student") == empty
    assert set(found) == {"delta_difference", "f_bias", "f_bias_interval"}
    assert set(found.values()) == {None}
    models = [{"dev": float(h["dev"].mean()), "ood": {}} for h in (teacher, student)]
    both = tuple(one | {"ood_pooled": None, "delta": None} for one in models)
    changed = gain.figures(both, (teacher, student), {})
    assert set(changed) == {"dev"}
    low, high = changed["dev"]["interval"]
    assert low < changed["dev"]["value"] == models[1]["dev"] - models[0]["dev"] < high


# What a reader is told


def without(found):
    """The metrics of a run without an OOD set."""
    for role in summary.roles(found):
        found[role] |= {"ood": {}, "ood_pooled": None, "delta": None, "ood_subsets": {}}
    found["student"] |= deepcopy(DEV)
    found |= {"f_bias": None, "delta_difference": None, "f_bias_reason": bias.NO_OOD}
    found |= {"notes": [evaluation.WITHOUT_OOD], "f_bias_interval": None}
    found["samples"]["ood"] = {}
    del found["set_sizes"]["ood_hans"]
    return found


def test_the_terminal_says_what_cannot_be_said_and_counts_flips():
    head, teacher, student, *lines = summary.terminal(without(metrics())).splitlines()
    assert head.split("  ")[-3:] == ["Delta", "Delta diff [95 %]", "F_bias"] and "OOD" not in head
    assert teacher.split()[-4:] == ["84.2", "n/a", "-", "-"]
    assert student.split()[-4:] == ["83.8", "n/a", "n/a", "n/a"]
    assert lines[0] == "F_bias n/a: there is no OOD set"
    assert lines[1] == (
        "The student gets 41 dev samples wrong that the teacher gets right (4.1 % of dev, 95 % "
        "interval 3.0 to 5.5), and 37 right that the teacher gets wrong (3.7 % of dev, 95 % interval "
        "2.7 to 5.1)."
    )
    assert lines[-1] == f"* {evaluation.WITHOUT_OOD}"


def test_the_verdict():
    assert summary.verdict(without(metrics())) == (
        "The student keeps 83.8 of the teacher's 84.2 % on dev; there is no OOD set, so its relative "
        "bias is not known."
    )


def test_the_report_shows_flips_and_no_ood_section(tmp_path):
    page = Page(writing(tmp_path)(without(metrics()), view()))
    rows = {row[0]: row[1:] for row in page.named["results"]}
    assert rows["Delta"][:2] == ["n/a", "n/a"] and rows["Fbias"][1] == "n/a"
    assert not [name for name in rows if name.startswith("OOD")]
    assert page.named["flips"][1:] == [
        ["dev", "student", "41 4.1 %, 3.0 to 5.5", "37 3.7 %, 2.7 to 5.1"]
    ]
    assert page.named["halves"][1:]
    assert page.text.count(evaluation.WITHOUT_OOD) == 1 and "F bias is n/a: there is no" in page.text
    assert "Accuracy by OOD subset" not in page.text


def test_with_a_plain_student_chance_is_told_of_dev():
    found = without(metrics() | {"plain": deepcopy(metrics()["student"])})
    found["plain"] |= {"dev": 0.82, "f_bias": None}
    found["plain"]["flips"] = deepcopy(DEV["flips"])
    found["gain"] = {"dev": {"value": 0.018, "interval": [0.004, 0.03]}}
    (told,) = summary.gain(found)
    assert told.endswith("On dev it is better, beyond chance over the samples.")
    assert summary.flips(found)[0].startswith(
        "The student with the plain loss gets 41 dev samples wrong"
    )


def test_the_card_and_the_figures_of_tensorboard(tmp_path):
    student(tmp_path)
    found = without(metrics())
    text, front = written(tmp_path, found)
    assert "not measured; it has 83.8 % on dev" in text
    assert evaluation.WITHOUT_OOD in text and "41 dev samples wrong" in text
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"]["split"] == "dev"
    assert set(events.figures(found)) == {
        *("teacher dev", "student dev", "student parameters", "student sparsity")
    }


# A study

BETTER = ("imp40", "rmc")


@pytest.fixture
def study(tmp_path):
    """8 finished runs without an OOD set; the student of imp40 rmc is better than vanilla."""
    made = runs_of(tmp_path, published=None)
    for run in made:
        better = 0.03 * ((run.compression, run.mitigation) == BETTER)
        kinds = np.where(np.arange(400) < 100, "a, same", "b, same")
        finish(run, {"dev": 0.85 + better}, sizes={"dev": 400}, dev=kinds)
    return made


def test_tables_of_a_study_have_dev_alone(study, tmp_path):
    rows = result_rows.collect(study)
    (task,) = analysis.tasks(rows)
    tables = study_tables.all_of(task)
    assert [table.header[1:] for table in tables] == [
        ["seeds", "dev"],
        ["seeds", "dev", "gap"],
        ["easy", "hard", "gap"],
        ["only the teacher right", "only the student right"],
        ["a, same", "b, same"],
    ]
    of_both_seeds = [run for run in study if (run.compression, run.mitigation) == BETTER]
    saved = [np.load(run.output_dir / "hits.npz")["teacher/dev"] for run in of_both_seeds]
    assert len(saved) == 2
    shown = tables[-1].rows[0][1].split()[0]
    assert float(shown) == pytest.approx(100 * np.mean([hits[:100] for hits in saved]), abs=0.051)
    assert "dev by gold label and subset" in tables[-1].caption
    assert evaluation.WITHOUT_OOD in tables[0].caption and "F_bias" not in tables[1].caption
    one = model(task, *BETTER)
    assert set(task.versus(one)) == {"dev", "gap"}
    assert task.versus(one)["dev"].value == pytest.approx(0.03)
    assert one.f_bias(task.teacher) is None and one.f_bias_reason(task.teacher) == bias.NO_OOD
    with pytest.raises(ValueError, match="no OOD set"):
        one.delta()
    html, text = study_report.write(tmp_path / "out", rows, "No OOD", None, {}, "python")
    assert "figure1" in html.read_text() and "figure3" not in html.read_text()
    assert "teacher" in text.read_text()


def test_flips_of_a_study_are_counted(study):
    (task,) = analysis.tasks(result_rows.collect(study))
    shares = []
    for run in study:
        if (run.compression, run.mitigation) == BETTER:
            saved = np.load(run.output_dir / "hits.npz")
            shares.append((saved["teacher/dev"] & ~saved["student/dev"]).mean())
    lost = task.teacher.alone(model(task, *BETTER))
    assert list(lost.by_seed.values()) == pytest.approx(shares)
    found = lost.estimate()
    assert found.value == pytest.approx(np.mean(shares)) and found.low < found.value < found.high


# A run


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model):
    """train.py with everything that a run may show, and its arguments."""
    folder = tmp_path_factory.mktemp("run")
    names = ("same", "other")
    words = ["doctor", "lawyer", "actor", "author", "manager", "thief"]
    for split, start, count in (("train", 0, 96), ("dev", 200, 40)):
        rows = [
            {
                "premise": f"the {words[n % 6]} saw the {words[n // 6 % 6]} {n}",
                "hypothesis": f"the {words[(n + n % 2) % 6]} slept",
                "label": names[n % 2],
                **({"source": "ab"[n // 2 % 2]} if split == "dev" else {}),
            }
            for n in range(start, start + count)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    definition = {**DEFINITION, "labels": names, "subsets": ["source"]}
    task = {"name": "mine", "data_dir": str(folder), "definition": definition, "max_length": 32}
    more = {"task": task, "model": str(tiny_model), "epochs": 1, "evaluation": {"baseline": True}}
    (folder / "mine.json").write_text(json.dumps({"robust_compression": more}))
    parts = [f"{ROOT}/ds_configs/{n}.json" for n in ("zero2", "compression/imp40", "mitigation/rmc")]
    words = ["--deepspeed_config", *parts, str(folder / "mine.json")]
    words += ["--output_dir", str(folder / "out"), "--set", "train_batch_size=16"]
    return folder / "out", words, python(str(ROOT / "train.py"), *words)


@pytest.mark.launcher
@pytest.mark.timeout(600)
def test_a_whole_run(run):
    place, _, done = run
    assert done.returncode == 0, done.stderr[-3000:]
    assert "OOD none" in done.stdout and evaluation.WITHOUT_OOD in done.stdout
    assert "F_bias n/a: there is no OOD set" in done.stdout
    found, hits = json.loads((place / "metrics.json").read_text()), np.load(place / "hits.npz")
    assert set(hits["subset/dev"]) == set(found["student"]["dev_subsets"])
    assert found["f_bias"] is found["delta_difference"] is found["plain"]["f_bias"] is None
    assert set(found["gain"]) == {"dev"}
    for role in ("teacher", "plain", "student"):
        one = found[role]
        assert (one["ood"], one["ood_pooled"], one["delta"]) == ({}, None, None)
        assert None not in (one["dev_easy"], one["dev_hard"])
        assert set(one["dev_subsets"]) == {f"{s}, {n}" for s in "ab" for n in ("same", "other")}
        if role != "teacher":
            lost = hits["teacher/dev"] & ~hits[f"{role}/dev"]
            assert one["flips"]["dev"]["lost"]["samples"] == lost.sum()
            assert f"{lost.sum()} dev samples wrong that the teacher gets right" in done.stdout
    page = Page((place / "report.html").read_text())
    assert [row[:2] for row in page.named["flips"][1:]] == [
        ["dev", "student, plain loss"],
        ["dev", "student"],
    ]
    assert evaluation.WITHOUT_OOD in (place / "student/model/README.md").read_text()
    read = EventAccumulator(str(place / "tensorboard/out")).Reload()
    assert "student/loss" in read.Tags()["scalars"] and "results/text_summary" in read.Tags()["tensors"]


@pytest.mark.launcher
@pytest.mark.timeout(600)
def test_it_is_finished_until_an_ood_set_is_there_and_its_model_predicts(run):
    place, words, _ = run
    asked = ["-m", "compress.finished", *words, "--ranks", "1"]
    assert python(*asked).returncode == 0
    pair = ("--premise", "the doctor saw", "--hypothesis", "the actor slept", "--device", "cpu")
    told = python("-m", "compress.predict", str(place / "student/model"), *pair)
    assert told.returncode == 0 and told.stdout.split()[0] in ("same", "other"), told.stderr
    row = {"premise": "the thief ran", "hypothesis": "the actor slept", "label": "same"}
    (place.parent / "ood_new.jsonl").write_text(json.dumps(row))
    assert python(*asked).returncode == 3
    again = python(str(ROOT / "train.py"), *words)
    assert again.returncode == 0, again.stderr[-3000:]
    found = json.loads((place / "metrics.json").read_text())
    assert set(found["student"]["ood"]) == {"new"} == set(found["teacher"]["ood"])
    assert set(found["reused"]) == {"teacher", "difficulty", "plain", "student"}
