"""The tables of a study's report, as text: the same for Markdown and HTML.

A cell may carry Markdown's `**bold**`, used only where a 95 % interval excludes zero and the figure
says something (not F_bias where the teacher is at chance).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compress.study import published
from compress.study.analysis import Estimate, Figures, Model, Task

OF_OOD = ("OOD", "Delta", "F_bias")
DIGITS = {"dev": (1, 100), "ood": (1, 100), "delta": (3, 1), "f_bias": (2, 1), "gap": (1, 100)}
"""Key of a difference -> its digits and factor."""


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
    found = [accuracies(task), differences(task), above_chance(task)]
    found += [by_set(task), easy_hard(task), subsets(task)]
    if table in BESIDE:
        found.append(BESIDE[table](task))
    elif table is not None:
        found.append(beside(task, table))
    return [one for one in found if one is not None and one.rows]


def accuracies(task: Task) -> Table:
    """Dev, OOD (pooled), Delta and F_bias of every model."""
    header = ["model", "seeds", "parameters", "non-zero", "dev", _pooled(task), "Delta", "F_bias"]
    rows = []
    for model in (task.teacher, *task.students):
        counts = [_count(model.each(key)) for key in ("params", "nonzero_params")]
        *ood, bias = _out_of_distribution(task, model)
        bias += _chance(task) * (bias != "-")
        name, seeds = marked(task, model), str(len(model.seeds))
        rows.append([name, seeds, *counts, percent(model.dev), *ood, bias])
    caption = (
        f"{task.name}: accuracies in percent, mean ± standard deviation over seeds [95 % bootstrap "
        "interval over samples and seeds; over samples only with one seed]. F_bias is the ratio of the "
        "mean Deltas."
    )
    if truth := task.teacher.each("auroc"):
        caption += f" AUROC of the variance against the known truth: {_spread(truth)} %."
    if task.at_chance:
        names = ", ".join(name.removeprefix("ood_") for name in task.at_chance)
        caption += f" † The teacher is at chance on {names}: there F_bias says nothing."
    if task.students and not any(task.baseline(model) for model in task.students):
        caption += " No vanilla here that dev could be held against."
    reasons = sorted({word for model in task.students for word in task.collapsed(model)})
    if reasons:
        caption += f" ‡ F_bias rewards a model that forgets everything; marked: {'; '.join(reasons)}."
    return Table(caption, header, rows)


def _out_of_distribution(
    task: Task, model: Model, names: Sequence[str] | None = None
) -> tuple[str, str, str]:
    """Accuracy, Delta and F_bias over some OOD sets, pooled (default: all)."""
    bias = None if model is task.teacher else model.f_bias(task.teacher, names)
    told = number(bias.estimate(), 2) if bias else "-"
    return percent(model.pool(names)), number(model.delta(names).estimate(), 3), told


def differences(task: Task) -> Table:
    """Every mitigation against vanilla of the same compression and seeds."""
    sets = task.teacher.ood_sets if len(task.teacher.ood_sets) > 1 else []
    rows = []
    for model in task.students:
        found, pair = task.versus(model), task.pair(model)
        if pair is not None:
            cells = [signed(found.get(key), *how) for key, how in DIGITS.items()]
            if task.at_chance:
                cells[-2] = cells[-2].replace("**", "") + _chance(task)
            each = [signed(found.get(name), 1, 100) for name in sets]
            rows.append([marked(task, model), str(len(pair[0].seeds)), *cells, *each])
    caption = (
        f"{task.name}: difference to vanilla with the same seeds, points of accuracy, Delta and "
        "F_bias (below 0 is less biased), gap between easy and hard; bold where the 95 % interval of "
        "the paired bootstrap excludes zero."
    )
    header = ["model", "seeds", "dev", _pooled(task), "Delta", "F_bias", "gap"]
    return Table(caption, [*header, *(name.removeprefix("ood_") for name in sets)], rows)


def above_chance(task: Task) -> Table | None:
    """OOD accuracy, Delta, F_bias without the sets on which the teacher is at chance, if some are."""
    names = task.above_chance
    if not names or not task.at_chance:
        return None
    rows = []
    for model in (task.teacher, *task.students):
        found = task.versus(model, names)
        change = [signed(found.get(key), *DIGITS[key]) for key in ("ood", "delta", "f_bias")]
        rows.append([marked(task, model), *_out_of_distribution(task, model, names), *change])
    header = ["model", "OOD", "Delta", "F_bias", *(f"{name} - vanilla" for name in OF_OOD)]
    told = ", ".join(name.removeprefix("ood_") for name in names)
    return Table(f"{task.name}: where the teacher is above chance ({told}), pooled.", header, rows)


def by_set(task: Task) -> Table | None:
    """Accuracy on each OOD set, where there are several."""
    names = task.teacher.ood_sets
    if len(names) < 2:
        return None
    marks = [name.removeprefix("ood_") + " †" * (name in task.at_chance) for name in names]
    rows = [
        [marked(task, model), *(percent(model.parts[name, ""]) for name in names)]
        for model in (task.teacher, *task.students)
    ]
    return Table(f"{task.name}: accuracy on each OOD set.", ["model", *marks], rows)


def easy_hard(task: Task) -> Table:
    """Accuracy on the dev samples that a partial-input classifier gets right and wrong."""
    rows = []
    for model in (task.teacher, *task.students):
        if model.gap is not None:
            halves = [model.parts["dev", half] for half in ("easy", "hard")]
            gap = number(model.gap.estimate(), 1, 100)
            rows.append([marked(task, model), *(percent(f) for f in halves), gap])
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
    parts = sorted(part for part in task.teacher.parts if part[1] and part[0] != "dev")
    rows = [
        [
            f"{name.removeprefix('ood_')}: {subset}",
            *(percent(model.parts[name, subset]) for model in models),
        ]
        for name, subset in parts
    ]
    caption = f"{task.name}: accuracy by subset and gold label, percent."
    return Table(caption, ["subset", *(marked(task, model) for model in models)], rows)


def beside(task: Task, table: str) -> Table:
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
            rows[-1] += [*(_plain(100 * v, 1) for v in found[:2]), _plain(found[2], 3)]
    if rows:
        paper = [_plain(100 * value, 1) for value in told]
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


def beside_halves(task: Task) -> Table:
    """Table 6 beside ours: easy, hard, gap."""
    rows = []
    for model in task.students:
        found = published.easy_hard(task.name, *model.name)
        if found is not None and model.gap is not None:
            halves = [model.parts["dev", half] for half in ("easy", "hard")]
            ours = [*(percent(f) for f in halves), number(model.gap.estimate(), 1, 100)]
            rows.append([marked(task, model), *ours, *(_plain(value, 1) for value in found)])
    header = ["model", "easy", "hard", "gap", "paper: easy", "paper: hard", "paper: gap"]
    return Table(f"{task.name}: ours beside table6 of Du et al. 2023.", header, rows)


def beside_gaps(task: Task) -> Table:
    """The gaps that the text gives for Figure 1 beside ours."""
    rows = []
    for model in task.students:
        level = round(float(np.mean(model.each("sparsity") or [0])), 2)
        if task.name == "mnli" and level in published.FIGURE1_GAPS and model.gap is not None:
            rows.append(
                [
                    marked(task, model),
                    number(model.gap.estimate(), 1, 100),
                    _plain(published.FIGURE1_GAPS[level], 1),
                ]
            )
    caption = f"{task.name}: gap between easy and hard beside Figure 1 of Du et al. 2023."
    return Table(caption, ["model", "gap", "paper: gap"], rows)


BESIDE: dict[str, Callable[[Task], Table]] = {"table6": beside_halves, "figure1": beside_gaps}


def seconds(tasks: Iterable[Task]) -> Table:
    """Seconds of training of every model and of the difficulty, with which alpha, and where."""
    rows = []
    for task in tasks:
        if scored := task.teacher.each("difficulty_seconds"):
            rows.append([task.name, "difficulty", f"{np.mean(scored):,.0f}", "-", "as the teacher"])
        for model in (task.teacher, *task.students):
            devices = sorted({row["device"] for row in model.rows})
            times = model.each("seconds")
            mean = f"{np.mean(times):,.0f}" if times else "-"
            alphas = sorted(set(model.each("alpha")))
            used = ", ".join(f"{alpha:g}" for alpha in alphas) or "-"
            rows.append([task.name, label(model), mean, used, ", ".join(devices)])
    header = ["task", "model", "seconds", "alpha", "device"]
    caption = (
        "Seconds to train each model, mean over seeds (jtt's with its first model's), and its alpha."
    )
    return Table(caption, header, rows)


def label(model: Model) -> str:
    """How a model is called in the tables."""
    return " ".join(model.name).strip() or "teacher"


def marked(task: Task, model: Model) -> str:
    """The label, with a mark on a model that has collapsed."""
    return label(model) + " ‡" * bool(task.collapsed(model))


def _chance(task: Task) -> str:
    return " †" if task.at_chance else ""


def _pooled(task: Task) -> str:
    return "OOD pooled" if len(task.teacher.ood_sets) > 1 else "OOD"


def percent(figures: Figures) -> str:
    """An accuracy in percent with spread and interval; a stretched interval ends at 0 and 100."""
    found = figures.estimate()
    low, high = (float(np.clip(bound, 0, 1)) for bound in (found.low, found.high))
    return number(replace(found, low=low, high=high), 1, 100)


def number(found: Estimate, digits: int, factor: float = 1) -> str:
    """`mean ± sd [low, high]`; the standard deviation only with several seeds."""
    value = _plain(factor * found.value, digits)
    return f"{value}{_deviation(found, digits, factor)} {_interval(found, digits, factor)}"


def signed(found: Estimate | None, digits: int, factor: float = 1) -> str:
    """A difference with its spread and interval, bold where that excludes zero."""
    if found is None:
        return "-"
    value = f"{factor * found.value:+.{digits}f}"
    if float(value) == 0:
        value = value.lstrip("+-")
    value = f"**{value}**" if found.certain else value
    return f"{value}{_deviation(found, digits, factor)} {_interval(found, digits, factor)}"


def _deviation(found: Estimate, digits: int, factor: float) -> str:
    return "" if found.sd is None else f" ± {_plain(factor * found.sd, digits)}"


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
