"""The report's figures, as SVG text for an HTML page; and the rows that they show.

Matplotlib `Figure` objects without pyplot, so that no global state changes; the SVG is cleaned:
no metadata, style sheet or fixed size, and every id is prefixed with the figure's name, because several
drawings share one page. Equal data give equal bytes. Text stays text, which can be searched and read
aloud. Colours: Okabe and Ito (2008), safe for colour-blind readers.
"""

import io
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from compress.reporting.numbers import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEACHER, STUDENT = "#8A929C", "#0072B2"
GROUP_COLOURS = {"aligned": "#56B4E9", "conflicting": "#D55E00"}
OTHER_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00")
INK, FAINT = "#333333", "#DDDDDD"
BINS = 20
MOST_SUBSETS = 40
PLAIN = "#E69F00"
COLOURS = {"teacher": TEACHER, "plain": PLAIN, "student": STUDENT}
LABELS = {"teacher": "teacher", "plain": "student, plain loss", "student": "student"}
"""Role of a model -> its name in a legend, in their order."""

STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def histogram_counts(
    values: np.ndarray, truth: np.ndarray | None, bins: int = BINS
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Count the values in equal bins, one histogram per group of `truth`.

    values: [N], non-finite ones are left out; truth: group names [N], or None for one group "samples".
    Returns bin edges [bins + 1] and counts [bins] by group in alphabetical order.
    """
    finite = np.isfinite(values)
    kept = np.asarray(values, dtype=float)[finite]
    edges = np.histogram_bin_edges(kept, bins=bins)
    names = np.full(kept.shape, "samples") if truth is None else np.asarray(truth)[finite]
    groups = {str(name): np.histogram(kept[names == name], bins=edges)[0] for name in np.unique(names)}
    return edges, groups


@dataclass(frozen=True)
class Subset:
    """Accuracies by role (fractions, None where missing) and number of samples of one subset."""

    name: str
    accuracies: Mapping[str, float | None]
    samples: int | None

    @property
    def teacher(self) -> float | None:
        """Accuracy of the teacher."""
        return self.accuracies["teacher"]

    @property
    def student(self) -> float | None:
        """Accuracy of the student."""
        return self.accuracies["student"]


def ood_subsets(metrics: Mapping[str, Any]) -> list[Subset]:
    """Return the subsets of all OOD sets in their order, named "SET: SUBSET" if sets are several.

    A set without subsets is one row of its own.
    """
    rows: list[Subset] = []
    sets, roles = metrics["teacher"]["ood"], _roles(metrics)
    for name in sets:
        sides = {role: (metrics[role].get("ood_subsets") or {}).get(name) for role in roles}
        found = _matched(sides, f"{name}: " if len(sets) > 1 else "")
        if not found:
            sizes = (metrics.get("samples") or {}).get("ood") or {}
            each = {role: metrics[role]["ood"].get(name) for role in roles}
            found = [Subset(name, each, sizes.get(name))]
        rows += found
    return rows


def _roles(metrics: Mapping[str, Any]) -> list[str]:
    """The models that the metrics have, in their order."""
    return [role for role in LABELS if role in metrics]


def dev_subsets(metrics: Mapping[str, Any]) -> list[Subset]:
    """Return the subsets of the dev set in their order; none where the run has none."""
    return _matched({role: metrics[role].get("dev_subsets") for role in _roles(metrics)}, "")


def most_different(rows: Sequence[Subset], most: int = MOST_SUBSETS) -> list[Subset]:
    """Return at most `most` rows, those where the student differs most, in their old order."""

    def difference(index: int) -> float:
        teacher, student = rows[index].teacher, rows[index].student
        return -1.0 if teacher is None or student is None else abs(student - teacher)

    kept = sorted(range(len(rows)), key=difference, reverse=True)[:most]
    return [rows[index] for index in sorted(kept)]


def bar_chart(name: str, rows: Sequence[Subset]) -> str:
    """Draw grouped horizontal bars of accuracy in percent, one for each subset and model.

    Bars carry the ids `NAME-bar-ROLE-ROW`; a missing accuracy has no bar. The height follows the number
    of rows.
    """
    roles = list(rows[0].accuracies)
    wrapped = ["\n".join(textwrap.wrap(printable(row.name), 26)) or "-" for row in rows]
    lines = sum(max(len(roles), text.count("\n") + 1) for text in wrapped)
    high = 0.76 / len(roles)
    with drawing(5.6, 0.95 + 0.2 * lines + 0.06 * len(rows)) as figure:
        axes = figure.add_subplot()
        for number, role in enumerate(roles):
            shift, colour = (number - (len(roles) - 1) / 2) * high, COLOURS[role]
            for position, row in enumerate(rows):
                accuracy = row.accuracies[role]
                if accuracy is not None:
                    y, width = position + shift, 100 * accuracy
                    bar = axes.barh(y, width, height=high - 0.02, color=colour)[0]
                    bar.set_gid(f"bar-{role}-{position}")
                    axes.text(width + 0.8, y, f"{width:.1f}", va="center", fontsize=8.5)
            axes.barh([0], [np.nan], color=colour, label=LABELS[role])
        axes.set_yticks(np.arange(len(rows)), wrapped, parse_math=False)
        axes.set(xlim=(0, 100), ylim=(len(rows) - 0.4, -0.6), xlabel="accuracy, %")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(roles), borderaxespad=0.1)
        return svg(figure, name)


def histogram_chart(name: str, values: np.ndarray, truth: np.ndarray | None, xlabel: str) -> str:
    """Draw how often each value occurs, the groups beside each other, counts on a log axis.

    The groups are not stacked: on a log axis the parts of a stack cannot be compared. Each drawn
    bar carries the id `NAME-bar-GROUP-BIN`; empty bins have none.

    values: [N], at least one of them finite; truth: group names [N] or None.
    """
    edges, groups = histogram_counts(values, truth)
    step = (edges[1] - edges[0]) / len(groups)
    spare = iter(OTHER_COLOURS * (1 + len(groups) // len(OTHER_COLOURS)))
    with drawing(4.6, 3.2) as figure:
        axes = figure.add_subplot()
        for index, (group, counts) in enumerate(groups.items()):
            colour = GROUP_COLOURS.get(group) or next(spare)
            label = f"{printable(group)} ({counts.sum():,})"
            left = edges[:-1] + (index + 0.06) * step
            drawn = axes.bar(left, counts, 0.9 * step, align="edge", color=colour, label=label)
            for position, bar in enumerate(drawn):
                bar.set_gid(f"bar-{index}-{position}")
                if not counts[position]:
                    bar.remove()
        axes.set_yscale("log")
        top = max(int(counts.max()) for counts in groups.values())
        axes.set(ylim=(0.7, max(3, 2 * top)), xlabel=xlabel, ylabel="samples (log scale)")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")
        axes.minorticks_off()
        axes.grid(axis="y")
        if truth is not None:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1)
        return svg(figure, name)


def line_chart(name: str, sparsities: Sequence[float], mean_loss: np.ndarray) -> str:
    """Draw the mean training loss of the sub-networks [T], nats, against their sparsity [T]."""
    order = np.argsort(np.asarray(sparsities, dtype=float), kind="stable")
    x, y = 100 * np.asarray(sparsities, dtype=float)[order], np.asarray(mean_loss)[order]
    with drawing(4.6, 3.0) as figure:
        axes = figure.add_subplot()
        axes.plot(x, y, color=STUDENT, marker="o", gid="line")
        if len(x) <= 12:
            for sparsity, loss in zip(x, y, strict=True):
                axes.annotate(
                    f"{loss:.3f}",
                    (sparsity, loss),
                    xytext=(-4, 5),
                    textcoords="offset points",
                    ha="right",
                    fontsize=8.5,
                )
        axes.margins(x=0.12, y=0.2)
        axes.set_ylim(bottom=0)
        axes.set(xlabel="sparsity of the sub-network, %", ylabel="mean training loss, nats")
        axes.grid()
        return svg(figure, name)


def _matched(sides: Mapping[str, Mapping[str, Any] | None], prefix: str) -> list[Subset]:
    """Return one row for each subset that a model's results name; sides: the results by role."""
    names = dict.fromkeys(name for side in sides.values() for name in side or {})
    rows = []
    for name in names:
        found = {role: (side or {}).get(name) or {} for role, side in sides.items()}
        samples = next((one["samples"] for one in found.values() if "samples" in one), None)
        each = {role: one.get("accuracy") for role, one in found.items()}
        rows.append(Subset(prefix + name, each, samples))
    return rows


@contextmanager
def drawing(width: float, height: float) -> "Iterator[Figure]":
    """Context: an empty figure in the report's style; sizes in inches.

    Matplotlib is loaded here: it takes a second, and most stages draw nothing.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="tight")


def svg(figure: "Figure", name: str) -> str:
    """Return the figure as an `<svg>` element with ids of its own and no size of its own."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {
            _local(key): _prefixed(_local(key), value, name) for key, value in element.attrib.items()
        }
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("style", "stroke-linejoin:round;stroke-linecap:butt")
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-caption")
    return ElementTree.tostring(root, encoding="unicode")


def _local(tag: str) -> str:
    """Return a tag or attribute name without its namespace: HTML knows SVG without one."""
    return tag.rpartition("}")[2]


def _prefixed(key: str, value: str, name: str) -> str:
    """Return an attribute's value with the ids in it prefixed by the figure's name."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1)
    return re.sub(r"url\(#", f"url(#{name}-", value)
