"""The tables of a study's report, as text: the same for Markdown and HTML.

A difference is bold only where its interval excludes zero and it says something (not F_bias where the
teacher is not clearly above the majority class).
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial

from compress.reporting.estimates import DIGITS, NONE, count, number, percent, signed, spread
from compress.reporting.tables import Column, Table
from compress.scoring import evaluation
from compress.study import published
from compress.study.analysis import Model, Task

DIFFERENCES = {"dev": "dev", "ood": "OOD", "delta": "Delta", "f_bias": "F_bias", "gap": "gap"}
"""Key of a difference to vanilla -> its header."""
RATIO = (
    "F_bias is the ratio of the mean Deltas, beside it their difference, bold where its interval "
    "excludes zero."
)


def all_of(task: Task) -> list[Table]:
    """The tables of a task."""
    found = [accuracies(task), differences(task), above_chance(task), by_set(task), easy_hard(task)]
    found.append(flips(task))
    found += [by_subset(task, name) for name in ["dev", *task.teacher.ood_sets]]
    return [table for table in found if table.rows]


def of_models(
    caption: str,
    task: Task,
    models: Iterable[Model],
    columns: Iterable[Column[Model]],
    paired: bool = False,
) -> Table:
    """A row for each model, its label in front; ‡ marks a model that has collapsed.

    The caption says so where intervals are of one seed; paired: whether differences to vanilla are
    shown, which are of the seeds that both have.
    """
    models = list(models)
    shown = [pair[0] for model in models if (pair := task.pair(model))] if paired else []
    if any(len(model.seeds) == 1 for model in [*models, *shown]):
        bold = ", and no difference is bold" * (len(task.teacher.order) > 1)
        caption += f" Where there is one seed, intervals are over samples only{bold}."
    name = ("model", lambda model: label(model) + " ‡" * bool(task.collapsed(model)))
    return Table.of(caption, models, [name, *columns])


def may_be_bold(task: Task, model: Model) -> bool:
    """Whether an interval of the model holds chance over seeds, or the study has one seed anyway."""
    return len(model.seeds) > 1 or len(task.teacher.order) == 1


def on(model: Model, name: str, subset: str = "") -> str:
    """Accuracy on a set or a subset of it."""
    return percent(model.parts[name, subset])


def gap(model: Model) -> str:
    """Accuracy on the easy less that on the hard dev samples; `-` where one kind is missing."""
    return "-" if model.gap is None else number(model.gap.estimate(), 1, 100)


DEV: Column[Model] = ("dev", partial(on, name="dev"))
HALVES: list[Column[Model]] = [
    *((half, partial(on, name="dev", subset=half)) for half in ("easy", "hard")),
    ("gap", gap),
]


def measured(task: Task, names: Sequence[str] | None = None, digits: int = 2) -> list[Column[Model]]:
    """Dev, accuracy over some OOD sets (default: all), Delta, its difference to the teacher's, F_bias.

    † marks F_bias (of so many digits) where the teacher is at chance on one of the sets. Of a task
    without an OOD set dev alone.
    """
    if not task.teacher.ood_sets:
        return [DEV]
    mark = chance_mark(task, names)

    def difference(model: Model) -> str:
        found = model.delta_difference(task.teacher, names).estimate()
        return signed(found, 3, bold=may_be_bold(task, model))

    def bias(model: Model) -> str:
        found = model.f_bias(task.teacher, names)
        return number(found.estimate(), digits) + mark if found else NONE

    def of_student(cell: Callable[[Model], str]) -> Callable[[Model], str]:
        return lambda model: "-" if model is task.teacher else cell(model)

    return [
        DEV,
        (_pooled(task, names), lambda model: percent(model.pool(names))),
        *_measure_columns(task, names),
        (
            f"Delta ({task.measure})" if task.measure else "Delta",
            lambda model: number(model.delta(names).estimate(), 3),
        ),
        ("Delta - teacher", of_student(difference)),
        ("F_bias", of_student(bias)),
    ]


def _measure_columns(task: Task, names: Sequence[str] | None) -> list[Column[Model]]:
    """What Delta is taken of, on dev and over some OOD sets; none for the accuracy, which is there."""
    if not task.measure:
        return []
    return [
        (f"dev {task.measure}", lambda model: number(model.measured["dev"].estimate(), 3)),
        (f"OOD {task.measure}", lambda model: number(model.measured_pool(names).estimate(), 3)),
    ]


def _changes(
    task: Task, keys: Iterable[str], names: Sequence[str] | None = None
) -> list[Column[Model]]:
    """Differences to vanilla, by key of `Task.versus`; names: the OOD sets (default: all)."""
    versus = cache(lambda model: task.versus(model, names))
    mark = chance_mark(task, names)

    def cell(model: Model, key: str) -> str:
        found, pair = versus(model), task.pair(model)
        bold = pair is not None and may_be_bold(task, pair[0])
        if key == "f_bias" and found:
            text = signed(found[key], *DIGITS[key], bold=bold) if key in found else NONE
            return text.replace("**", "") + mark if mark and key in found else text
        return signed(found.get(key), *DIGITS.get(key, DIGITS["ood"]), bold=bold)

    headers = DIFFERENCES | {"ood": _pooled(task, names)}
    return [(headers.get(key, _short(key)), partial(cell, key=key)) for key in keys]


def on_each(task: Task, names: Iterable[str]) -> list[Column[Model]]:
    """Accuracy on each of some OOD sets; † where the teacher is at chance."""
    return [(_short(name) + chance_mark(task, [name]), partial(on, name=name)) for name in names]


def accuracies(task: Task) -> Table:
    """Dev, OOD (pooled), Delta and F_bias of every model."""
    caption = (
        f"{task.name} ({_sizes(task)}): accuracies in percent, mean ± standard deviation over seeds "
        "[95 % bootstrap interval over samples and seeds]. "
        + (RATIO if task.teacher.ood_sets else evaluation.WITHOUT_OOD)
        + _taken_of(task)
    )
    if truth := task.of_difficulty("auroc"):
        caption += f" AUROC of the variance against the known truth: {spread(truth)} %."
    if shallow := [found for model in task.students if (found := model.each("shallow_auroc"))]:
        caption += f" Of the shallow classifier's error: {spread(shallow[0])} %."
    if task.at_chance:
        names = list_of(task.at_chance)
        caption += f" † The teacher is not clearly above {task.chance} on {names}: there F_bias"
        caption += " says nothing."
    if task.others:
        caption += " All are compared with the first teacher, those that have another one too."
    caption += without_bias(task, others=True) + _collapse(task)
    columns = [("seeds", lambda model: str(len(model.seeds))), *measured(task)]
    return of_models(caption, task, task.models, columns)


def _taken_of(task: Task) -> str:
    """A sentence on what Delta and F_bias are taken of; empty for the accuracy."""
    named = task.measure and task.teacher.ood_sets
    return f" Delta and F_bias are of the {task.measure} (evaluation.metric)." if named else ""


def without_bias(task: Task, names: Sequence[str] | None = None, others: bool = False) -> str:
    """Why students have no F_bias over some OOD sets (default: all); empty if all have one.

    others: whether teachers of other losses stand in the table too.
    """
    if not task.teacher.ood_sets:
        return ""
    shown = [*(task.others if others else []), *task.students]
    reasons: dict[str, list[str]] = {}
    for model in shown:
        if (why := model.f_bias_reason(task.teacher, names)) is not None:
            reasons.setdefault(why.replace("−", "-"), []).append(label(model))
    if sum(map(len, reasons.values())) == len(shown) and len(reasons) == 1:
        return f" F_bias is n/a: {next(iter(reasons))}."
    sentences = [f" F_bias of {', '.join(models)} is n/a: {why}." for why, models in reasons.items()]
    return "".join(sentences)


def _collapse(task: Task) -> str:
    """What the mark of a collapsed model means, and what dev was compared with; empty without one."""
    reasons = sorted({reason for model in task.models for reason in task.collapsed(model)})
    alone = [
        label(model) + f" with seed {seeds[0]}" * (len(seeds) < len(model.seeds))
        for model in task.students
        if (seeds := task.without_vanilla(model))
    ]
    if not reasons and not alone:
        return ""
    unpaired = f" ({', '.join(alone)})" if alone else ""
    bias = "F_bias rewards a model that forgets everything; " * bool(task.teacher.ood_sets)
    return (
        f" ‡ {bias}marked: {'; '.join(reasons) or 'none'}. "
        "Dev is compared with vanilla of the same compression and seed; vanilla itself, and what has "
        f"no such vanilla{unpaired}, with the teacher."
    )


def differences(task: Task) -> Table:
    """Every mitigation against vanilla of the same compression and seeds."""
    pairs = {model: pair for model in task.students if (pair := task.pair(model))}
    sets = task.teacher.ood_sets if len(task.teacher.ood_sets) > 1 else []
    keys = list(DIFFERENCES) if task.teacher.ood_sets else ["dev", "gap"]
    seeds = ("seeds", lambda model: str(len(pairs[model][0].seeds)))
    caption = (
        f"{task.name}: difference to vanilla with the same seeds, points of accuracy, "
        + "Delta and F_bias (below 0 is less biased), " * bool(task.teacher.ood_sets)
        + "gap between easy and hard; bold where the 95 % interval of "
        "the paired bootstrap excludes zero." + _taken_of(task)
    )
    return of_models(caption, task, pairs, [seeds, *_changes(task, [*keys, *sets])], paired=True)


def above_chance(task: Task) -> Table:
    """Dev, OOD, Delta, F_bias without the sets on which the teacher is at chance, if only some are."""
    names = task.above_chance if task.at_chance else []
    if not names:
        return Table("")
    changes = _changes(task, list(DIFFERENCES)[:-1], names)
    columns = [*measured(task, names), *((f"{name} - vanilla", cell) for name, cell in changes)]
    caption = f"{task.name}: where the teacher is above chance ({list_of(names)}), pooled."
    caption += _taken_of(task)
    caption += without_bias(task, names, others=True)
    return of_models(caption, task, task.models, columns, paired=True)


def by_set(task: Task) -> Table:
    """Accuracy on each OOD set, where there are several."""
    names = task.teacher.ood_sets
    models = task.models if len(names) > 1 else []
    return of_models(f"{task.name}: accuracy on each OOD set.", task, models, on_each(task, names))


def easy_hard(task: Task) -> Table:
    """Accuracy on the dev samples that a partial-input classifier gets right and wrong."""
    caption = (
        f"{task.name}: dev samples that a part of the input gives away (easy) and the others (hard)."
    )
    if agreement := task.of_difficulty("agreement"):
        caption += (
            f" The variance ranking agrees with this cut on {spread(agreement)} % of dev (the paper, "
            f"MNLI: {published.AGREEMENT} %)."
        )
    return of_models(caption, task, [m for m in task.models if m.gap is not None], HALVES)


def flips(task: Task) -> Table:
    """Share of dev on which the teacher alone is right, or the student alone."""
    caption = (
        f"{task.name}: dev samples, percent, that the teacher gets right and the student wrong, and "
        "the other way round."
    )

    def lost(model: Model) -> str:
        return percent(task.teacher.alone(model))

    def gained(model: Model) -> str:
        return percent(model.alone(task.teacher))

    columns = [("only the teacher right", lost), ("only the student right", gained)]
    return of_models(caption, task, task.students, columns)


def by_subset(task: Task, name: str) -> Table:
    """Accuracy on dev by its subsets, or on one OOD set by gold label and subset (HANS: heuristics).

    Models stand in rows, as elsewhere, unless there are fewer of them than of subsets.
    """
    halves = ("easy", "hard") if name == "dev" else ()
    parts = sorted(s for of, s in task.teacher.parts if of == name and s and s not in halves)
    caption = f"{task.name}: accuracy on {_short(name)} by gold label and subset, percent."
    columns = [(part, partial(on, name=name, subset=part)) for part in parts]
    table = of_models(caption, task, task.models if parts else [], columns)
    if len(parts) <= len(task.models):
        return table
    (_, *names), *turned = zip(table.header, *table.rows, strict=True)
    return Table(table.caption, ["subset", *names], turned)


def costs(tasks: Sequence[Task]) -> Table:
    """Size, seconds of training and evaluation, alpha, device of every model; and of the difficulty."""
    rows = []
    for task in tasks:
        if scored := task.difficulty_seconds:
            rows.append([task.name, "difficulty", "-", "-", count(scored), "-", "-", "as the teacher"])
        for model in task.models:
            keys = ("params", "nonzero_params", "seconds", "evaluation_seconds")
            alphas = ", ".join(f"{alpha:g}" for alpha in sorted(set(model.each("alpha")))) or "-"
            devices = ", ".join(sorted(model.rows["device"].unique()))
            counts = [count(model.each(key)) for key in keys]
            rows.append([task.name, label(model), *counts, alphas, devices])
    header = ["task", "model", "parameters", "non-zero", "training", "evaluation", "alpha", "device"]
    models = [model for task in tasks for model in task.models]
    versions = sorted({v for model in models for v in model.rows["versions"].fillna("unknown")})
    caption = (
        "Parameters of each model, seconds to train it (with those of a bias or first model that it "
        "uses) and to evaluate its run, mean over seeds, and its alpha. "
        "Teachers, difficulties, students and evaluations of "
        f"{sum(len(model.seeds) for task in tasks for model in task.students)} runs took "
        f"{_seconds(tasks):,.0f} seconds: each teacher and difficulty counts once, a bias or first "
        "model with every model that uses it; students of evaluation.baseline and those that alpha "
        '"auto" tries are not counted. '
        f"Made with {'; '.join(versions)}."
    )
    return Table(caption, header, rows)


def _seconds(tasks: Iterable[Task]) -> float:
    """Of all runs: each teacher, difficulty and student of a seed once, and evaluations."""
    total = 0.0
    for task in tasks:
        total += sum(task.difficulty_seconds)
        total += sum(sum(model.each("seconds")) for model in task.models)
        total += sum(sum(model.each("evaluation_seconds")) for model in task.students)
    return total


def label(model: Model) -> str:
    """The name of a model in the tables."""
    return " ".join(model.name).strip() or "teacher"


def list_of(names: Iterable[str]) -> str:
    """OOD sets without their prefix, separated by commas."""
    return ", ".join(map(_short, names))


def _short(name: str) -> str:
    return name.removeprefix("ood_")


def chance_mark(task: Task, names: Sequence[str] | None) -> str:
    """The mark of a figure over OOD sets (default: all) if the teacher is at chance on one of them."""
    chosen = task.teacher.ood_sets if names is None else names
    return " †" if set(chosen) & set(task.at_chance) else ""


def _sizes(task: Task) -> str:
    counts = [
        f"{_short(name)} {used:,}" + f" of {whole:,}" * (used < whole)
        for name, (used, whole) in task.sizes.items()
    ]
    return f"{task.teacher.rows['train_samples'].iloc[0]:,} training samples; {', '.join(counts)}"


def _pooled(task: Task, names: Sequence[str] | None) -> str:
    """The header of the accuracy over all OOD sets, or some."""
    return "OOD pooled" if names is None and len(task.teacher.ood_sets) > 1 else "OOD"
