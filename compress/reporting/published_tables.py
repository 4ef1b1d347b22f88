"""Tables of a study's report that hold the numbers of Du et al. 2023 beside ours.

Where nothing published can stand, a table without rows says why.
"""

from collections.abc import Sequence

import numpy as np

from compress.reporting.estimates import NONE, number, percent, signed
from compress.reporting.numbers import fixed
from compress.reporting.study_tables import TEACHERS, label, marked, without_bias
from compress.reporting.tables import Table
from compress.study import published
from compress.study.analysis import BASELINE, Figures, Model, Task, mean_of

PAPER = "Du et al. 2023"
NOTES = {
    "table3": " The paper's heads are the mean of its three draws (116heads-v1 to v3).",
    "figure3": " The figure prints no numbers: those of Table 1 (vanilla) and Table 4 (losses at 40 %) "
    "stand for its points.",
}


def all_of(task: Task, table: str | None) -> list[Table]:
    """What stands beside ours; table: the name of a published one, None for nothing."""
    if table is None:
        return []
    if task.data not in published.TEACHER:
        return [_line(f"{task.name}: no task of {PAPER}, so no published numbers stand here.")]
    if table == "table6":
        return [halves(task)]
    if table == "figure1":
        return [gaps(task)]
    found = [pooled(task, table), by_set(task, table)]
    return [one for one in found if one is not None]


def _line(sentence: str) -> Table:
    """A sentence in the place of a table."""
    return Table(sentence, [], [])


def pooled(task: Task, table: str) -> Table:
    """Dev, pooled OOD, Delta and F_bias over the OOD sets of the paper, and what it prints."""
    names, told = published.ood_sets(task.data), published.teacher(task.data)
    assert told is not None
    if missing := _missing(task):
        return _line(
            f"{task.name}: {table} of {PAPER} does not stand here: its OOD accuracy and F_bias are "
            f"over {_list(names)}, and {_list(missing)} was not evaluated."
        )
    rows = []
    for model in task.students:
        entry = published.entry(table, task.data, *model.name)
        if entry is not None and entry.f_bias is not None:
            apart = signed(model.delta_difference(task.teacher, names).estimate(), 3)
            bias = _bias(model.f_bias(task.teacher, names), [task])
            paper = [fixed(100 * entry.dev, 1), fixed(100 * entry.pooled, 1), fixed(entry.f_bias, 3)]
            rows.append([marked(task, model), *_ours(model, names), apart, bias, *paper])
    if not rows:
        return _line(f"{task.name}: {table} of {PAPER} has none of these models on this task.")
    paper = [fixed(100 * told.dev, 1), fixed(100 * told.pooled, 1), "-"]
    rows.insert(0, ["teacher", *_ours(task.teacher, names), "-", "-", *paper])
    whose = published.MODELS.get(table, "BERT-base")
    caption = (
        f"{task.name}: ours beside {table} of {PAPER} ({whose}, full data, three runs; F_bias as "
        f"printed); OOD: {_list(names)}.{NOTES.get(table, '')}{without_bias(task, names)}"
    )
    header = ["model", "dev", "OOD", "Delta", TEACHERS, "F_bias"]
    return Table(caption, [*header, "paper: dev", "paper: OOD", "paper: F_bias"], rows)


def by_set(task: Task, table: str) -> Table | None:
    """Dev and each OOD set that was evaluated, where the paper has several."""
    names = [name for name in published.ood_sets(task.data) if name in task.teacher.ood_sets]
    if len(published.ood_sets(task.data)) < 2 or not names:
        return None
    entries = {model.name: published.entry(table, task.data, *model.name) for model in task.students}
    entries[task.teacher.name] = published.teacher(task.data) if any(entries.values()) else None
    rows = []
    for model in (task.teacher, *task.students):
        if (entry := entries[model.name]) is not None:
            cells = [percent(model.dev), fixed(100 * entry.dev, 1)]
            for name in names:
                cells += [percent(model.parts[name, ""]), fixed(100 * entry.ood[name], 1)]
            rows.append([marked(task, model), *cells])
    header = ["model", "dev", "paper: dev"]
    for name in names:
        told = name.removeprefix("ood_")
        header += [told + " †" * (name in task.at_chance), f"paper: {told}"]
    caption = f"{task.name}: each OOD set beside {table} of {PAPER}.{NOTES.get(table, '')}"
    return Table(caption, header, rows) if rows else None


def averages(tasks: Sequence[Task], table: str | None) -> Table | None:
    """Dev, Delta and F_bias averaged over the tasks of the paper, where it prints the last.

    None without a table that does, or if the study lacks one of the tasks.
    """
    found = {task.data: task for task in tasks}
    if table is None or not published.has_averages(table) or not set(published.TEACHER) <= set(found):
        return None
    if len(found) < len(tasks):
        return _line("No average over the tasks: two of them are of the same data.")
    chosen = [found[name] for name in published.TEACHER]
    if missing := [name for task in chosen for name in _missing(task)]:
        return _line(
            f"No average over {', '.join(published.TEACHER)}: {_list(missing)} was not evaluated."
        )
    rows = []
    for first in chosen[0].students:
        same = [next((m for m in task.students if m.name == first.name), None) for task in chosen]
        pairs = [(task, model) for task, model in zip(chosen, same, strict=True) if model is not None]
        if len(pairs) == len(chosen):
            rows.append(_average(pairs, table))
    caption = (
        f"Mean over {', '.join(published.TEACHER)}, each over the OOD sets of the paper, beside "
        f"{table} of {PAPER} (its mean as printed). † A teacher is not above the majority class "
        "on one of the sets."
    )
    without = [without_bias(task, published.ood_sets(task.data)) for task in chosen]
    caption += "".join(f" {task.name}:{why}" for task, why in zip(chosen, without, strict=True) if why)
    return Table(caption, ["model", "dev", "Delta", TEACHERS, "F_bias", "paper: F_bias"], rows)


def _average(pairs: Sequence[tuple[Task, Model]], table: str) -> list[str]:
    """A row of `averages`: one model, with the task of each."""
    names = [published.ood_sets(task.data) for task, _ in pairs]
    dev = mean_of([model.dev for _, model in pairs])
    delta = mean_of([m.delta(sets) for (_, m), sets in zip(pairs, names, strict=True)])
    apart = mean_of(
        [m.delta_difference(task.teacher, sets) for (task, m), sets in zip(pairs, names, strict=True)]
    )
    biases = [m.f_bias(task.teacher, sets) for (task, m), sets in zip(pairs, names, strict=True)]
    known = [bias for bias in biases if bias is not None]
    mean = mean_of(known) if len(known) == len(biases) else None
    name = label(pairs[0][1]) + " ‡" * any(task.collapsed(model) for task, model in pairs)
    paper = published.average(table, *pairs[0][1].name)
    told = "-" if paper is None else fixed(paper, 3)
    cells = [percent(dev), number(delta.estimate(), 3), signed(apart.estimate(), 3)]
    cells.append(_bias(mean, [task for task, _ in pairs]))
    return [name, *cells, told]


def halves(task: Task) -> Table:
    """Table 6 and ours: dev, HANS, easy, hard, gap."""
    measured = "ood_hans" in task.teacher.ood_sets
    rows = []
    for model in task.students:
        found = published.easy_hard(task.data, *model.name)
        if found is not None and model.gap is not None:
            hans = percent(model.parts["ood_hans", ""]) if measured else "-"
            both = [percent(model.parts["dev", half]) for half in ("easy", "hard")]
            ours = [percent(model.dev), hans, *both, number(model.gap.estimate(), 1, 100)]
            paper = (found.dev, found.hans, found.easy, found.hard, found.gap)
            rows.append([marked(task, model), *ours, *(fixed(value, 1) for value in paper)])
    if not rows:
        return _line(
            f"{task.name}: table6 of {PAPER} has none of these models; it is about MNLI, vanilla and "
            "rmc at 40 % sparsity and for MiniLM."
        )
    names = ["dev", "hans", "easy", "hard", "gap"]
    paper_names = [f"paper: {name}" for name in names]
    names[1] += " †" * ("ood_hans" in task.at_chance)
    note = "" if measured else " HANS was not evaluated."
    caption = f"{task.name}: ours beside table6 of {PAPER}.{note}"
    return Table(caption, ["model", *names, *paper_names], rows)


def gaps(task: Task) -> Table:
    """The gaps that the text gives for Figure 1 (vanilla at 40 and 85 %), and ours."""
    rows = []
    for model in task.students:
        level = round(float(np.mean(model.each("sparsity") or [0])), 2)
        told = published.FIGURE1_GAPS.get(level) if model.name[1] == BASELINE else None
        if task.data == "mnli" and told is not None and model.gap is not None:
            rows.append([marked(task, model), number(model.gap.estimate(), 1, 100), fixed(told, 1)])
    if not rows:
        return _line(
            f"{task.name}: the text of {PAPER} gives no gap of Figure 1 for these models; it does for "
            "MNLI, vanilla at 40 and 85 % sparsity."
        )
    caption = f"{task.name}: gap between easy and hard beside Figure 1 of {PAPER}."
    return Table(caption, ["model", "gap", "paper: gap"], rows)


def _ours(model: Model, names: Sequence[str]) -> list[str]:
    """Dev, OOD accuracy and Delta over some OOD sets."""
    delta = number(model.delta(names).estimate(), 3)
    return [percent(model.dev), percent(model.pool(names)), delta]


def _bias(found: Figures | None, tasks: Sequence[Task]) -> str:
    """F_bias over the OOD sets of the paper, marked as `averages` says."""
    if found is None:
        return NONE
    lost = any(set(published.ood_sets(task.data)) & set(task.at_chance) for task in tasks)
    return number(found.estimate(), 3) + " †" * lost


def _missing(task: Task) -> list[str]:
    """OOD sets of the paper that the task was not evaluated on."""
    return [name for name in published.ood_sets(task.data) if name not in task.teacher.ood_sets]


def _list(names: Sequence[str]) -> str:
    return ", ".join(name.removeprefix("ood_") for name in names)
