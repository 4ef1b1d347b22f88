"""The task table: spellings of labels and columns, and what each OOD set counts as."""

import pytest

from compress.data.tasks import TASKS, OodSet, find, groups, label_ids, ood_set, spelling
from compress.errors import UserError

TASK_SETS = [(task, name) for task in TASKS.values() for name in task.ood]


def test_find_names_the_nearest_task():
    assert find("fever") is TASKS["fever"]
    with pytest.raises(UserError, match=r"robust_compression\.task\.name.*'mnly'.*'mnli'"):
        find("mnly")


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_table_holds_together(task):
    assert TASKS[task.name] is task
    assert len(set(task.labels)) == len(task.labels) >= 2
    assert len(set(task.texts)) == 2
    assert (task.train is None) == (task.dev is None)
    assert task.ood
    kept = tuple(label for label in task.labels if label not in task.optional_labels)
    assert task.labels == (*kept, *task.optional_labels), "ids shift unless optional ones come last"
    assert len(kept) >= 2


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_no_spelling_means_two_labels(task):
    for labels in {task.labels, *(entry.labels or task.labels for entry in task.ood.values())}:
        spellings = [
            {spelling(word) for word in (label, *task.aliases.get(label, ()))} for label in labels
        ]
        assert sum(map(len, spellings)) == len(set.union(*spellings))
        assert len(label_ids(task, labels)) == sum(map(len, spellings)) + len(labels)


@pytest.mark.parametrize(("task", "name"), TASK_SETS, ids=[f"{t.name}-{n}" for t, n in TASK_SETS])
def test_every_label_of_the_task_counts_as_one_of_the_set(task, name):
    entry = ood_set(task, name)
    ids = groups(task, entry, task.labels)
    names = entry.labels or task.labels
    assert len(ids) == len(task.labels)
    assert set(ids) == set(range(len(names)))
    assert bool(entry.labels) == bool(entry.collapse)


def test_three_classes_collapse_to_the_two_of_hans():
    task = TASKS["mnli"]
    assert task.labels == ("entailment", "neutral", "contradiction")
    assert groups(task, ood_set(task, "hans"), task.labels) == (0, 1, 1)


def test_a_set_without_labels_of_its_own_has_those_of_the_model():
    fever = TASKS["fever"]
    assert groups(fever, ood_set(fever, "sym1"), fever.labels) == (0, 1, 2)
    assert groups(fever, ood_set(fever, "sym1"), fever.labels[:2]) == (0, 1)


def test_a_set_that_the_table_does_not_know_is_a_plain_one():
    assert ood_set(TASKS["mnli"], "mine") == OodSet()
    assert ood_set(TASKS["mnli"], "hans") is TASKS["mnli"].ood["hans"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mnli", {"entailment": 0, "NEUTRAL": 1, " contradiction ": 2, "0": 0, 1: 1, "2": 2}),
        ("fever", {"SUPPORTS": 0, "supports": 0, "entailment": 0, "REFUTES": 1, "contradiction": 1}),
        ("fever", {"NOT ENOUGH INFO": 2, "not_enough_info": 2, "NEI": 2, "neutral": 2, 2: 2}),
        ("synthetic", {"entailment": 0, "not_entailment": 1, "not-entailment": 1, 0: 0, "1": 1}),
    ],
)
def test_spellings_of_the_labels(name, words):
    ids = label_ids(TASKS[name], TASKS[name].labels)
    assert {word: ids[spelling(word)] for word in words} == words


def test_spellings_of_the_labels_of_hans():
    ids = label_ids(TASKS["mnli"], ood_set(TASKS["mnli"], "hans").labels)
    for word in ("not_entailment", "non-entailment", "non_entailment", "Not Entailment", 1, "1"):
        assert ids[spelling(word)] == 1
    for word in ("entailment", "Entailment", 0):
        assert ids[spelling(word)] == 0
    for word in ("neutral", 2, -1, "-", "", "entail"):
        assert spelling(word) not in ids
