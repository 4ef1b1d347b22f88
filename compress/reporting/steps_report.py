"""What the benchmark of steps shows: a Markdown table, a picture and JSON.

A row is a part of the optimiser step: milliseconds as the median of the rounds with their 10th and 90th
percentile, and its share of the step. `more` compares the first training with the second within each
round. Medians are of each part by itself, so that they add up to the whole step only roughly.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from compress.reporting import markdown, numbers, tables, training_report
from compress.reporting.figures import OTHER_COLOURS

NAMES = {
    "batch": "batch (waiting for the feed)",
    "data": "copy to the device",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "optimiser",
    "masks": "masks",
    "refreshes": "refreshes of masks",
    "logging": "logging",
    "rest": "rest",
    "step": "whole step",
}
"""Part -> what the table calls it; the last is all of them."""
WHOLE = "step"
Column = tables.Column[Mapping[str, Any]]
NOTE = (
    "Medians of the rounds, which are interleaved; means over the timed steps of a turn and the ranks. "
    "Masks: before and after the optimiser's step, without refreshes if some timed steps have none. "
    "Refreshes: one, times their share of the run's steps. Logging: one report, over "
    "steps_per_print. Rest: loss, check for finite values, sums, signals. On a GPU each part waits "
    "for the device, so that a step takes longer than in a run."
)


@dataclass(frozen=True)
class Turn:
    """A training's timed steps of a round; seconds: of one step, by part, without refreshes.

    between: how many of the steps had no refresh of masks.
    """

    training: str
    round: int
    steps: int
    between: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Refreshes:
    """Refreshes of the first training's masks: how many a run of `steps` steps has, seconds of one.

    seconds: None if each timed step has one, so that the masks' time has it.
    """

    count: int
    steps: int
    seconds: float | None

    @property
    def of_a_step(self) -> float | None:
        """Seconds of a step of a run, if one was timed by itself."""
        return None if self.seconds is None else self.seconds * self.count / self.steps


def rows(turns: Sequence[Turn], refreshes: Refreshes | None) -> list[dict[str, Any]]:
    """Figures of each part and of the whole step, in seconds, by training.

    refreshes: of the first training; None if it has no masks.
    """
    apart = refreshes.of_a_step if refreshes else None
    names = list(dict.fromkeys(turn.training for turn in turns))
    by: dict[str, list[dict[str, float]]] = {}
    for name in names:
        own = sorted((turn for turn in turns if turn.training == name), key=lambda turn: turn.round)
        parts = [
            {**turn.seconds, "refreshes": (apart or 0.0) if name == names[0] else 0.0} for turn in own
        ]
        by[name] = [{**part, WHOLE: sum(part.values())} for part in parts]
    return [_row(part, by) for part in NAMES if part != "refreshes" or apart is not None]


def _row(part: str, by: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """One part: by training median, 10th and 90th percentile and share; more: of the first."""
    trainings = {}
    for name, rounds in by.items():
        values = [one[part] for one in rounds]
        low, high = np.quantile(values, (0.1, 0.9))
        share = statistics.median(one[part] / one[WHOLE] for one in rounds)
        found = {"seconds": statistics.median(values), "low": float(low), "high": float(high)}
        trainings[name] = {**found, "share": share}
    first, *others = by.values()
    pairs = [a[part] - b[part] for other in others for a, b in zip(first, other, strict=True)]
    return {"part": part, "trainings": trainings, "more": statistics.median(pairs) if pairs else None}


def report(about: Mapping[str, Any], figures: Sequence[Mapping[str, Any]]) -> str:
    """The report as Markdown."""
    columns: list[Column] = [("part of the step", lambda row: NAMES[row["part"]])]
    for name in figures[0]["trainings"]:
        columns += _columns(name)
    if figures[0]["more"] is not None:
        columns.append(("more with pruning: ms", lambda row: numbers.signed(1e3 * row["more"], 2)))
    found = tables.Table.of("", figures, columns)
    table = markdown.table([found.header, *found.rows], markdown.pipes, padded=True)
    return "\n\n".join([training_report.described(about), table, f"{NOTE}\n"])


def _columns(name: str) -> list[Column]:
    """Of one training."""
    return [
        (f"{name}: ms", lambda row: _ms(row["trainings"][name]["seconds"])),
        ("10-90 %", lambda row: _spread(row["trainings"][name])),
        ("share", lambda row: f"{100 * row['trainings'][name]['share']:.1f} %"),
    ]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.2f}"


def _spread(found: Mapping[str, float]) -> str:
    """Nothing for a value that was measured once."""
    low, high = found["low"], found["high"]
    return "" if low == high else f"{_ms(low)}-{_ms(high)}"


def picture(about: Mapping[str, Any], figures: Sequence[Mapping[str, Any]]) -> Figure:
    """Milliseconds of each part and training, with their spread."""
    parts = figures[:-1]
    names = list(parts[0]["trainings"])
    figure = Figure(figsize=(7, 1.2 + 0.25 * len(names) * len(parts)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(names)
    for number, name in enumerate(names):
        own = [part["trainings"][name] for part in parts]
        values = [1e3 * one["seconds"] for one in own]
        spread = [
            [1e3 * max(0.0, one["seconds"] - one["low"]) for one in own],
            [1e3 * max(0.0, one["high"] - one["seconds"]) for one in own],
        ]
        places = np.arange(len(own)) + (number - (len(names) - 1) / 2) * height
        look = {"color": OTHER_COLOURS[number], "ecolor": "black", "capsize": 2, "label": name}
        axes.barh(places, values, height, xerr=spread, **look)
    axes.set_yticks(range(len(parts)), [NAMES[part["part"]] for part in parts])
    axes.set_ylim(len(parts) - 0.5, -0.5)
    axes.set_xlabel("milliseconds of a step (median; bars: 10th to 90th percentile)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    axes.set_title(training_report.title(about), fontsize=9, loc="left")
    return figure


def write(
    folder: Path, about: Mapping[str, Any], turns: Sequence[Turn], refreshes: Refreshes | None
) -> str:
    """Write steps.md, steps.json and steps.png into the folder; return the text."""
    known = dict(about)
    if refreshes is not None:
        own = [turn for turn in turns if turn.training == turns[0].training]
        timed = sum(turn.steps for turn in own)
        with_one = timed - sum(turn.between for turn in own)
        known["timed steps with a refresh"] = f"{with_one:,} of {timed:,}"
        known["steps of a run with a refresh"] = f"{refreshes.count:,} of {refreshes.steps:,}"
        known["seconds of a refresh"] = refreshes.seconds
    figures = rows(turns, refreshes)
    text = report(known, figures)
    values = {"machine": known, "parts": figures, "turns": [vars(turn) for turn in turns]}
    training_report.leave(folder / "steps", text, picture(about, figures), values)
    return text
