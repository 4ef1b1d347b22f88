"""The picture of the README, from the tables in docs/results.

python docs/figures/mitigations.py

Each panel is a data set and a compression; each row a mitigation: the difference of its OOD and dev
accuracies to the plain loss, with 95 % bootstrap intervals over samples and seeds.
"""

import io
import re
from collections.abc import Iterator
from math import nan
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parents[1] / "results"
PANELS = (
    ("Benchmark\n3 of 4 layers", "synthetic-mitigations.md", "layers_0_1_2", "OOD", "dev"),
    ("Benchmark\n60 % sparsity", "synthetic-mitigations.md", "imp60", "OOD", "dev"),
    ("FEVER\n40 % sparsity", "fever-mitigations.md", "imp40", "OOD pooled", "dev"),
    ("QQP\n40 % sparsity", "qqp-mitigations.md", "imp40", "OOD pooled", "dev"),
    ("MNLI\n40 % sparsity", "mnli-mitigations.md", "imp40", "OOD - vanilla", "dev - vanilla"),
)
"""Title, page, compression, and the columns that hold the differences to vanilla.

Of MNLI it is the table without HANS, on which the teacher is at chance.
"""
COLOURS = {"dev": "#9a9a9a", "OOD": "#c0392b"}
ROWS = (
    *("distil", "smooth", "focal", "jtt", "rmc", "rmc_weighted", "weighted", "rmc_plus"),
    *("weighted_shallow", "rmc_plus_shallow", "hidden", "rmc_plus_hidden"),
)
CELL = re.compile(r"(\**)([+-]?[\d.]+)\** ± [\d.]+ \[([-\d.]+), ([-\d.]+)\]")


class Difference(NamedTuple):
    """A difference to vanilla in points, the ends of its interval, and whether that excludes zero."""

    value: float
    low: float
    high: float
    clear: bool


def tables(page: str) -> Iterator[list[list[str]]]:
    """The tables of a page, as rows of cells."""
    text = (RESULTS / page).read_text(encoding="utf-8")
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        yield [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]


def differences(page: str, compression: str, column: str) -> dict[str, Difference]:
    """Mitigation -> its difference to vanilla."""
    for head, _, *rows in tables(page):
        cells = {row[0].rstrip(" †‡§"): row[head.index(column)] for row in rows if column in head}
        if not cells or (f"{compression} vanilla" in cells) != ("vanilla" in column):
            continue
        return {
            name.removeprefix(f"{compression} "): Difference(
                *map(float, found.groups()[1:]), bool(found[1])
            )
            for name, cell in cells.items()
            if name.startswith(f"{compression} ") and (found := CELL.search(cell))
        }
    raise ValueError(f"{page}: no table of differences with the column {column}")


def draw(axis: plt.Axes, found: dict[str, Difference], colour: str, shift: float) -> None:
    """Put one kind of accuracy into a panel."""
    shown = [(ROWS.index(name) + shift, d) for name, d in found.items() if name in ROWS]
    lines = [(x, y) for y, d in shown for x in (d.low, d.high, nan)]
    axis.plot(*zip(*lines, strict=True), color=colour, linewidth=1.2)
    for clear, face in ((True, colour), (False, "white")):
        marks = [(d.value, y) for y, d in shown if d.clear is clear]
        axis.plot([x for x, _ in marks], [y for _, y in marks], "o", color=colour, mfc=face, ms=4)


def main() -> None:
    """Write mitigations.svg beside this file."""
    plt.rcParams.update({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "mitigations"})
    figure, axes = plt.subplots(1, len(PANELS), figsize=(10, 3.9), sharey=True)
    for axis, (title, page, compression, ood, dev) in zip(axes, PANELS, strict=True):
        axis.axvline(0, color="black", linewidth=0.8)
        draw(axis, differences(page, compression, dev), COLOURS["dev"], 0.18)
        draw(axis, differences(page, compression, ood), COLOURS["OOD"], -0.18)
        axis.set_title(title, fontsize=9)
        axis.set_xlim(-10, 10)
        axis.grid(axis="x", color="#eeeeee")
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(ROWS)), ROWS)
    axes[0].invert_yaxis()
    handles = [
        plt.Line2D([], [], color=colour, marker="o", markersize=4, label=f"{name} accuracy")
        for name, colour in COLOURS.items()
    ]
    figure.legend(handles=handles, loc="lower right", ncols=2, frameon=False)
    label = "difference to the plain loss, in points (filled: its 95 % interval excludes zero)"
    figure.text(0.13, 0.035, label)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    short = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", text.getvalue())
    Path(__file__).with_suffix(".svg").write_text(short, encoding="utf-8")


if __name__ == "__main__":
    main()
