"""The tasks as a table: columns, labels, hub ids of train / dev / OOD, label maps of the OOD sets.

A new task is a table entry, no code; `of` makes the same from `task.definition` in the user's JSON.
Sources: Du et al. 2023, Sec. 3.2 and App. B; HANS: McCoy et al. 2019; Symmetric: Schuster et al. 2019;
PAWS: Zhang et al. 2019. Hub ids are those served as parquet, because `datasets`
no longer runs loading scripts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from compress.configuration.task_schema import DefinitionBlock, HubBlock, OodBlock, TaskBlock
from compress.data.reading import SUFFIXES
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

    texts, label: names of the set's own columns (None: the task's); labels: its own labels in id order
    (empty: the task's); collapse: task label -> set label; spellings: other words for a label in this
    set; subsets: columns whose values, with the gold label, split the report; files: names (without
    suffix) of published files read as they are, beside `ood_<name>`; byte_strings: texts are written
    as b'...' there.
    """

    hub: Hub | None = None
    texts: tuple[str, str] | None = None
    label: str | None = None
    labels: tuple[str, ...] = ()
    collapse: Mapping[str, str] = field(default_factory=dict)
    spellings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    subsets: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    byte_strings: bool = False


@dataclass(frozen=True)
class Task:
    """A sentence-pair classification task.

    texts, label: names of the columns; labels: in id order; optional_labels: left out where train
    has none of them; aliases: other names for columns and labels that files use; partial: which of the
    texts a partial-input classifier sees (hypothesis, claim, first question); files: names of train
    and dev in data_dir; keep: the text that truncation cuts last; symmetric: exchanging the texts makes
    the same pair; defined: in the user's JSON.
    """

    name: str
    texts: tuple[str, str]
    labels: tuple[str, ...]
    label: str = "label"
    train: Hub | None = None
    dev: Hub | None = None
    ood: Mapping[str, OodSet] = field(default_factory=dict)
    subsets: tuple[str, ...] = ()
    optional_labels: tuple[str, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    partial: int = 1
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keep: int | None = None
    symmetric: bool = False
    defined: bool = False


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
        ood={
            "sym1": OodSet(files=("fever_symmetric_generated",)),
            "sym2": OodSet(files=("fever_symmetric_test",)),
        },
        optional_labels=("NOT ENOUGH INFO",),
        partial=0,
        keep=0,
        aliases={
            "claim": ("premise",),
            "evidence": ("evidence_sentence", "hypothesis"),
            "label": ("gold_label", "fever_gold_label"),
            "SUPPORTS": ("entailment",),
            "REFUTES": ("contradiction",),
            "NOT ENOUGH INFO": ("neutral", "NEI"),
        },
    ),
    "qqp": Task(
        name="qqp",
        texts=("question1", "question2"),
        labels=("not_duplicate", "duplicate"),
        train=Hub("nyu-mll/glue", "train", config="qqp"),
        dev=Hub("nyu-mll/glue", "validation", config="qqp"),
        ood={
            "paws_qqp": OodSet(files=("dev_and_test",), byte_strings=True),
            "paws_wiki": OodSet(
                hub=Hub("google-research-datasets/paws", "test", config="labeled_final")
            ),
        },
        aliases={
            "question1": ("sentence1",),
            "question2": ("sentence2",),
            "label": ("is_duplicate",),
        },
        partial=0,
        symmetric=True,
    ),
}


def of(block: TaskBlock) -> Task:
    """The task that a configuration names or defines.

    Raises UserError if there is none of this name, or if its definition does not hold together.
    """
    if block.definition is not None:
        return _defined(block.name, block.definition)
    if block.name not in TASKS:
        raise UserError(
            f"robust_compression.task.name: no task is called '{block.name}'"
            f"{nearest(block.name, TASKS)}"
        )
    return TASKS[block.name]


def _defined(name: str, block: DefinitionBlock) -> Task:
    """A task of the user's own; every sentence names the key below `task.definition`."""
    key = "robust_compression.task.definition"
    if name in TASKS:
        raise UserError(f"robust_compression.task.name: '{name}' is taken by a task of the program.")
    _check_columns(key, block.texts, block.label)
    for label in block.spellings:
        if label not in block.labels:
            raise UserError(f"{key}.spellings: '{label}' is no label{nearest(label, block.labels)}")
    words = [w for label in block.labels for w in (label, *block.spellings.get(label, ()))]
    _check_distinct(f"{key}.labels", words)
    places = {split: getattr(block, split) for split in ("train", "dev")}
    return Task(
        name=name,
        texts=_pair(block.texts),
        labels=tuple(block.labels),
        label=block.label,
        train=_hub(places["train"]),
        dev=_hub(places["dev"]),
        ood={n: _defined_ood(f"{key}.ood.{n}", n, entry, block) for n, entry in block.ood.items()},
        aliases=_spellings(block.spellings),
        partial=block.partial,
        symmetric=block.symmetric,
        files={split: (_stem(p),) for split, p in places.items() if isinstance(p, str)},
        defined=True,
    )


def _defined_ood(key: str, name: str, block: OodBlock, task: DefinitionBlock) -> OodSet:
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
    _check_columns(key, block.texts or task.texts, block.label or task.label)
    _check_spellings(key, block, task)
    return OodSet(
        hub=_hub(block.hub),
        texts=_pair(block.texts) if block.texts else None,
        label=block.label,
        labels=tuple(block.labels or ()),
        collapse=block.label_map or {},
        spellings=_spellings(block.spellings),
        subsets=tuple(block.subsets),
        files=(_stem(block.file),) if block.file else (),
    )


def _check_spellings(key: str, block: OodBlock, task: DefinitionBlock) -> None:
    """Raise UserError if a word means two labels of an OOD set, or a label is none of the set's."""
    labels = block.labels or task.labels
    for label in block.spellings:
        if label not in labels:
            raise UserError(
                f"{key}.spellings: '{label}' is no label of the set{nearest(label, labels)}"
            )
    words = [
        word
        for label in labels
        for word in sorted({label, *task.spellings.get(label, ()), *block.spellings.get(label, ())})
    ]
    _check_distinct(f"{key}.{'spellings' if block.spellings else 'labels'}", words)


def _pair(texts: Sequence[str]) -> tuple[str, str]:
    return texts[0], texts[1]


def _spellings(words: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    return {label: tuple(others) for label, others in words.items()}


def _hub(block: HubBlock | str | None) -> Hub | None:
    return Hub(**block.model_dump()) if isinstance(block, HubBlock) else None


def _stem(name: str) -> str:
    """A file name without the suffixes that can be read."""
    endings = [suffix for suffix in SUFFIXES if name.endswith(suffix)]
    return name.removesuffix(max(endings, key=len, default=""))


def _check_columns(key: str, texts: Sequence[str], label: str) -> None:
    if texts[0] == texts[1]:
        raise UserError(f"{key}.texts: names the column '{texts[0]}' twice.")
    if label in texts:
        raise UserError(f"{key}.label: the column '{label}' is a text already.")


def _check_distinct(key: str, words: Sequence[str]) -> None:
    spelled = [spelling(word) for word in words]
    for word, once in zip(words, spelled, strict=True):
        if spelled.count(once) > 1:
            raise UserError(f"{key}: '{word}' stands for two labels, or twice.")


def ood_set(task: Task, name: str) -> OodSet:
    """The table entry of an OOD set, or a plain one with the task's own labels."""
    return task.ood.get(name, OodSet())


def columns(task: Task, entry: OodSet) -> list[tuple[str, ...]]:
    """Of the two texts and the label, the names that their columns may have, the proper one first."""
    own = (*(entry.texts or (None, None)), entry.label)
    return [
        (given,) if given is not None else (name, *task.aliases.get(name, ()))
        for given, name in zip(own, (*task.texts, task.label), strict=True)
    ]


def label_ids(
    task: Task, labels: tuple[str, ...], more: Mapping[str, tuple[str, ...]] | None = None
) -> dict[str, int]:
    """Every spelling of the labels, normalised by `spelling`, -> class id.

    more: other words for a label, beside the task's. Ids count as labels too, unless some label is
    itself a number.
    """
    words = {
        spelling(word): number
        for number, label in enumerate(labels)
        for word in (label, *task.aliases.get(label, ()), *(more or {}).get(label, ()))
    }
    if any(word.lstrip("_").isdigit() for word in words):
        return words
    return {str(number): number for number in range(len(labels))} | words


def spelling(label: object) -> str:
    """Label as compared: lower case, blanks and hyphens as underscores; ids as digits."""
    return str(label).strip().lower().replace("-", "_").replace(" ", "_")


def groups(task: Task, ood: OodSet, labels: tuple[str, ...]) -> tuple[int, ...]:
    """For each class id of the model the class id of the OOD set that it counts as."""
    if not ood.labels:
        return tuple(range(len(labels)))
    return tuple(ood.labels.index(ood.collapse[label]) for label in labels)
