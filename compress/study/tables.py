"""The tables of a study's report, as text: the same for Markdown and HTML.

A cell may carry Markdown's `**bold**`, used only where a 95 % interval excludes zero.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from compress.study import published
from compress.study.analysis import Estimate, Figures, Model, Task


@dataclass(frozen=True)
class Table:
    """A caption, a header, rows of cells."""

    caption: str
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """The table in Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def all_of(task: Task, table: str | None) -> list[Table]:
    """The tables of a task; table: name of the published one that stands beside ours."""
    found = [accuracies(task), differences(task), by_set(task), easy_hard(task), subsets(task)]
    if table is not None:
        found.append(beside_halves(task) if table == "table6" else beside(task, table))
    return [one for one in found if one is not None and one.rows]


def accuracies(task: Task) -> Table:
    """Dev, OOD (pooled), Delta and F_bias of every model."""
    several = len(task.teacher.sets) > 2
    header = ["model", "seeds", "parameters", "non-zero", "dev", "OOD pooled" if several else "OOD"]
    rows = []
    for model in (task.teacher, *task.students):
        bias = None if model is task.teacher else model.f_bias(task.teacher)
        mark = " †" if task.at_chance else ""
        rows.append(
            [
                label(model),
                str(len(model.seeds)),
                *(_count(model.each(key)) for key in ("params", "nonzero_params")),
                *(percent(figures) for figures in (model.sets["dev"], model.ood)),
                number(model.delta.estimate(), 3),
                number(bias.estimate(), 2) + mark if bias else "-",
                "; ".join(task.collapsed(model)),
            ]
        )
    caption = (
        f"{task.name}: accuracies in percent, mean ± standard deviation over seeds [95 % bootstrap "
        "interval over samples and seeds]."
    )
    if task.at_chance:
        names = ", ".join(name.removeprefix("ood_") for name in task.at_chance)
        caption += f" † The teacher is at chance on {names}: there F_bias says nothing."
    header += ["Delta", "F_bias", "mark"]
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return Table(caption, header, rows)


def by_set(task: Task) -> Table | None:
    """Accuracy on each OOD set, where there are several."""
    names = [name for name in task.teacher.sets if name != "dev"]
    if len(names) < 2:
        return None
    marks = [name.removeprefix("ood_") + " †" * (name in task.at_chance) for name in names]
    rows = [
        [label(model), *(percent(model.sets[name]) for name in names)]
        for model in (task.teacher, *task.students)
    ]
    return Table(f"{task.name}: accuracy on each OOD set.", ["model", *marks], rows)


def differences(task: Task) -> Table:
    """Every mitigation against vanilla of the same compression and seeds."""
    rows = []
    for model in task.students:
        found = task.versus(model)
        if found:
            cells = [signed(found.get(key), 100) for key in ("dev", "ood")]
            rows.append([label(model), *cells, signed(found.get("f_bias"), 1)])
    caption = (
        f"{task.name}: difference to vanilla, points of accuracy and F_bias (below 0 is less biased); "
        "bold where the 95 % interval of the paired bootstrap excludes zero."
    )
    return Table(caption, ["model", "dev", "OOD pooled", "F_bias"], rows)


def easy_hard(task: Task) -> Table:
    """Accuracy on the dev samples that a partial-input classifier gets right and wrong."""
    rows = []
    for model in (task.teacher, *task.students):
        easy, hard = model.each("easy"), model.each("hard")
        if len(easy) == len(hard) and easy:
            gaps = [a - b for a, b in zip(easy, hard, strict=True)]
            rows.append([label(model), *(_spread(values) for values in (easy, hard, gaps))])
    agreement = task.teacher.each("agreement")
    caption = f"{task.name}: dev samples that one text gives away (easy) and the others (hard)."
    if agreement:
        caption += (
            f" The variance ranking agrees with this cut on {_spread(agreement)} % of dev (the paper, "
            f"MNLI: {published.AGREEMENT} %)."
        )
    return Table(caption, ["model", "easy", "hard", "gap"], rows)


def subsets(task: Task) -> Table:
    """Accuracy on the subsets of the OOD sets, for HANS heuristic x gold label."""
    models = (task.teacher, *task.students)
    names = sorted({(row["set"], row["subset"]) for row in task.teacher.subsets if row["set"] != "dev"})
    many = {name for name, _ in names if len({s for n, s in names if n == name}) > 2}
    rows = []
    for name, subset in names:
        if name not in many:
            continue
        cells = []
        for model in models:
            found = [r for r in model.subsets if (r["set"], r["subset"]) == (name, subset)]
            cells.append(_spread([row["accuracy"] for row in found]))
        rows.append([f"{name.removeprefix('ood_')}: {subset}", *cells])
    caption = f"{task.name}: accuracy by subset and gold label, percent."
    return Table(caption, ["subset", *(label(model) for model in models)], rows)


def beside(task: Task, table: str) -> Table:
    """The published numbers beside ours: dev, pooled OOD, F_bias."""
    rows = []
    told = published.teacher(task.name)
    if told is not None:
        ours = [_plain(100 * f.value, 1) for f in (task.teacher.sets["dev"], task.teacher.ood)]
        rows.append(["teacher", *ours, "-", *(_plain(100 * value, 1) for value in told), "-"])
    for model in task.students:
        found = published.entry(table, task.name, *model.name)
        if found is not None:
            bias = model.f_bias(task.teacher)
            cells = [_plain(100 * f.value, 1) for f in (model.sets["dev"], model.ood)]
            cells += [_plain(bias.value, 3) if bias else "-"]
            rows.append(
                [label(model), *cells, *(_plain(100 * v, 1) for v in found[:2]), _plain(found[2], 3)]
            )
    caption = (
        f"{task.name}: ours beside {table} of Du et al. 2023 "
        f"({published.MODELS.get(table, 'BERT-base')}, full data, three runs; F_bias as printed)."
    )
    header = ["model", "dev", "OOD", "F_bias", "paper: dev", "paper: OOD", "paper: F_bias"]
    return Table(caption, header, rows)


def beside_halves(task: Task) -> Table:
    """Table 6 beside ours: easy, hard, gap."""
    rows = []
    for model in task.students:
        found = published.easy_hard(task.name, *model.name)
        if found is not None:
            easy, hard = (float(np.mean(model.each(key))) for key in ("easy", "hard"))
            ours = [_plain(100 * value, 1) for value in (easy, hard, easy - hard)]
            rows.append([label(model), *ours, *(_plain(value, 1) for value in found)])
    header = ["model", "easy", "hard", "gap", "paper: easy", "paper: hard", "paper: gap"]
    return Table(f"{task.name}: ours beside table6 of Du et al. 2023.", header, rows)


def seconds(tasks: Iterable[Task]) -> Table:
    """Seconds of training of every model and of the difficulty, and where."""
    rows = []
    for task in tasks:
        if scored := task.teacher.each("difficulty_seconds"):
            rows.append([task.name, "difficulty", f"{np.mean(scored):,.0f}", "as the teacher"])
        for model in (task.teacher, *task.students):
            devices = sorted({row["device"] for row in model.rows})
            times = model.each("seconds")
            mean = f"{np.mean(times):,.0f}" if times else "-"
            rows.append([task.name, label(model), mean, ", ".join(devices)])
    header = ["task", "model", "seconds", "device"]
    caption = "Seconds to train each model (mean over seeds); jtt's include its first model's."
    return Table(caption, header, rows)


def label(model: Model) -> str:
    """How a model is called in the tables."""
    return " ".join(model.name).strip() or "teacher"


def percent(figures: Figures) -> str:
    """An accuracy in percent with spread and interval."""
    return number(figures.estimate(), 1, 100)


def number(found: Estimate, digits: int, factor: float = 1) -> str:
    """`mean ± sd [low, high]`; the standard deviation only with several seeds."""
    spread = "" if found.sd is None else f" ± {_plain(factor * found.sd, digits)}"
    return f"{_plain(factor * found.value, digits)}{spread} {_interval(found, digits, factor)}"


def signed(found: Estimate | None, factor: float) -> str:
    """A difference with its interval, bold where that excludes zero."""
    if found is None:
        return "-"
    digits = 1 if factor == 100 else 2
    value = f"{factor * found.value:+.{digits}f}"
    if float(value) == 0:
        value = value.lstrip("+-")
    return f"{f'**{value}**' if found.certain else value} {_interval(found, digits, factor)}"


def _interval(found: Estimate, digits: int, factor: float) -> str:
    return f"[{_plain(factor * found.low, digits)}, {_plain(factor * found.high, digits)}]"


def _plain(value: float, digits: int) -> str:
    return "n/a" if not np.isfinite(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def _spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation of fractions, in percent."""
    if not values:
        return "-"
    mean = _plain(100 * float(np.mean(values)), 1)
    return mean if len(values) < 2 else f"{mean} ± {_plain(100 * float(np.std(values, ddof=1)), 1)}"


def _count(values: Sequence[float]) -> str:
    return f"{np.mean(values):,.0f}" if values else "-"
