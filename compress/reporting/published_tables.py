"""Tables of a study's report that hold the numbers of Du et al. 2023 beside the measured ones.

Where nothing published can be shown, a table without rows says why.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from compress.reporting.estimates import NONE, number, percent, signed
from compress.reporting.numbers import fixed
from compress.reporting.study_tables import (
    DEV,
    HALVES,
    chance_mark,
    label,
    list_of,
    may_be_bold,
    measured,
    of_models,
    on_each,
    without_bias,
)
from compress.reporting.tables import Column, Table
from compress.study import published
from compress.study.analysis import BASELINE, Model, Task
from compress.study.figures import mean_of

PAPER = "Du et al. 2023"
_OTHER_MEASURE = (
    f"{{}}: {PAPER} takes Delta and F_bias of the accuracy, these runs take them of the {{}}, so "
    "nothing published stands beside them."
)
NOTES = {
    "table3": " The paper's heads are the mean of its three draws (116heads-v1 to v3).",
    "figure3": " The figure prints no numbers: those of Table 1 (vanilla) and Table 4 (losses at 40 %) "
    "stand for its points.",
}


def all_of(task: Task, table: str | None) -> list[Table]:
    """What stands beside the measured numbers; table: the name of a published one, None for nothing."""
    if table is None:
        return []
    if task.measure:
        return [Table(_OTHER_MEASURE.format(task.name, task.measure))]
    if task.data not in published.TEACHER:
        return [Table(f"{task.name}: no task of {PAPER}, so it has no published numbers.")]
    if table == "table6":
        return [halves(task)]
    if table == "figure1":
        return [gaps(task)]
    return [found for found in (pooled(task, table), by_set(task, table)) if found.caption]


def _entries(task: Task, table: str) -> dict[Model, published.Entry]:
    """The printed rows of the students, that of the teacher before them; empty if there is none."""
    rows = {model: published.entry(table, task.data, *model.name) for model in task.students}
    found = {model: row for model, row in rows.items() if row is not None}
    teacher = published.teacher(task.data)
    return {task.teacher: teacher, **found} if found and teacher else {}


def _printed(rows: Mapping[Model, Mapping[str, float | None]]) -> list[Column[Model]]:
    """Columns of printed values, by name: F_bias with three digits, accuracies in percent."""

    def cell(model: Model, name: str) -> str:
        value = rows[model][name]
        return "-" if value is None else fixed(value, 3 if name == "F_bias" else 1)

    return [(f"paper: {name}", partial(cell, name=name)) for name in next(iter(rows.values()))]


def pooled(task: Task, table: str) -> Table:
    """Dev, pooled OOD, Delta and F_bias over the OOD sets of the paper, and what it prints."""
    names, entries = published.ood_sets(task.data), _entries(task, table)
    if missing := _missing(task):
        return Table(
            f"{task.name}: {table} of {PAPER} is left out: its OOD accuracy and F_bias are "
            f"over {list_of(names)}, and {list_of(missing)} was not evaluated."
        )
    if not entries:
        return Table(f"{task.name}: {table} of {PAPER} has none of these models on this task.")
    model = published.MODELS.get(table, "BERT-base")
    caption = (
        f"{task.name}: measured beside {table} of {PAPER} ({model}, full data, three runs; F_bias as "
        f"printed); OOD: {list_of(names)}.{NOTES.get(table, '')}{without_bias(task, names)}"
    )
    printed = {
        model: {"dev": 100 * entry.dev, "OOD": 100 * entry.pooled, "F_bias": entry.f_bias}
        for model, entry in entries.items()
    }
    return of_models(caption, task, printed, [*measured(task, names, digits=3), *_printed(printed)])


def by_set(task: Task, table: str) -> Table:
    """Dev and each OOD set that was evaluated; empty where the paper has one set or no such models."""
    names = [name for name in published.ood_sets(task.data) if name in task.teacher.ood_sets]
    entries = _entries(task, table)
    if len(published.ood_sets(task.data)) < 2 or not names or not entries:
        return Table("")
    printed = {
        model: {"dev": 100 * entry.dev, **{list_of([name]): 100 * entry.ood[name] for name in names}}
        for model, entry in entries.items()
    }
    pairs = zip([DEV, *on_each(task, names)], _printed(printed), strict=True)
    caption = f"{task.name}: each OOD set beside {table} of {PAPER}.{NOTES.get(table, '')}"
    return of_models(caption, task, printed, [column for pair in pairs for column in pair])


Pairs = Sequence[tuple[Task, Model]]
"""A model of each task."""


def averages(tasks: Sequence[Task], table: str | None) -> Table | None:
    """Dev, Delta and F_bias averaged over the tasks of the paper, where it prints the last.

    None without a table that does, or if the study lacks one of the tasks.
    """
    found = {task.data: task for task in tasks}
    if table is None or not published.has_averages(table) or not set(published.TEACHER) <= set(found):
        return None
    if other := [task for task in found.values() if task.measure]:
        return Table(_OTHER_MEASURE.format("No average over the tasks", other[0].measure))
    if len(found) < len(tasks):
        return Table("No average over the tasks: two of them are of the same data.")
    chosen = [found[name] for name in published.TEACHER]
    if missing := [name for task in chosen for name in _missing(task)]:
        return Table(
            f"No average over {', '.join(published.TEACHER)}: {list_of(missing)} was not evaluated."
        )
    same = [
        [(task, model) for task in chosen for model in task.students if model.name == first.name]
        for first in chosen[0].students
    ]
    caption = (
        f"Mean over {', '.join(published.TEACHER)}, each over the OOD sets of the paper, beside "
        f"{table} of {PAPER} (its mean as printed). † A teacher is not clearly above the majority "
        "class on one of the sets."
    )
    without = [without_bias(task, _sets(task)) for task in chosen]
    caption += "".join(f" {task.name}:{why}" for task, why in zip(chosen, without, strict=True) if why)
    return Table.of(caption, [row for row in same if len(row) == len(chosen)], _mean_columns(table))


def _mean_columns(table: str) -> list[Column[Pairs]]:
    """Columns of `averages`: means over the tasks of one model."""

    def name(pairs: Pairs) -> str:
        return label(pairs[0][1]) + " ‡" * any(task.collapsed(model) for task, model in pairs)

    def difference(pairs: Pairs) -> str:
        found = [model.delta_difference(task.teacher, _sets(task)) for task, model in pairs]
        bold = all(may_be_bold(task, model) for task, model in pairs)
        return signed(mean_of(found).estimate(), 3, bold=bold)

    def bias(pairs: Pairs) -> str:
        found = [model.f_bias(task.teacher, _sets(task)) for task, model in pairs]
        known = [figures for figures in found if figures is not None]
        if len(known) < len(found):
            return NONE
        marks = {chance_mark(task, _sets(task)) for task, _ in pairs}
        return number(mean_of(known).estimate(), 3) + max(marks)

    def printed(pairs: Pairs) -> str:
        found = published.average(table, *pairs[0][1].name)
        return "-" if found is None else fixed(found, 3)

    return [
        ("model", name),
        ("dev", lambda pairs: percent(mean_of([model.dev for _, model in pairs]))),
        ("Delta", lambda pairs: number(mean_of([m.delta(_sets(t)) for t, m in pairs]).estimate(), 3)),
        ("Delta - teacher", difference),
        ("F_bias", bias),
        ("paper: F_bias", printed),
    ]


def halves(task: Task) -> Table:
    """Table 6 and the measured rows: dev, HANS, easy, hard, gap."""
    found = {m: published.easy_hard(task.data, *m.name) for m in task.students if m.gap is not None}
    printed = {model: row for model, row in found.items() if row is not None}
    if not printed:
        return Table(
            f"{task.name}: table6 of {PAPER} has none of these models; it is about MNLI, vanilla and "
            "rmc at 40 % sparsity and for MiniLM."
        )
    hans = on_each(task, [name for name in ["ood_hans"] if name in task.teacher.ood_sets])
    note = "" if hans else " HANS was not evaluated."
    columns = [DEV, *(hans or [("hans", lambda _: "-")]), *HALVES, *_printed(printed)]
    return of_models(f"{task.name}: measured beside table6 of {PAPER}.{note}", task, printed, columns)


def gaps(task: Task) -> Table:
    """The gaps that the text gives for Figure 1 (vanilla at 40 and 85 %), and the measured ones."""
    printed = {}
    for model in task.students:
        sparsity = round(float(np.mean(model.each("sparsity") or [0])), 2)
        if model.name[1] == BASELINE and model.gap and sparsity in published.FIGURE1_GAPS:
            printed[model] = {"gap": published.FIGURE1_GAPS[sparsity]}
    if task.data != "mnli" or not printed:
        return Table(
            f"{task.name}: the text of {PAPER} gives no gap of Figure 1 for these models; it does for "
            "MNLI, vanilla at 40 and 85 % sparsity."
        )
    caption = f"{task.name}: gap between easy and hard beside Figure 1 of {PAPER}."
    return of_models(caption, task, printed, [HALVES[-1], *_printed(printed)])


def _sets(task: Task) -> list[str]:
    """The OOD sets of the paper."""
    return published.ood_sets(task.data)


def _missing(task: Task) -> list[str]:
    """OOD sets of the paper that the task was not evaluated on."""
    return [name for name in _sets(task) if name not in task.teacher.ood_sets]
