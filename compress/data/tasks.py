"""The tasks: columns, labels, hub ids of train / dev / OOD, label maps of the OOD sets.

The shipped tasks are blocks of the same type as `task.definition` in the user's JSON. Sources: Du et
al. 2023, Sec. 3.2 and App. B; HANS: McCoy et al. 2019; Symmetric: Schuster et al. 2019; PAWS: Zhang et
al. 2019; SST-2: Socher et al. 2013; IMDB: Maas et al. 2011, revised reviews: Kaushik et al. 2020; Civil
Comments: Borkan et al. 2019, thresholded as in WILDS: Koh et al. 2021; HateCheck: Roettger
et al. 2021. Hub ids are those served as parquet, because `datasets` no longer runs loading scripts.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Literal

from pydantic import Field

from compress.configuration.task_schema import DefinitionBlock, HubBlock, OodBlock, TaskBlock
from compress.data.reading import without_suffix
from compress.errors import UserError, nearest


class Task(DefinitionBlock):
    """A definition with its name, and fields that only shipped tasks have."""

    name: str
    optional_labels: list[str] = Field(default=[])
    """The last of the labels, left out where train has no sample of them."""
    columns: dict[str, list[str]] = Field(default={})
    """Column -> other names that files have for it."""
    keep: Literal[0, 1] | None = None
    """The text that truncation cuts last; without one the longer text is cut first."""
    threshold: float | None = None
    """Of a task of two labels whose label column holds scores from 0 to 1: from this score on a row has
    the second label. OOD sets with labels of their own have no scores. None: numbers are ids."""
    id: str | None = None
    """Column of ids, where a configuration names one; files may lack it."""
    subgroups: list[str] = Field(default=[])
    """Columns of scores that make subsets which do not exclude each other; OOD sets may lack them."""
    defined: bool = False
    """Whether it is defined in the user's JSON: its files have the names given there and no others."""

    @property
    def single(self) -> bool:
        """Whether its samples are single texts, not pairs."""
        return len(self.texts) == 1


class ByteStrings(OodBlock):
    """An OOD set whose published file holds its texts as literals of byte strings, b'...'."""


class WithGaps(OodBlock):
    """An OOD set whose columns of subsets are empty in rows that they do not apply to."""


NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,3})?", re.IGNORECASE)
_GLUE = "nyu-mll/glue"
_CIVIL = "google/civil_comments"
_PARQUET = "refs/convert/parquet"
"""Branch on which the hub keeps its own conversion of a data set."""
_FEVER = "pietrolesci/nli_fever"
_PAWS = "google-research-datasets/paws"
_SHIPPED = (
    Task(
        name="synthetic",
        texts=["premise", "hypothesis"],
        labels=["entailment", "not_entailment"],
        ood={"synthetic": OodBlock(subsets=["structure"])},
        subsets=["alignment"],
    ),
    Task(
        name="mnli",
        texts=["premise", "hypothesis"],
        labels=["entailment", "neutral", "contradiction"],
        train=HubBlock(path=_GLUE, split="train", config="mnli"),
        dev=HubBlock(path=_GLUE, split="validation_matched", config="mnli"),
        ood={
            "hans": OodBlock(
                file="heuristics_evaluation_set",
                hub=HubBlock(path="jhu-cogsci/hans", split="validation", revision=_PARQUET),
                labels=["entailment", "not_entailment"],
                label_map={
                    "entailment": "entailment",
                    "neutral": "not_entailment",
                    "contradiction": "not_entailment",
                },
                spellings={"not_entailment": ["non_entailment"]},
                subsets=["heuristic"],
            ),
            "stress": OodBlock(subsets=["test"]),
        },
        columns={"premise": ["sentence1"], "hypothesis": ["sentence2"], "label": ["gold_label"]},
    ),
    Task(
        name="fever",
        texts=["claim", "evidence"],
        labels=["SUPPORTS", "REFUTES", "NOT ENOUGH INFO"],
        train=HubBlock(path=_FEVER, split="train"),
        dev=HubBlock(path=_FEVER, split="dev"),
        ood={
            "sym1": OodBlock(file="fever_symmetric_generated"),
            "sym2": OodBlock(file="fever_symmetric_test"),
        },
        optional_labels=["NOT ENOUGH INFO"],
        partial=0,
        keep=0,
        columns={
            "claim": ["premise"],
            "evidence": ["evidence_sentence", "hypothesis"],
            "label": ["gold_label", "fever_gold_label"],
        },
        spellings={
            "SUPPORTS": ["entailment"],
            "REFUTES": ["contradiction"],
            "NOT ENOUGH INFO": ["neutral", "NEI"],
        },
    ),
    Task(
        name="qqp",
        texts=["question1", "question2"],
        labels=["not_duplicate", "duplicate"],
        train=HubBlock(path=_GLUE, split="train", config="qqp"),
        dev=HubBlock(path=_GLUE, split="validation", config="qqp"),
        ood={
            "paws_qqp": ByteStrings(file="dev_and_test"),
            "paws_wiki": OodBlock(hub=HubBlock(path=_PAWS, split="test", config="labeled_final")),
        },
        columns={
            "question1": ["sentence1"],
            "question2": ["sentence2"],
            "label": ["is_duplicate"],
        },
        partial=0,
        symmetric=True,
    ),
    Task(
        name="sst2",
        texts=["sentence"],
        labels=["negative", "positive"],
        train=HubBlock(path=_GLUE, split="train", config="sst2"),
        dev=HubBlock(path=_GLUE, split="validation", config="sst2"),
        ood={
            "imdb": OodBlock(hub=HubBlock(path="stanfordnlp/imdb", split="test", config="plain_text")),
            "imdb_revised": OodBlock(
                hub=HubBlock(
                    path="tasksource/counterfactually-augmented-imdb", split="test", revision=_PARQUET
                )
            ),
        },
        columns={"sentence": ["text", "Text"], "label": ["Sentiment"]},
        spellings={"negative": ["neg"], "positive": ["pos"]},
    ),
    Task(
        name="civil_comments",
        texts=["text"],
        labels=["not_toxic", "toxic"],
        label="toxicity",
        threshold=0.5,
        train=HubBlock(path=_CIVIL, split="train"),
        dev=HubBlock(path=_CIVIL, split="validation"),
        ood={
            "hatecheck": WithGaps(
                hub=HubBlock(path="Paul/hatecheck", split="test", revision=_PARQUET),
                texts=["test_case"],
                label="label_gold",
                labels=["non-hateful", "hateful"],
                label_map={"not_toxic": "non-hateful", "toxic": "hateful"},
                subsets=["functionality", "target_ident"],
            ),
        },
        columns={"text": ["comment_text"], "toxicity": ["label", "target"]},
    ),
)
TASKS = {task.name: task for task in _SHIPPED}


def of(block: TaskBlock) -> Task:
    """The task that a configuration names or defines, with the further columns that it names.

    Raises UserError if there is none of this name, or if its definition contradicts itself, naming the
    key below `task.definition`.
    """
    task, more = _named(block), {"id": block.id, "subgroups": block.subgroups}
    return task.model_copy(update=more) if any(more.values()) else task


def _named(block: TaskBlock) -> Task:
    if block.definition is not None:
        return _defined(block.name, block.definition)
    if block.name not in TASKS:
        raise UserError(
            f"robust_compression.task.name: no task is called '{block.name}'"
            f"{nearest(block.name, TASKS)}"
        )
    return TASKS[block.name]


def _defined(name: str, block: DefinitionBlock) -> Task:
    key = "robust_compression.task.definition"
    if name in TASKS:
        raise UserError(f"robust_compression.task.name: '{name}' is taken by a task of the program.")
    _check_columns(key, block.texts, block.label)
    _check_single(key, block)
    for label in block.spellings:
        if label not in block.labels:
            raise UserError(f"{key}.spellings: '{label}' is no label{nearest(label, block.labels)}")
    names = [n for label in block.labels for n in (label, *block.spellings.get(label, ()))]
    _check_distinct(f"{key}.labels", names)
    for set_name, entry in block.ood.items():
        _check_ood(f"{key}.ood.{set_name}", entry, block)
    return Task(name=name, defined=True, **dict(block))


def _check_ood(key: str, block: OodBlock, task: DefinitionBlock) -> None:
    """Raise UserError if an OOD set of a definition contradicts itself or the task."""
    if (block.labels is None) != (block.label_map is None):
        missing = "labels" if block.labels is None else "label_map"
        raise UserError(f"{key}.{missing}: is missing; labels and label_map belong together.")
    if block.labels is not None and block.label_map is not None:
        _check_distinct(f"{key}.labels", block.labels)
        for label in task.labels:
            if label not in block.label_map:
                raise UserError(f"{key}.label_map: has no entry for the label '{label}' of the task.")
        for label, counts_as in block.label_map.items():
            if label not in task.labels:
                raise UserError(f"{key}.label_map: '{label}' is no label of the task.")
            if counts_as not in block.labels:
                raise UserError(f"{key}.label_map: '{counts_as}' is none of the set's labels.")
    if block.texts is not None and len(block.texts) != len(task.texts):
        raise UserError(
            f"{key}.texts: names {_counted(block.texts)}, but the task has {_counted(task.texts)} of "
            "text; name as many."
        )
    _check_columns(key, block.texts or task.texts, block.label or task.label)
    _check_spellings(key, block, task)


def _counted(columns: Sequence[str]) -> str:
    return "one column" if len(columns) == 1 else "two columns"


def _check_single(key: str, block: DefinitionBlock) -> None:
    """Raise UserError for a key that is given and means something for pairs of texts only."""
    for name in ("partial", "symmetric"):
        if len(block.texts) == 1 and name in block.model_fields_set:
            raise UserError(
                f"{key}.{name}: has no effect, because the task has one column of text; leave it out."
            )


def _check_spellings(key: str, block: OodBlock, task: DefinitionBlock) -> None:
    """Raise UserError if a spelling means two labels of an OOD set, or is of no label of it."""
    labels = block.labels or task.labels
    for label in block.spellings:
        if label not in labels:
            raise UserError(
                f"{key}.spellings: '{label}' is no label of the set{nearest(label, labels)}"
            )
    names = [
        name
        for label in labels
        for name in sorted({label, *task.spellings.get(label, ()), *block.spellings.get(label, ())})
    ]
    _check_distinct(f"{key}.{'spellings' if block.spellings else 'labels'}", names)


def _check_columns(key: str, texts: Sequence[str], label: str) -> None:
    if len(set(texts)) < len(texts):
        raise UserError(f"{key}.texts: names the column '{texts[0]}' twice.")
    if label in texts:
        raise UserError(f"{key}.label: the column '{label}' is a text already.")


def _check_distinct(key: str, names: Sequence[str]) -> None:
    spellings = [spelling(name) for name in names]
    for name in names:
        if spellings.count(spelling(name)) > 1:
            raise UserError(f"{key}: '{name}' stands for two labels, or twice.")


def stems(task: Task, split: str, entry: OodBlock | None) -> tuple[str, ...]:
    """File names, without suffix, that a split may have; entry: of an OOD set.

    A shipped OOD set may have the name of its published file or `ood_<name>`.
    """
    name = getattr(task, split) if entry is None else entry.file
    if not isinstance(name, str):
        return (split,)
    stem = without_suffix(name)
    return (stem,) if task.defined or entry is None else (split, stem)


def ood_set(task: Task, name: str) -> OodBlock:
    """The table entry of an OOD set, or a plain one with the task's own labels."""
    return task.ood.get(name, OodBlock())


def columns(task: Task, entry: OodBlock) -> list[tuple[str, ...]]:
    """For each text and the label, the names that its column may have, the usual one first."""
    texts: Sequence[str | None] = entry.texts or [None] * len(task.texts)
    return [
        (given,) if given is not None else (name, *task.columns.get(name, ()))
        for given, name in zip((*texts, entry.label), (*task.texts, task.label), strict=True)
    ]


def label_ids(
    task: Task, labels: Sequence[str], more: Mapping[str, Sequence[str]] | None = None
) -> dict[str, int]:
    """Every spelling of the labels, normalised by `spelling`, -> class id.

    more: further spellings, beside the task's. Ids count as labels too, unless some label is itself a
    number.
    """
    ids = {
        spelling(name): number
        for number, label in enumerate(labels)
        for name in (label, *task.spellings.get(label, ()), *(more or {}).get(label, ()))
    }
    if any(map(is_number, ids)):
        return ids
    return {str(number): number for number in range(len(labels))} | ids


def is_number(name: str) -> bool:
    """Whether a label is written as a number, such as 1, -1 or 0.5."""
    return NUMBER.fullmatch(name.strip()) is not None


def spelling(label: object) -> str:
    """Label as compared: lower case, blanks and hyphens as underscores; a number by its value."""
    text = str(label).strip()
    return _by_value(text) if is_number(text) else text.lower().replace("-", "_").replace(" ", "_")


def _by_value(number: str) -> str:
    """A number without a plus, needless zeros and an exponent: 1 for "1.0", "+1" and "1e0"."""
    whole, _, fraction = f"{Decimal(number):f}".partition(".")
    fraction = fraction.rstrip("0")
    written = f"{whole}.{fraction}" if fraction else whole
    return "0" if written == "-0" else written


def groups(ood: OodBlock, labels: Sequence[str]) -> tuple[int, ...]:
    """For each class id of the model the class id of the OOD set that it counts as."""
    if ood.labels is None or ood.label_map is None:
        return tuple(range(len(labels)))
    return tuple(ood.labels.index(ood.label_map[label]) for label in labels)
