"""The tables of a study's report, as text: the same for Markdown and HTML.

A difference is bold only where its interval excludes zero and it says something (not F_bias where the
teacher is not above the majority class).
"""

from collections.abc import Iterable, Sequence

from compress.reporting.estimates import DIGITS, NONE, count, number, percent, signed, spread
from compress.reporting.tables import Table
from compress.study import published
from compress.study.analysis import Model, Task

TEACHERS = "Delta - teacher"
COMPARED = ("dev", "OOD", "Delta", "F_bias")


def all_of(task: Task) -> list[Table]:
    """The tables of a task."""
    found = [accuracies(task), differences(task), above_chance(task)]
    found += [by_set(task), easy_hard(task)]
    found += [by_subset(task, name) for name in task.teacher.ood_sets]
    return [one for one in found if one is not None and one.rows]


def accuracies(task: Task) -> Table:
    """Dev, OOD (pooled), Delta and F_bias of every model."""
    header = ["model", "seeds", "dev", _pooled(task), "Delta", TEACHERS, "F_bias"]
    rows = []
    for model in (task.teacher, *task.students):
        *ood, bias = _out_of_distribution(task, model)
        bias += _chance(task) * (bias not in ("-", NONE))
        name, seeds = marked(task, model), str(len(model.seeds))
        rows.append([name, seeds, percent(model.dev), *ood, bias])
    caption = (
        f"{task.name} ({_sizes(task)}): accuracies in percent, mean ± standard deviation over seeds "
        "[95 % bootstrap interval over samples and seeds; over samples only with one seed]. F_bias is "
        "the ratio of the mean Deltas, beside it their difference, bold where its interval excludes "
        "zero."
    )
    if truth := task.teacher.each("auroc"):
        caption += f" AUROC of the variance against the known truth: {spread(truth)} %."
    shallow = [found for model in task.students if (found := model.each("shallow_auroc"))]
    if shallow:
        caption += f" Of the shallow classifier's error: {spread(shallow[0])} %."
    if task.at_chance:
        names = ", ".join(name.removeprefix("ood_") for name in task.at_chance)
        caption += (
            f" † The teacher is not above the majority class on {names}: there F_bias says nothing."
        )
    return Table(caption + without_bias(task) + _guard(task), header, rows)


def without_bias(task: Task, names: Sequence[str] | None = None) -> str:
    """Why students have no F_bias over some OOD sets (default: all); empty if all have one."""
    reasons: dict[str, list[str]] = {}
    for model in task.students:
        if (why := model.f_bias_reason(task.teacher, names)) is not None:
            reasons.setdefault(why.replace("−", "-"), []).append(label(model))
    if sum(map(len, reasons.values())) == len(task.students) and len(reasons) == 1:
        return f" F_bias is n/a: {next(iter(reasons))}."
    sentences = [f" F_bias of {', '.join(models)} is n/a: {why}." for why, models in reasons.items()]
    return "".join(sentences)


def _guard(task: Task) -> str:
    """What the mark of a collapsed model means, and what dev was held against; empty if nothing is."""
    reasons = sorted({word for model in task.students for word in task.collapsed(model)})
    alone = [
        label(model) + f" with seed {seeds[0]}" * (len(seeds) < len(model.seeds))
        for model in task.students
        if (seeds := task.without_vanilla(model))
    ]
    if not reasons and not alone:
        return ""
    unpaired = f" ({', '.join(alone)})" if alone else ""
    return (
        f" ‡ F_bias rewards a model that forgets everything; marked: {'; '.join(reasons) or 'none'}. "
        "Dev is held against vanilla of the same compression and seed; vanilla itself, and what has no "
        f"such vanilla{unpaired}, against the teacher."
    )


def _out_of_distribution(
    task: Task, model: Model, names: Sequence[str] | None = None
) -> tuple[str, str, str, str]:
    """Accuracy, Delta, its difference to the teacher's, F_bias over some OOD sets (default: all)."""
    own = percent(model.pool(names)), number(model.delta(names).estimate(), 3)
    if model is task.teacher:
        return *own, "-", "-"
    apart, bias = model.delta_difference(task.teacher, names), model.f_bias(task.teacher, names)
    return *own, signed(apart.estimate(), 3), number(bias.estimate(), 2) if bias else NONE


def differences(task: Task) -> Table:
    """Every mitigation against vanilla of the same compression and seeds."""
    sets = task.teacher.ood_sets if len(task.teacher.ood_sets) > 1 else []
    rows = []
    for model in task.students:
        found, pair = task.versus(model), task.pair(model)
        if pair is not None:
            cells = [signed(found.get(key), *how) for key, how in DIGITS.items()]
            cells[-2] = cells[-2] if "f_bias" in found else NONE
            if task.at_chance:
                cells[-2] = cells[-2].replace("**", "") + _chance(task) * ("f_bias" in found)
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
    """Dev, OOD, Delta, F_bias without the sets on which the teacher is at chance, if some are."""
    names = task.above_chance
    if not names or not task.at_chance:
        return None
    rows = []
    for model in (task.teacher, *task.students):
        found = task.versus(model, names)
        change = [signed(found.get(key), *DIGITS[key]) for key in ("dev", "ood", "delta", "f_bias")]
        change[-1] = NONE if found and "f_bias" not in found else change[-1]
        measured = [percent(model.dev), *_out_of_distribution(task, model, names)]
        rows.append([marked(task, model), *measured, *change])
    header = ["model", *COMPARED[:-1], TEACHERS, COMPARED[-1]]
    header += [f"{name} - vanilla" for name in COMPARED]
    listed = ", ".join(name.removeprefix("ood_") for name in names)
    caption = f"{task.name}: where the teacher is above chance ({listed}), pooled."
    return Table(caption + without_bias(task, names), header, rows)


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
            f" The variance ranking agrees with this cut on {spread(agreement)} % of dev (the paper, "
            f"MNLI: {published.AGREEMENT} %)."
        )
    return Table(caption, ["model", "easy", "hard", "gap"], rows)


def by_subset(task: Task, name: str) -> Table:
    """Accuracy on one OOD set by gold label, and by its subsets if it has any (HANS: heuristics).

    Models stand in rows, as elsewhere, unless there are fewer of them than of subsets.
    """
    models = (task.teacher, *task.students)
    parts = sorted(part for part in task.teacher.parts if part[0] == name and part[1])
    caption = f"{task.name}: accuracy on {name.removeprefix('ood_')} by gold label and subset, percent."
    header = ["model", *(subset for _, subset in parts)]
    rows = [[marked(task, model), *(percent(model.parts[part]) for part in parts)] for model in models]
    if len(parts) > len(models):
        (_, *names), *turned = zip(header, *rows, strict=True)
        return Table(caption, ["subset", *names], [list(line) for line in turned])
    return Table(caption, header, rows if parts else [])


def costs(tasks: Sequence[Task]) -> Table:
    """Size, seconds of training and evaluation, alpha, device of every model; and of the difficulty."""
    rows = []
    for task in tasks:
        if scored := task.teacher.each("difficulty_seconds"):
            rows.append([task.name, "difficulty", "-", "-", count(scored), "-", "-", "as the teacher"])
        for model in (task.teacher, *task.students):
            devices = sorted(model.rows["device"].unique())
            keys = ("params", "nonzero_params", "seconds", "evaluation_seconds")
            counts = [count(model.each(key)) for key in keys]
            alphas = sorted(set(model.each("alpha")))
            used = ", ".join(f"{alpha:g}" for alpha in alphas) or "-"
            rows.append([task.name, label(model), *counts, used, ", ".join(devices)])
    header = ["task", "model", "parameters", "non-zero", "training", "evaluation", "alpha", "device"]
    caption = (
        "Parameters of each model, seconds to train it (jtt's with its first model's) and to evaluate "
        f"its run, mean over seeds, and its alpha. All {_runs(tasks)} runs took {_total(tasks):,.0f} "
        f"seconds, with each teacher and difficulty counted once. Made with {_versions(tasks)}."
    )
    return Table(caption, header, rows)


def _versions(tasks: Iterable[Task]) -> str:
    """The versions that the models were made with; several are told apart by semicolons."""
    models = (model for task in tasks for model in (task.teacher, *task.students))
    return "; ".join(sorted({row["versions"] or "unknown" for model in models for row in model.rows}))


def _runs(tasks: Iterable[Task]) -> int:
    """How many runs there are: a student and seed each."""
    return sum(len(model.seeds) for task in tasks for model in task.students)


def _total(tasks: Iterable[Task]) -> float:
    """Seconds of all runs: each teacher, difficulty and student of a seed once, and evaluations."""
    keys = ("seconds", "difficulty_seconds"), ("seconds", "evaluation_seconds")
    return sum(
        sum(model.each(key))
        for task in tasks
        for model in (task.teacher, *task.students)
        for key in keys[model is not task.teacher]
    )


def label(model: Model) -> str:
    """How a model is called in the tables."""
    return " ".join(model.name).strip() or "teacher"


def marked(task: Task, model: Model) -> str:
    """The label, with a mark on a model that has collapsed."""
    return label(model) + " ‡" * bool(task.collapsed(model))


def _chance(task: Task) -> str:
    return " †" if task.at_chance else ""


def _sizes(task: Task) -> str:
    counts = [
        f"{name.removeprefix('ood_')} {used:,}" + f" of {whole:,}" * (used < whole)
        for name, (used, whole) in task.sizes.items()
    ]
    return f"{task.teacher.rows['train_samples'].iloc[0]:,} training samples; {', '.join(counts)}"


def _pooled(task: Task) -> str:
    return "OOD pooled" if len(task.teacher.ood_sets) > 1 else "OOD"
