"""The picture of the benchmark of trainings, from the table in docs/results/training-speed.md.

python docs/figures/training_speed.py
"""

import io
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
PAGE = HERE.parent / "results" / "training-speed.md"
COLOURS = ("#0072B2", "#9a9a9a", "#c8c8c8")


def rows() -> list[tuple[str, float, tuple[float, float], str]]:
    """Training, samples a second, their 10th and 90th percentile, and how much faster the first is."""
    page = PAGE.read_text(encoding="utf-8").splitlines()
    first = page.index(next(line for line in page if line.startswith("|")))
    lines = page[first : page.index("", first)]
    head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    column = {name: head.index(name) for name in ("samples/s", "10-90 %", "ours is faster by")}
    found = []
    for cells in body:
        low, high = map(float, cells[column["10-90 %"]].split("-"))
        rate = float(cells[column["samples/s"]])
        found.append((cells[0], rate, (low, high), cells[column["ours is faster by"]]))
    return found


def draw() -> str:
    """The picture as SVG."""
    plt.rcParams.update({"svg.hashsalt": "training", "svg.fonttype": "none", "font.size": 9})
    every = rows()
    figure, axes = plt.subplots(figsize=(7.6, 1.9), layout="constrained")
    for place, (name, rate, (low, high), ratio) in enumerate(every):
        spread = [[rate - low], [high - rate]]
        axes.barh(place, rate, 0.62, color=COLOURS[place], xerr=spread, ecolor="#333333", capsize=3)
        times = f" (ours is {ratio} times as fast)" if ratio else ""
        axes.text(high + 0.2, place, f"{rate:.1f}{times}", va="center")
        axes.text(-0.2, place, name.replace(": ", ":\n"), va="center", ha="right")
    fastest = max(rate for _, rate, _, _ in every)
    axes.set(ylim=(len(every) - 0.5, -0.5), xlim=(0, 1.4 * fastest), yticks=[])
    axes.set_xlabel("samples a second; MNLI, MiniLM, one core, float32; lines: 10th to 90th percentile")
    axes.spines[["top", "right", "left"]].set_visible(False)
    image = io.StringIO()
    figure.savefig(image, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return "\n".join(line.rstrip() for line in image.getvalue().splitlines()) + "\n"


if __name__ == "__main__":
    (HERE / "training_speed.svg").write_text(draw(), encoding="utf-8")
