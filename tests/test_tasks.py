"""The task table: spellings of labels and columns, and what each OOD set counts as."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from compress.configuration.task_schema import OodBlock, TaskBlock
from compress.data.tasks import TASKS, groups, label_ids, of, ood_set, spelling, stems
from compress.errors import UserError

ROOT = Path(__file__).parents[1]
TASK_SETS = [(task, name) for task in TASKS.values() for name in task.ood]


def named(name, **block):
    return of(TaskBlock.model_validate({"name": name, **block}))


def test_the_nearest_task_is_named():
    assert named("fever") is TASKS["fever"]
    with pytest.raises(UserError, match=r"robust_compression\.task\.name.*'mnly'.*'mnli'"):
        named("mnly")


MINE = {
    "texts": ["question", "answer"],
    "labels": ["good", "bad", "ugly"],
    "label": "verdict",
    "spellings": {"good": ["yes"]},
    "train": "pairs.tsv.gz",
    "partial": 0,
    "ood": {
        "hard": {
            "file": "adversarial.jsonl",
            "labels": ["fine", "not_fine"],
            "label_map": {"good": "fine", "bad": "not_fine", "ugly": "not_fine"},
            "subsets": ["kind"],
        },
        "web": {"hub": {"path": "someone/pairs", "split": "test"}},
    },
}


def test_a_task_in_json():
    task = named("mine", definition=MINE)
    assert (task.texts, task.labels, task.partial) == (
        ["question", "answer"],
        ["good", "bad", "ugly"],
        0,
    )
    assert [stems(task, split, None) for split in ("train", "dev")] == [("pairs",), ("dev",)]
    assert groups(task.ood["hard"], task.labels) == (0, 1, 1)
    assert stems(task, "ood_hard", task.ood["hard"]) == ("adversarial",)
    assert task.ood["hard"].subsets == ["kind"]
    assert task.ood["web"].hub.path == "someone/pairs" and not task.ood["web"].labels
    assert task.defined and not TASKS["mnli"].defined
    assert label_ids(task, task.labels) == {
        "good": 0,
        "yes": 0,
        "bad": 1,
        "ugly": 2,
        "0": 0,
        "1": 1,
        "2": 2,
    }
    assert task.label == "verdict" and TASKS["mnli"].label == "label"


def changed(path, value):
    definition = json.loads(json.dumps(MINE))
    *parents, last = path.split(".")
    node = definition
    for key in parents:
        node = node[key]
    node[last] = value
    return definition


@pytest.mark.parametrize(
    ("path", "value", "facts"),
    [
        (
            "ood.hard.label_map",
            {"good": "fine", "bad": "not_fine"},
            "ood.hard.label_map: has no entry for the label 'ugly'",
        ),
        (
            "ood.hard.label_map",
            {"good": "fine", "bad": "fine", "ugly": "bad"},
            "ood.hard.label_map: 'bad' ",
        ),
        (
            "ood.hard.label_map",
            {"good": "fine", "bad": "fine", "ugly": "fine", "x": "fine"},
            "ood.hard.label_map: 'x' ",
        ),
        ("ood.hard.label_map", None, "ood.hard.label_map: is missing"),
        ("ood.hard.labels", None, "ood.hard.labels: is missing"),
        ("labels", ["good", "Good ", "ugly"], "definition.labels: 'good' "),
        ("labels", ["good", "1", "1.0"], "definition.labels: '1' "),
        ("spellings", {"god": ["yes"]}, "spellings: 'god' .*'good'"),
        ("spellings", {"good": ["bad"]}, "labels: 'bad' "),
        ("texts", ["a", "a"], "definition.texts: names the column 'a' twice"),
        ("label", "answer", "definition.label: the column 'answer' "),
        ("ood.hard.texts", ["a", "a"], "ood.hard.texts: names the column 'a' twice"),
        ("ood.hard.label", "answer", "ood.hard.label: the column 'answer' "),
        ("ood.hard.spellings", {"god": ["x"]}, "ood.hard.spellings: 'god' .*fine, not"),
        ("ood.web.spellings", {"god": ["x"]}, "ood.web.spellings: 'god' .*'good'"),
        ("ood.hard.spellings", {"fine": ["not fine"]}, "ood.hard.spellings: 'not fine' "),
        ("ood.web.spellings", {"bad": ["yes"]}, "ood.web.spellings: 'yes' "),
    ],
)
def test_a_definition_that_does_not_hold_together(path, value, facts):
    with pytest.raises(UserError) as error:
        named("mine", definition=changed(path, value))
    assert str(error.value).startswith("robust_compression.task.definition.")
    assert re.search(facts, str(error.value))


def test_a_definition_must_not_take_the_name_of_a_task():
    with pytest.raises(UserError, match=r"task\.name: 'qqp' is taken"):
        named("qqp", definition=MINE)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_table_holds_together(task):
    assert TASKS[task.name] is task
    assert len(set(task.labels)) == len(task.labels) >= 2
    assert len(set(task.texts)) == len(task.texts) in (1, 2)
    assert all(len(entry.texts or task.texts) == len(task.texts) for entry in task.ood.values())
    assert task.keep is None or not task.single
    assert not {"partial", "symmetric"} & task.model_fields_set or not task.single
    assert task.threshold is None or (len(task.labels) == 2 and 0 < task.threshold <= 1)
    assert isinstance(task.train, str) == isinstance(task.dev, str)
    assert task.ood
    kept = [label for label in task.labels if label not in task.optional_labels]
    assert task.labels == [*kept, *task.optional_labels], "ids shift unless optional ones come last"
    assert len(kept) >= 2


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_no_spelling_means_two_labels(task):
    for entry in (OodBlock(), *task.ood.values()):
        labels = entry.labels or task.labels
        known = [(*task.spellings.get(label, ()), *entry.spellings.get(label, ())) for label in labels]
        spellings = [
            {spelling(word) for word in (label, *words)}
            for label, words in zip(labels, known, strict=True)
        ]
        assert sum(map(len, spellings)) == len(set.union(*spellings))
        ids = label_ids(task, labels, entry.spellings)
        assert len(ids) == sum(map(len, spellings)) + len(labels)


@pytest.mark.parametrize(("task", "name"), TASK_SETS, ids=[f"{t.name}-{n}" for t, n in TASK_SETS])
def test_every_label_of_the_task_counts_as_one_of_the_set(task, name):
    entry = ood_set(task, name)
    ids = groups(entry, task.labels)
    names = entry.labels or task.labels
    assert len(ids) == len(task.labels)
    assert set(ids) == set(range(len(names)))
    assert bool(entry.labels) == bool(entry.label_map)


def test_three_classes_collapse_to_the_two_of_hans():
    task = TASKS["mnli"]
    assert task.labels == ["entailment", "neutral", "contradiction"]
    assert groups(ood_set(task, "hans"), task.labels) == (0, 1, 1)


def test_a_set_without_labels_of_its_own_has_those_of_the_model():
    fever = TASKS["fever"]
    assert groups(ood_set(fever, "sym1"), fever.labels) == (0, 1, 2)
    assert groups(ood_set(fever, "sym1"), fever.labels[:2]) == (0, 1)


def test_a_set_that_the_table_does_not_know_is_a_plain_one():
    assert ood_set(TASKS["mnli"], "mine") == OodBlock()
    assert ood_set(TASKS["mnli"], "hans") is TASKS["mnli"].ood["hans"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mnli", {"entailment": 0, "NEUTRAL": 1, " contradiction ": 2, "0": 0, 1: 1, "2": 2}),
        ("fever", {"SUPPORTS": 0, "supports": 0, "entailment": 0, "REFUTES": 1, "contradiction": 1}),
        ("fever", {"NOT ENOUGH INFO": 2, "not_enough_info": 2, "NEI": 2, "neutral": 2, 2: 2}),
        ("qqp", {"duplicate": 1, "not_duplicate": 0, "0": 0, 1: 1}),
        ("synthetic", {"entailment": 0, "not_entailment": 1, "not-entailment": 1, 0: 0, "1": 1}),
    ],
)
def test_spellings_of_the_labels(name, words):
    ids = label_ids(TASKS[name], TASKS[name].labels)
    assert {word: ids[spelling(word)] for word in words} == words


def test_spellings_of_the_labels_of_hans():
    hans = ood_set(TASKS["mnli"], "hans")
    ids = label_ids(TASKS["mnli"], hans.labels, hans.spellings)
    for word in ("not_entailment", "non-entailment", "non_entailment", "Not Entailment", 1, "1"):
        assert ids[spelling(word)] == 1
    for word in ("entailment", "Entailment", 0):
        assert ids[spelling(word)] == 0
    for word in ("neutral", 2, -1, "-", "", "entail"):
        assert spelling(word) not in ids


def test_labels_that_are_numbers_are_words():
    stars = named(
        "stars", definition={**MINE, "labels": ["1", "2", "3"], "spellings": {}, "ood": {"x": {}}}
    )
    assert label_ids(stars, stars.labels) == {"1": 0, "2": 1, "3": 2}
    signed = named("s", definition={**MINE, "labels": ["-1", "1"], "spellings": {}, "ood": {"x": {}}})
    assert label_ids(signed, signed.labels) == {spelling("-1"): 0, "1": 1}


@pytest.mark.parametrize(
    ("number", "value"),
    [
        *(("1.0", "1"), ("+1", "1"), ("01", "1"), (" 10 ", "10"), (-1.0, "-1"), ("-0.0", "0")),
        *((0.50, "0.5"), (".5", "0.5"), ("5.", "5"), (1e-05, "0.00001"), ("1E3", "1000")),
        (2**60, str(2**60)),
    ],
)
def test_numbers_are_compared_by_value(number, value):
    assert spelling(number) == value


@pytest.mark.parametrize("word", ["1_0", "_1", "1 2", "0x1", "1e9999", "nan", "", "1.0.0", "2-1"])
def test_what_is_no_number_is_a_word(word):
    assert spelling(word) == word.replace(" ", "_").replace("-", "_")


def test_the_command_line_names_the_task_before_it_writes(tmp_path, monkeypatch):
    files = [str(ROOT / "ds_configs" / name) for name in ("zero0.json", "tasks/mnli.json")]
    words = ["--set", "robust_compression.task.name=mnly", "--output_dir", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["train.py", "--deepspeed_config", *files, *words])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(UserError, match=r"'mnly'.*'mnli'"):
        runpy.run_path(str(ROOT / "train.py"))["main"]()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "partial", "keep"), [("mnli", 1, None), ("fever", 0, 0), ("qqp", 0, None)]
)
def test_which_text_the_partial_classifier_sees_and_which_is_cut_last(name, partial, keep):
    """Hypothesis, claim, first question; FEVER's long evidence is cut, not the claim."""
    assert (TASKS[name].partial, TASKS[name].keep) == (partial, keep)


@pytest.mark.parametrize(
    ("name", "split", "place"),
    [
        ("mnli", "train", ("nyu-mll/glue", "mnli", "train")),
        ("mnli", "dev", ("nyu-mll/glue", "mnli", "validation_matched")),
        ("mnli", "hans", ("jhu-cogsci/hans", None, "validation")),
        ("fever", "train", ("pietrolesci/nli_fever", None, "train")),
        ("fever", "dev", ("pietrolesci/nli_fever", None, "dev")),
        ("qqp", "train", ("nyu-mll/glue", "qqp", "train")),
        ("qqp", "dev", ("nyu-mll/glue", "qqp", "validation")),
        ("qqp", "paws_wiki", ("google-research-datasets/paws", "labeled_final", "test")),
        ("sst2", "train", ("nyu-mll/glue", "sst2", "train")),
        ("sst2", "dev", ("nyu-mll/glue", "sst2", "validation")),
        ("sst2", "imdb", ("stanfordnlp/imdb", "plain_text", "test")),
        ("sst2", "imdb_revised", ("tasksource/counterfactually-augmented-imdb", None, "test")),
        ("civil_comments", "train", ("google/civil_comments", None, "train")),
        ("civil_comments", "dev", ("google/civil_comments", None, "validation")),
        ("civil_comments", "hatecheck", ("Paul/hatecheck", None, "test")),
    ],
)
def test_where_the_hub_keeps_a_split(name, split, place):
    task = TASKS[name]
    hub = getattr(task, split) if split in ("train", "dev") else task.ood[split].hub
    assert (hub.path, hub.config, hub.split) == place
