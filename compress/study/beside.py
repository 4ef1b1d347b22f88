"""Tables of a study's report that hold the numbers of Du et al. 2023 beside ours."""

from collections.abc import Sequence

import numpy as np

from compress.study import published
from compress.study.analysis import Model, Task
from compress.study.cells import number, percent, plain
from compress.study.tables import Table, marked


def all_of(task: Task, table: str | None) -> list[Table]:
    """What stands beside ours; table: the name of a published one, None for nothing."""
    if table is None:
        return []
    made = {"table6": halves, "figure1": gaps}
    found = made[table](task) if table in made else pooled(task, table)
    return [found] if found.rows else []


def pooled(task: Task, table: str) -> Table:
    """The published numbers beside ours, over the same OOD sets: dev, pooled OOD, Delta, F_bias."""
    told, names = published.teacher(task.name), published.ood_sets(task.name)
    header = ["model", "dev", "OOD", "Delta", "F_bias", "paper: dev", "paper: OOD", "paper: F_bias"]
    if told is None or not set(names) <= set(task.teacher.ood_sets):
        return Table("", header, [])
    rows = []
    for model in task.students:
        found = published.entry(table, task.name, *model.name)
        if found is not None:
            bias = model.f_bias(task.teacher, names)
            rows.append([marked(task, model), *_ours(model, names)])
            mark = " †" * bool(set(names) & set(task.at_chance))
            rows[-1] += [number(bias.estimate(), 3) + mark if bias else "-"]
            rows[-1] += [*(plain(100 * v, 1) for v in found[:2]), plain(found[2], 3)]
    if rows:
        paper = [plain(100 * value, 1) for value in told]
        rows.insert(0, ["teacher", *_ours(task.teacher, names), "-", *paper, "-"])
    caption = (
        f"{task.name}: ours beside {table} of Du et al. 2023 "
        f"({published.MODELS.get(table, 'BERT-base')}, full data, three runs; F_bias as printed); OOD: "
        f"{', '.join(name.removeprefix('ood_') for name in names)}."
    )
    return Table(caption, header, rows)


def _ours(model: Model, names: Sequence[str]) -> list[str]:
    delta = number(model.delta(names).estimate(), 3)
    return [percent(model.dev), percent(model.pool(names)), delta]


def halves(task: Task) -> Table:
    """Table 6 beside ours: easy, hard, gap."""
    rows = []
    for model in task.students:
        found = published.easy_hard(task.name, *model.name)
        if found is not None and model.gap is not None:
            both = [model.parts["dev", half] for half in ("easy", "hard")]
            ours = [*(percent(f) for f in both), number(model.gap.estimate(), 1, 100)]
            rows.append([marked(task, model), *ours, *(plain(value, 1) for value in found)])
    header = ["model", "easy", "hard", "gap", "paper: easy", "paper: hard", "paper: gap"]
    return Table(f"{task.name}: ours beside table6 of Du et al. 2023.", header, rows)


def gaps(task: Task) -> Table:
    """The gaps that the text gives for Figure 1 beside ours."""
    rows = []
    for model in task.students:
        level = round(float(np.mean(model.each("sparsity") or [0])), 2)
        if task.name == "mnli" and level in published.FIGURE1_GAPS and model.gap is not None:
            rows.append(
                [
                    marked(task, model),
                    number(model.gap.estimate(), 1, 100),
                    plain(published.FIGURE1_GAPS[level], 1),
                ]
            )
    caption = f"{task.name}: gap between easy and hard beside Figure 1 of Du et al. 2023."
    return Table(caption, ["model", "gap", "paper: gap"], rows)
