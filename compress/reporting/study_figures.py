"""Pictures of a study: easy and hard accuracy against sparsity, OOD accuracy and F_bias by loss.

After Figures 1 and 3 of Du et al. 2023. The teacher stands at sparsity 0.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from compress.reporting.figures import INK, OTHER_COLOURS, drawing, svg
from compress.reporting.numbers import printable
from compress.study import published
from compress.study.analysis import BASELINE, Model, Task

FEWEST = 2
COLOURS = (*OTHER_COLOURS, "#56B4E9", "#D55E00", "#F0E442", "#000000", "#8A929C")


Levels = dict[tuple[str, str], list[tuple[float, Model]]]
"""(compression without its number, mitigation) -> its students, each with its sparsity."""


def by_sparsity(task: Task) -> Levels:
    """Students with zeros in rising order, where several differ in the number of the compression."""
    out: Levels = {}
    for model in task.students:
        found = model.each("sparsity")
        if found and np.mean(found) > 0:
            kind = re.sub(r"[\d.]+$", "", model.name[0])
            out.setdefault((kind, model.name[1]), []).append((float(np.mean(found)), model))
    levels = {name: sorted(rows, key=lambda row: row[0]) for name, rows in out.items()}
    return {name: rows for name, rows in levels.items() if len({s for s, _ in rows}) >= FEWEST}


def _label(levels: Levels, name: tuple[str, str]) -> str:
    """What a line is called: its mitigation, with the compression where there are several."""
    return " ".join(name) if len({kind for kind, _ in levels}) > 1 else name[1]


def all_of(task: Task) -> dict[str, str]:
    """The figures that the task's students allow, as SVG by name; empty with a single sparsity.

    figure3 is left out without an OOD set.
    """
    levels = by_sparsity(task)
    if not levels:
        return {}
    plain = [name for name in levels if name[1] == BASELINE]
    name = max(plain or levels, key=lambda name: len(levels[name]))
    easy_hard = [(0.0, task.teacher), *levels[name]]
    drawn = {}
    if task.teacher.ood_sets:
        drawn["figure3"] = _bias(f"figure3-{_id(task.name)}", task, levels)
    if all(model.gap is not None for _, model in easy_hard):
        drawn["figure1"] = _halves(f"figure1-{_id(task.name)}", easy_hard, _label(levels, name))
    return dict(sorted(drawn.items()))


def _halves(name: str, rows: Sequence[tuple[float, Model]], label: str) -> str:
    """Accuracy on easy and hard dev samples against sparsity."""
    x = [100 * sparsity for sparsity, _ in rows]
    values = {key: [100 * m.parts["dev", key].value for _, m in rows] for key in ("easy", "hard")}
    with drawing(5.2, 3.2) as figure:
        axes = figure.add_subplot()
        for (key, y), colour in zip(values.items(), COLOURS, strict=False):
            axes.plot(x, y, marker="o", color=colour, label=key)
        gaps = zip(x, values["easy"], values["hard"], strict=True)
        for sparsity, easy, hard in gaps:
            axes.plot([sparsity, sparsity], [hard, easy], color=INK, linewidth=0.5, linestyle=":")
            place = (sparsity, (easy + hard) / 2)
            axes.annotate(f"{easy - hard:.1f}", place, fontsize=8.5, ha="center")
        axes.set(xlabel="sparsity, %", ylabel=f"dev accuracy ({printable(label)}), %")
        axes.grid()
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1)
        return svg(figure, name)


def _bias(name: str, task: Task, levels: Levels) -> str:
    """OOD accuracy (left) and F_bias (right) against sparsity, a line for each loss.

    Over the paper's OOD sets where they are there, else over all; of these, over those on which the
    teacher is above chance, if there are any. Hollow points: a model that has collapsed.
    """
    names = published.ood_sets(task.data)
    if not names or not set(names) <= set(task.teacher.ood_sets):
        names = task.teacher.ood_sets
    judged = [one for one in names if one in task.above_chance]
    names = judged or names
    drawn = 0
    listed = ", ".join(set_name.removeprefix("ood_") for set_name in names)
    with drawing(8.4, 3.4) as figure:
        left, right = figure.subplots(1, 2)
        looks = ({"linestyle": dash, "color": colour} for dash in cycle("-:") for colour in COLOURS)
        for (line, rows), look in zip(levels.items(), looks, strict=False):
            style = {**look, "marker": "o", "label": printable(_label(levels, line))}
            start = (0.0, 100 * task.teacher.pool(names).value, False)
            ood, bias = [start], [(0.0, 1.0, False)]
            for sparsity, model in rows:
                lost, found = bool(task.collapsed(model)), model.f_bias(task.teacher, names)
                ood.append((100 * sparsity, 100 * model.pool(names).value, lost))
                if found is not None:
                    bias.append((100 * sparsity, found.value, lost))
            drawn += len(bias) - 1
            for axes, points in ((left, ood), (right, bias)):
                if len(points) > 1:
                    _line(axes, points, style)
        left.set(xlabel="sparsity, %", ylabel=f"accuracy on {printable(listed)}, %")
        measure = f" of {task.measure}" if task.measure else ""
        doubt = f" (teacher not clearly above {task.chance})" * (not judged)
        right.set(
            xlabel="sparsity, %",
            ylabel=f"F_bias{measure}" + (doubt if drawn else " n/a: see the tables"),
        )
        for axes in (left, right):
            axes.grid()
        left.legend(loc="lower left", fontsize=8.5)
        return svg(figure, name)


def _line(axes: Axes, points: Sequence[tuple[float, float, bool]], style: Mapping[str, Any]) -> None:
    """A line through points (x, y, collapsed)."""
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], **style)
    for x, y, lost in points:
        if lost:
            axes.scatter(x, y, facecolor="white", edgecolor=style["color"], zorder=3)


def _id(text: str) -> str:
    """A name that can stand in an id."""
    return "".join(c if c.isalnum() else "-" for c in text)
