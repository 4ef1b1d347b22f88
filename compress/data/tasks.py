"""The tasks as a table: columns, labels, hub ids of train / dev / OOD, label maps of the OOD sets.

A new task is a table entry, no code. Sources: Du et al. 2023, Sec. 3.2 and App. B; HANS: McCoy et
al. 2019; Symmetric: Schuster et al. 2019. Hub ids are those served as parquet, because `datasets`
no longer runs loading scripts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from compress.errors import UserError, nearest


@dataclass(frozen=True)
class Hub:
    """One split of a data set on the model hub."""

    path: str
    split: str
    config: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class OodSet:
    """An out-of-distribution test set of a task, for evaluation only.

    labels: the set's own labels in id order (empty: the task's); collapse: task label -> set label;
    subsets: columns whose values, with the gold label, split the report; files: names (without
    suffix) of published files read as they are, beside `ood_<name>`.
    """

    hub: Hub | None = None
    labels: tuple[str, ...] = ()
    collapse: Mapping[str, str] = field(default_factory=dict)
    subsets: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A sentence-pair classification task.

    texts: names of the two text columns; labels: in id order; optional_labels: left out where train
    has none of them; aliases: other names for columns and labels that files use.
    """

    name: str
    texts: tuple[str, str]
    labels: tuple[str, ...]
    train: Hub | None = None
    dev: Hub | None = None
    ood: Mapping[str, OodSet] = field(default_factory=dict)
    subsets: tuple[str, ...] = ()
    optional_labels: tuple[str, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_NLI_COLUMNS = {
    "premise": ("sentence1",),
    "hypothesis": ("sentence2",),
    "label": ("gold_label",),
}

TASKS: dict[str, Task] = {
    "synthetic": Task(
        name="synthetic",
        texts=("premise", "hypothesis"),
        labels=("entailment", "not_entailment"),
        ood={"synthetic": OodSet(subsets=("structure",))},
        subsets=("alignment",),
    ),
    "mnli": Task(
        name="mnli",
        texts=("premise", "hypothesis"),
        labels=("entailment", "neutral", "contradiction"),
        train=Hub("nyu-mll/glue", "train", config="mnli"),
        dev=Hub("nyu-mll/glue", "validation_matched", config="mnli"),
        ood={
            "hans": OodSet(
                hub=Hub("jhu-cogsci/hans", "validation", revision="refs/convert/parquet"),
                labels=("entailment", "not_entailment"),
                collapse={
                    "entailment": "entailment",
                    "neutral": "not_entailment",
                    "contradiction": "not_entailment",
                },
                subsets=("heuristic",),
                files=("heuristics_evaluation_set",),
            ),
            "stress": OodSet(subsets=("test",)),
        },
        aliases={**_NLI_COLUMNS, "not_entailment": ("non_entailment",)},
    ),
    "fever": Task(
        name="fever",
        texts=("claim", "evidence"),
        labels=("SUPPORTS", "REFUTES", "NOT ENOUGH INFO"),
        train=Hub("pietrolesci/nli_fever", "train"),
        dev=Hub("pietrolesci/nli_fever", "dev"),
        ood={"sym1": OodSet(), "sym2": OodSet()},
        optional_labels=("NOT ENOUGH INFO",),
        aliases={
            "claim": ("premise",),
            "evidence": ("evidence_sentence", "hypothesis"),
            "label": ("gold_label", "fever_gold_label"),
            "SUPPORTS": ("entailment",),
            "REFUTES": ("contradiction",),
            "NOT ENOUGH INFO": ("neutral", "NEI"),
        },
    ),
}


def find(name: str) -> Task:
    """The task of this name; UserError if there is none."""
    if name not in TASKS:
        raise UserError(
            f"robust_compression.task.name: no task is called '{name}'{nearest(name, TASKS)}"
        )
    return TASKS[name]


def ood_set(task: Task, name: str) -> OodSet:
    """The table entry of an OOD set, or a plain one with the task's own labels."""
    return task.ood.get(name, OodSet())


def label_ids(task: Task, labels: tuple[str, ...]) -> dict[str, int]:
    """Every spelling of the labels, normalised by `spelling`, and of their ids -> class id."""
    ids: dict[str, int] = {}
    for number, label in enumerate(labels):
        for word in (label, *task.aliases.get(label, ())):
            ids[spelling(word)] = number
        ids[str(number)] = number
    return ids


def spelling(label: object) -> str:
    """Label as compared: lower case, blanks and hyphens as underscores; ids as digits."""
    return str(label).strip().lower().replace("-", "_").replace(" ", "_")


def groups(task: Task, ood: OodSet, labels: tuple[str, ...]) -> tuple[int, ...]:
    """For each class id of the model the class id of the OOD set that it counts as."""
    if not ood.labels:
        return tuple(range(len(labels)))
    return tuple(ood.labels.index(ood.collapse[label]) for label in labels)
