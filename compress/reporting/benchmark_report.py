"""What the benchmark shows: a Markdown table, a picture and JSON, with the machine they belong to.

Speed-up is the ratio of median latencies, reference / model; the FLOP ratio (floating-point operations
of one forward pass, reference / model) bounds it, and `reached` is speed-up / FLOP ratio.
"""

import io
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compress.files import artefacts
from compress.reporting import markdown, page, tables
from compress.reporting.figures import OTHER_COLOURS
from compress.reporting.numbers import printable

FOOTNOTE = (
    "Zeros give no speed-up: a dense kernel multiplies them like any other number, so a model that is "
    "only sparse keeps the FLOP ratio 1.00. What is faster has fewer heads, ffn neurons or layers."
)
COLUMNS: list[tables.Column[Mapping[str, Any]]] = [
    ("runtime", lambda row: row["runtime"]),
    ("length", lambda row: str(row["length"])),
    ("batch", lambda row: str(row["batch"])),
    ("model", lambda row: row["model"]),
    ("median ms", lambda row: f"{row['latency_ms']:.2f}"),
    ("10-90 % ms", lambda row: f"{row['latency_ms_p10']:.2f}-{row['latency_ms_p90']:.2f}"),
    ("samples/s", lambda row: f"{row['throughput']:,.0f}"),
    ("speed-up", lambda row: f"{row['speedup']:.2f}"),
    ("FLOP ratio", lambda row: f"{row['flop_ratio']:.2f}"),
    ("reached", lambda row: f"{100 * row['reached']:.0f} %"),
]
SIZES: list[tables.Column["Model"]] = [
    ("model", lambda model: model.name),
    ("parameters", lambda model: f"{model.parameters:,}"),
    ("non-zero", lambda model: f"{model.nonzero:,}"),
    ("directory", lambda model: model.path),
]
BOUND = "bound: ratio of floating-point operations (in brackets: share reached)"
HATCHES = ("", "///", "...")


@dataclass(frozen=True)
class Model:
    """A model directory, its short name and its size in parameters."""

    name: str
    path: str
    parameters: int
    nonzero: int


@dataclass(frozen=True)
class Timing:
    """One model in one runtime and shape: floating-point operations and seconds of a batch."""

    model: str
    runtime: str
    batch: int
    length: int
    flops: int
    seconds: tuple[float, ...]


def short_names(paths: Sequence[Path]) -> list[str]:
    """The parts of the paths that tell them apart; equal ones are numbered."""
    parts = [list(path.parts) for path in paths]
    if len(paths) > 1:
        for end in (-1, 0):
            while min(map(len, parts)) > 1 and len({part[end] for part in parts}) == 1:
                for part in parts:
                    del part[end]
    names = [printable("/".join(part).replace("//", "/")) for part in parts]
    return [
        f"{name} ({names[: place + 1].count(name)})" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def rows(timings: Sequence[Timing]) -> list[dict[str, Any]]:
    """Figures of each timing, compared with the first model of its runtime and shape.

    latency: milliseconds a batch (median, 10th and 90th percentile); throughput: samples a second.
    """
    first: dict[tuple[str, int, int], Timing] = {}
    out = []
    for one in timings:
        reference = first.setdefault((one.runtime, one.batch, one.length), one)
        median = statistics.median(one.seconds)
        low, high = np.quantile(one.seconds, (0.1, 0.9))
        speedup = statistics.median(reference.seconds) / median
        ratio = reference.flops / one.flops
        out.append(
            {
                "runtime": one.runtime,
                "length": one.length,
                "batch": one.batch,
                "model": one.model,
                "latency_ms": 1e3 * median,
                "latency_ms_p10": 1e3 * float(low),
                "latency_ms_p90": 1e3 * float(high),
                "throughput": one.batch / median,
                "flops": one.flops,
                "speedup": speedup,
                "flop_ratio": ratio,
                "reached": speedup / ratio,
            }
        )
    return out


def report(
    about: Mapping[str, Any], sizes: Sequence[Model], figures: Sequence[Mapping[str, Any]]
) -> str:
    """The report as Markdown: machine, sizes, timings, and what zeros are worth."""
    listed = ", ".join(f"{name} {value}" for name, value in about.items() if value is not None)
    found = tables.Table.of("", sizes, SIZES), tables.Table.of("", figures, COLUMNS)
    texts = [markdown.table([t.header, *t.rows], markdown.pipes, padded=True) for t in found]
    return "\n\n".join([f"{listed}.", *texts, f"Compared with {sizes[0].name}. {FOOTNOTE}\n"])


def picture(about: Mapping[str, Any], figures: Sequence[Mapping[str, Any]]) -> Figure:
    """Speed-up of each model by runtime and length, with a mark at the FLOP ratio that bounds it."""
    runtimes, lengths, batches, names = (
        list(dict.fromkeys(row[key] for row in figures))
        for key in ("runtime", "length", "batch", "model")
    )
    shown = names[1:] or names
    high = 0.9 + len(batches) * (0.25 + 0.24 * len(shown))
    figure = Figure(
        figsize=(1.2 + 4.2 * len(lengths), 1.1 + 0.22 * len(shown) + high * len(runtimes)),
        layout="constrained",
    )
    panels = figure.subplots(len(runtimes), len(lengths), sharex=True, squeeze=False)
    farthest = max(max(row["speedup"], row["flop_ratio"]) for row in figures)
    for line, runtime in zip(panels, runtimes, strict=True):
        for axes, length in zip(line, lengths, strict=True):
            chosen = [r for r in figures if (r["runtime"], r["length"]) == (runtime, length)]
            axes.set_xlim(0, 1.42 * farthest)
            axes.set_title(f"{runtime}, {length} tokens", fontsize=10, loc="left")
            _panel(axes, chosen, shown, batches)
    for axes in panels[-1]:
        axes.set_xlabel("speed-up (ratio of median latencies)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=1, frameon=False, fontsize=9)
    place = f"{about['processor']}, {about['threads']} threads, {about['device']}"
    title = textwrap.fill(f"Compared with {names[0]}: {place}", int(12 * figure.get_figwidth()))
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure


def _panel(
    axes: Axes, chosen: Sequence[Mapping[str, Any]], shown: Sequence[str], batches: Sequence[int]
) -> None:
    """One panel: bars in groups by batch size, from top to bottom."""
    step = 0.8 / len(shown)
    for number, name in enumerate(shown):
        again, tone = divmod(number, len(OTHER_COLOURS))
        look: Any = {"color": OTHER_COLOURS[tone], "hatch": HATCHES[again % len(HATCHES)]}
        for place, batch in enumerate(batches):
            row = next(r for r in chosen if (r["model"], r["batch"]) == (name, batch))
            speedup, ratio = row["speedup"], row["flop_ratio"]
            y = place - 0.4 + (number + 0.5) * step
            axes.barh(y, speedup, height=0.86 * step, label=None if place else name, **look)
            axes.plot([ratio, ratio], [y - step / 2, y + step / 2], color="black", lw=2)
            x = max(speedup, ratio) + 0.02 * axes.get_xlim()[1]
            axes.text(x, y, f"{speedup:.2f} ({100 * row['reached']:.0f} %)", va="center", fontsize=8)
    axes.plot([], [], color="black", lw=2, label=BOUND)
    axes.axvline(1, color="#999999", lw=0.8, zorder=0)
    axes.set_yticks(range(len(batches)), [f"batch {batch}" for batch in batches])
    axes.set_ylim(len(batches) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def write(
    folder: Path, about: Mapping[str, Any], sizes: Sequence[Model], timings: Sequence[Timing]
) -> str:
    """Write inference.md, inference.json and inference.png into the folder; return the text."""
    figures = rows(timings)
    text = report(about, sizes, figures)
    details = [{**row, "seconds": one.seconds} for row, one in zip(figures, timings, strict=True)]
    image = io.BytesIO()
    with matplotlib.rc_context({"text.parse_math": False}):
        picture(about, figures).savefig(image, format="png", dpi=150)
    with artefacts.replacing(folder / "inference.png") as temporary:
        temporary.write_bytes(image.getvalue())
    page.write(folder / "inference.md", text)
    values = {"machine": about, "models": [vars(model) for model in sizes], "timings": details}
    artefacts.write_json(folder / "inference.json", values)
    return text
