"""What the benchmark of trainings shows: a Markdown table, a picture and JSON.

Samples are those of mean length: tokens over the mean of the split, because the few samples of a round
may be longer than those of another. The ratio to the first training is that of each round, and its
median. It is bounded by the work that a token is: places of the padded batches and forward passes of
the peer, over tokens and forward passes of the first.
"""

import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from compress.files import artefacts
from compress.reporting import markdown, page, tables
from compress.reporting.figures import OTHER_COLOURS

TRAINING: tables.Column[Mapping[str, Any]] = ("training", lambda row: row["training"])
FASTER: tables.Column[Mapping[str, Any]] = (
    "ours is faster by",
    lambda row: _compared(row, f"{row['ratio']:.2f}"),
)
COLUMNS: list[tables.Column[Mapping[str, Any]]] = [
    TRAINING,
    ("samples/s", lambda row: f"{row['samples_per_second']:,.1f}"),
    ("10-90 %", lambda row: f"{row['low']:,.1f}-{row['high']:,.1f}"),
    ("tokens/s", lambda row: f"{row['tokens_per_second']:,.0f}"),
    ("padding", lambda row: f"{100 * row['padding']:.0f} %"),
    ("of peak", lambda row: f"{100 * row['of_peak']:.0f} %"),
    FASTER,
    ("bound", lambda row: _compared(row, f"{row['bound']:.2f}")),
    ("reached", lambda row: _compared(row, f"{100 * row['ratio'] / row['bound']:.0f} %")),
]


def _compared(row: Mapping[str, Any], text: str) -> str:
    return "" if row["first"] else text


@dataclass(frozen=True)
class Turn:
    """Some steps of a training in a round: seconds, tokens and padded places of all ranks.

    forwards: forward passes that a step costs, those of the backward pass and of a teacher included.
    """

    training: str
    round: int
    steps: int
    seconds: float
    tokens: float
    places: float
    forwards: float


@dataclass(frozen=True)
class Look:
    """Dev accuracy (share) of a training after its turn in a round."""

    training: str
    round: int
    accuracy: float


SCORED = "teacher's probabilities, s"
"""Of the facts: the seconds that ours needs before its first step."""
REACHED: list[tables.Column[Mapping[str, Any]]] = [
    TRAINING,
    ("dev at the end", lambda row: f"{100 * row['last']:.1f} %"),
    ("dev that all keep", lambda row: f"{100 * row['level']:.1f} %"),
    ("after steps", lambda row: f"{row['steps']:,}"),
    ("seconds", lambda row: f"{row['seconds']:,.0f}"),
    FASTER,
]


def reached(turns: Sequence[Turn], looks: Sequence[Look], before: float) -> list[dict[str, Any]]:
    """From when on each training had the dev accuracy that all have at the end: at no later look less.

    The first look that happens to be as high says little, above all of students of a trained teacher.

    before: seconds that the first training needs before its first step.
    """
    names = list(dict.fromkeys(turn.training for turn in turns))
    ordered = sorted(looks, key=lambda look: look.round)
    seen = {name: [look for look in ordered if look.training == name] for name in names}
    level = min(own[-1].accuracy for own in seen.values())
    out: list[dict[str, Any]] = []
    for name in names:
        *_, first = takewhile(lambda look: look.accuracy >= level, reversed(seen[name]))
        spent = [turn for turn in turns if turn.training == name and turn.round <= first.round]
        seconds = sum(turn.seconds for turn in spent) + (before if name == names[0] else 0.0)
        out.append(
            {
                "training": name,
                "first": name == names[0],
                "last": seen[name][-1].accuracy,
                "level": level,
                "steps": sum(turn.steps for turn in spent),
                "every": spent[0].steps,
                "seconds": seconds,
                "ratio": seconds / (out[0]["seconds"] if out else seconds),
            }
        )
    return out


def rows(about: Mapping[str, Any], turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Figures of each training, compared with the first; about: see `compress.benchmark.training`.

    of_peak: operations of forward and backward pass on tokens, without padding and teacher, over what
    the device can do.
    """
    names = list(dict.fromkeys(turn.training for turn in turns))
    by = {name: [turn for turn in turns if turn.training == name] for name in names}
    first, out = by[names[0]], []
    for name in names:
        own = by[name]
        rates = [turn.tokens / turn.seconds / about["mean tokens"] for turn in own]
        ratios = [
            mine.tokens / mine.seconds / (other.tokens / other.seconds)
            for mine, other in zip(
                sorted(first, key=lambda t: t.round), sorted(own, key=lambda t: t.round), strict=True
            )
        ]
        tokens, places = (sum(getattr(turn, key) for turn in own) for key in ("tokens", "places"))
        rate = statistics.median(turn.tokens / turn.seconds for turn in own)
        bound = places / tokens * own[0].forwards / first[0].forwards
        low, high = np.quantile(rates, (0.1, 0.9))
        out.append(
            {
                "training": name,
                "first": name == names[0],
                "samples_per_second": statistics.median(rates),
                "low": float(low),
                "high": float(high),
                "tokens_per_second": rate,
                "padding": 1 - tokens / places,
                "of_peak": 3 * about["operations of a token"] * rate / about["peak operations"],
                "ratio": statistics.median(ratios),
                "bound": bound,
            }
        )
    return out


def described(about: Mapping[str, Any]) -> str:
    """The machine and the task as a sentence."""
    shown = {
        key: f"{v:,.4g}" if isinstance(v, float) else v for key, v in about.items() if v is not None
    }
    return f"{', '.join(f'{name} {value}' for name, value in shown.items())}."


def title(about: Mapping[str, Any]) -> str:
    """The machine and the task as a title of a picture."""
    task = f"{about['task']}, {about['precision']}, batch {about['batch']}, {about['ranks']} ranks"
    return f"{task}, {about['processor']}, {about['device']}"


def report(
    about: Mapping[str, Any],
    figures: Sequence[Mapping[str, Any]],
    times: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The report as Markdown; times: as `reached`, if there is a teacher."""
    note = (
        "Medians of the rounds, which are interleaved, in samples of mean length. Bound: places of the "
        "padded batches and forward passes, over tokens and forward passes of the first. Of peak: "
        "operations on tokens, without padding and teacher, over those of a large matrix product."
    )
    parts = [described(about), _table(figures, COLUMNS), note]
    if times:
        parts.append(_table(times, REACHED))
        parts.append(
            "Seconds of training steps; ours include the teacher's probabilities of train. Dev is "
            f"scored every {times[0]['every']} steps, which is not timed; nor are those that warm up."
        )
    return "\n\n".join(parts) + "\n"


def _table(
    figures: Sequence[Mapping[str, Any]], columns: Sequence[tables.Column[Mapping[str, Any]]]
) -> str:
    found = tables.Table.of("", figures, columns)
    return markdown.table([found.header, *found.rows], markdown.pipes, padded=True)


def picture(about: Mapping[str, Any], figures: Sequence[Mapping[str, Any]]) -> Figure:
    """Samples a second of each training, with their spread."""
    figure = Figure(figsize=(7, 1.2 + 0.5 * len(figures)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(figures):
        value = row["samples_per_second"]
        spread = [[value - row["low"]], [row["high"] - value]]
        colour = OTHER_COLOURS[place % len(OTHER_COLOURS)]
        axes.barh(place, value, height=0.7, color=colour, xerr=spread, ecolor="black", capsize=3)
        text = f" {value:,.1f}" + (f" (ours {row['ratio']:.2f} times)" if place else "")
        axes.text(row["high"], place, text, va="center", fontsize=9)
    axes.set_yticks(range(len(figures)), [row["training"] for row in figures])
    axes.set_ylim(len(figures) - 0.5, -0.5)
    axes.set_xlim(0, 1.35 * max(row["high"] for row in figures))
    axes.set_xlabel("samples a second (median; bars: 10th to 90th percentile)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title(about), fontsize=9, loc="left")
    return figure


def write(
    folder: Path, about: Mapping[str, Any], turns: Sequence[Turn], looks: Sequence[Look] = ()
) -> str:
    """Write training.md, training.json and training.png into the folder; return the text."""
    figures = rows(about, turns)
    times = reached(turns, looks, about.get(SCORED, 0.0)) if looks else []
    text = report(about, figures, times)
    values = {"machine": about, "trainings": figures, "turns": [vars(turn) for turn in turns]}
    if looks:
        values |= {"looks": [vars(look) for look in looks], "reached": times}
    leave(folder / "training", text, picture(about, figures), values)
    return text


def leave(place: Path, text: str, figure: Figure, values: Mapping[str, Any]) -> None:
    """Write a benchmark's text, picture and values; place: path of the files without their suffix."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    with artefacts.replacing(place.with_suffix(".png")) as temporary:
        temporary.write_bytes(image.getvalue())
    page.write(place.with_suffix(".md"), text)
    artefacts.write_json(place.with_suffix(".json"), values)
