"""The picture of the README, from the table in docs/results/bias-models.md.

python docs/figures/quickstart.py

Accuracy on dev and out of distribution: the teacher, the compressed student with the plain loss, and
with a product of experts; means over five seeds with 95 % intervals.
"""

import io
import re
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
PAGE = HERE.parent / "results" / "bias-models.md"
MODELS = {
    "teacher": ("teacher, 4 layers", "#8A929C"),
    "layers_0_1_2 vanilla": ("3 layers, plain loss", "#E69F00"),
    "layers_0_1_2 poe": ("3 layers, product of experts", "#0072B2"),
}
"""Row of the table -> what the picture calls it, and its colour."""
SETS = {"dev": "dev", "OOD": "out of distribution"}
CELL = re.compile(r"([\d.]+) ± [\d.]+ \[([\d.]+), ([\d.]+)\]")
Value = tuple[float, float, float]


def values() -> dict[str, dict[str, Value]]:
    """Set -> row of the table -> mean and the ends of its interval."""
    text = PAGE.read_text(encoding="utf-8")
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert lines is not None, f"{PAGE} has no table"
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines.group().splitlines()
    ]
    found: dict[str, dict[str, Value]] = {name: {} for name in SETS}
    for row in rows:
        for name in SETS:
            match = CELL.fullmatch(row[head.index(name)])
            assert match is not None, row
            mean, low, high = map(float, match.groups())
            found[name][row[0].rstrip(" ‡")] = (mean, low, high)
    return found


def draw() -> str:
    """The picture as SVG."""
    plt.rcParams.update({"svg.hashsalt": "quickstart", "svg.fonttype": "none", "font.size": 10})
    figure, axes = plt.subplots(figsize=(7.6, 2.6), layout="constrained")
    found, high = values(), 0.26
    for place, name in enumerate(SETS):
        for number, (row, (_, colour)) in enumerate(MODELS.items()):
            mean, low, top = found[name][row]
            y, spread = place + (number - 1) * high, [[mean - low], [top - mean]]
            axes.errorbar(mean, y, xerr=spread, color=colour, fmt="o", capsize=3)
            axes.text(top + 0.4, y, f"{mean:.1f}", va="center")
    for label, colour in MODELS.values():
        axes.plot([], [], "o-", color=colour, label=label)
    axes.set_yticks(range(len(SETS)), SETS.values())
    axes.set(xlim=(75, 103), ylim=(1.5, -0.5), xticks=range(75, 101, 5))
    axes.set_xlabel("accuracy, %: mean of five seeds, 95 % interval over samples and seeds")
    axes.grid(axis="x", color="#DDDDDD")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    image = io.StringIO()
    figure.savefig(image, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in image.getvalue().splitlines()) + "\n"


if __name__ == "__main__":
    (HERE / "quickstart.svg").write_text(draw(), encoding="utf-8")
