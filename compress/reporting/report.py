"""The report of a run: one HTML file that needs nothing else.

It shows dev and OOD accuracy of teacher and student, the relative bias between them (`scoring.bias`),
accuracy by subset, difficulty scores, sample sentences, settings. Equal input gives equal bytes. Needs
neither torch nor DeepSpeed.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from compress.configuration.merge import at
from compress.reporting import int8_table, notes, numbers, page, results_table, summary
from compress.reporting.figures import (
    Subset,
    bar_chart,
    dev_subsets,
    histogram_chart,
    line_chart,
    most_different,
    ood_subsets,
)
from compress.reporting.numbers import count, number, percent
from compress.reporting.tables import Column, Table
from compress.runtime import provenance

_RUN_KEYS = (
    *("task", "seed", "compression", "mitigation", "teacher", "student", "notes", "samples"),
    *("set_sizes", "at_chance", "vanished", "seconds", "reused", "artefacts"),
)


SIZE = Markup(' <span class="quiet">n = {}</span>')
SHARE = Markup(' <span class="quiet">{} %, {} to {}</span>')
ALPHAS: list[Column[tuple[str, Mapping[str, float]]]] = [
    ("alpha", lambda row: row[0]),
    ("Dev, %", lambda row: percent(row[1]["dev"])),
    ("Easy half, %", lambda row: percent(row[1]["dev_easy"])),
    ("Hard half, %", lambda row: percent(row[1]["dev_hard"])),
    ("Relative gap", lambda row: number(row[1]["gap"])),
]


@dataclass(frozen=True)
class Sentence:
    """One training sample as the report shows it.

    difficulty: d_i in [alpha, 1] (Du et al. 2023, Eq. 1), 1 is the hardest; variance: v_i of the loss
    over the sub-networks (Sec. 4.1), nats squared; truth: "aligned" or "conflicting" with the shortcut
    where that is known.
    """

    texts: tuple[str, ...]
    label: str
    difficulty: float
    variance: float
    truth: str | None


@dataclass(frozen=True)
class DifficultyView:
    """What the report shows of the difficulty stage, for N samples and T sub-networks.

    variance: v_i [N], nats squared; difficulty: d_i [N]; sparsities: share of pruned weights [T];
    mean_loss: mean training loss [T], nats; truth: "aligned" or "conflicting" [N], or None; hardest,
    easiest: samples of extreme difficulty, the most extreme first. ValueError if shapes do not fit.
    """

    variance: np.ndarray
    difficulty: np.ndarray
    sparsities: tuple[float, ...]
    mean_loss: np.ndarray
    truth: np.ndarray | None
    hardest: list[Sentence]
    easiest: list[Sentence]

    def __post_init__(self) -> None:
        """Check the shapes."""
        samples, networks = np.shape(self.variance), (len(self.sparsities),)
        for name, found, expected in (
            ("difficulty", np.shape(self.difficulty), samples),
            ("truth", samples if self.truth is None else np.shape(self.truth), samples),
            ("mean_loss", np.shape(self.mean_loss), networks),
        ):
            if found != expected or len(expected) != 1:
                raise ValueError(f"{name} has shape {found}, expected {expected}")


def write_report(
    path: Path,
    metrics: Mapping[str, Any],
    config: Mapping[str, Any],
    difficulty: DifficultyView | None,
) -> None:
    """Write the report as one self-contained HTML file, whole or not at all.

    metrics: as in metrics.json, accuracies as fractions; config: shown as JSON. Raises ValueError if a
    required key of the metrics is missing.
    """
    summary.require(metrics, _RUN_KEYS, "")
    summary.check(metrics)
    tried, used = _alphas(metrics), (metrics.get("difficulty") or {}).get("alpha")
    text = page.render(
        "report.html.j2",
        metrics=metrics,
        teacher=metrics["teacher"],
        plain=metrics.get("plain"),
        gain=summary.gain(metrics),
        flips=summary.flips(metrics),
        student=metrics["student"],
        verdict=summary.verdict(metrics),
        f_bias_reason=summary.f_bias_reason(metrics),
        measure=summary.measure_name(metrics),
        notes=notes.against(metrics),
        beside=notes.beside(metrics),
        doubt=any(map(notes.doubt, (metrics, metrics.get("plain") or {}))),
        columns=results_table.header(metrics),
        rows=results_table.rows(metrics),
        latency_setting=summary.latency_setting,
        int8=summary.int8(metrics),
        not_timed=[*summary.not_timed(metrics), *summary.only_scores(metrics)],
        zeros=summary.zeros(metrics),
        figures={name: Markup(svg) for name, svg in figures(metrics, difficulty).items()},
        tables=_tables(metrics, difficulty),
        chosen_alpha=next((alpha for alpha in tried if float(alpha) == used), None),
        subset_total=len(ood_subsets(metrics)),
        dev_total=len(dev_subsets(metrics)),
        subgroups=at(config, ["robust_compression", "task", "subgroups"]),
        view=difficulty,
        versions=provenance.by_versions(metrics["artefacts"]),
        unscored=0 if difficulty is None else int((~np.isfinite(difficulty.variance)).sum()),
        config=json.dumps(config, indent=2, ensure_ascii=False, default=str),
    )
    page.write(path, text)


def figures(metrics: Mapping[str, Any], difficulty: DifficultyView | None) -> dict[str, str]:
    """Inline SVG by name: "ood_subsets"; "variance", "difficulty" and "sparsity" of a scored run.

    A figure without finite data is left out.
    """
    drawn: dict[str, str] = {}
    rows = most_different(ood_subsets(metrics))
    if rows:
        drawn["ood_subsets"] = bar_chart("ood_subsets", rows)
    if difficulty is None:
        return drawn
    for name, values, xlabel in (
        ("variance", difficulty.variance, "variance v of the loss, nats²"),
        ("difficulty", difficulty.difficulty, "difficulty d"),
    ):
        if np.isfinite(values).any():
            drawn[name] = histogram_chart(name, values, difficulty.truth, xlabel)
    if np.isfinite(difficulty.mean_loss).any():
        drawn["sparsity"] = line_chart("sparsity", difficulty.sparsities, difficulty.mean_loss)
    return drawn


def _tables(metrics: Mapping[str, Any], view: DifficultyView | None) -> dict[str, Table]:
    """The small tables by name; one without rows is left out of the page."""
    models = [(summary.NAMES[role], metrics[role]) for role in summary.roles(metrics)]
    halves = [(name, model.get("dev_easy"), model.get("dev_hard")) for name, model in models]
    subsets = _subset_columns(summary.roles(metrics))
    parts, one_text, sizes = metrics.get("easy_hard"), [], ["", ""]
    if parts:
        one_text = [
            (summary.NAMES[role], parts[role]["easy"], parts[role]["hard"])
            for role in summary.roles(metrics)
        ]
        sizes = [SIZE.format(count(parts[half])) for half in ("easy", "hard")]
    return {
        "dev_subsets": Table.of("", most_different(dev_subsets(metrics)), subsets),
        "ood_subsets": Table.of("", most_different(ood_subsets(metrics)), subsets),
        "halves": _gaps(halves if any(None not in row for row in halves) else []),
        "partial": _gaps(one_text, *sizes),
        "alpha": Table.of("", _alphas(metrics).items(), ALPHAS),
        "flips": _flips(metrics),
        "by_class": _by_class(metrics),
        "int8": int8_table.table(metrics),
        "medians": Table(
            "",
            ["Samples", "Number", "Median v", "Median d"],
            _medians(view),
        ),
        "seconds": Table(
            "",
            ["Stage", "Time", "Peak memory, MB", "Device", "Processes", ""],
            [
                [
                    *(stage, numbers.duration(made["seconds"])),
                    " + ".join(map(numbers.megabytes, made["peak_memory_bytes"].values())),
                    *(made["device"], str(made["ranks"])),
                    "reused from an earlier run" if stage in (metrics["reused"] or []) else "",
                ]
                for stage, made in metrics["artefacts"].items()
            ],
        ),
    }


def _subset_columns(roles: Sequence[str]) -> list[Column[Subset]]:
    """Accuracy of each model on a subset, and the student's change from the teacher."""
    each: list[Column[Subset]] = [
        (f"{summary.NAMES[role].capitalize()}, %", partial(_accuracy, role)) for role in roles
    ]
    first: list[Column[Subset]] = [
        ("Subset", lambda row: row.name),
        ("n", lambda row: count(row.samples)),
    ]
    return [*first, *each, ("Change", lambda row: _change(row.student, row.teacher))]


def _accuracy(role: str, row: Subset) -> str:
    return percent(row.accuracies[role])


def _change(new: float | None, old: float | None) -> str:
    return numbers.signed(numbers.points(new, old))


def _gaps(rows: Iterable[tuple[str, Any, Any]], easy: str = "", hard: str = "") -> Table:
    """Accuracy of both models on easy and hard samples; easy, hard: added to the headers."""
    columns: list[Column[tuple[str, Any, Any]]] = [
        ("", lambda row: row[0].capitalize()),
        ("Easy, %" + Markup(easy), lambda row: percent(row[1])),
        ("Hard, %" + Markup(hard), lambda row: percent(row[2])),
        ("Gap", lambda row: _change(row[1], row[2]).replace("+", "")),
    ]
    return Table.of("", rows, columns)


def _flips(metrics: Mapping[str, Any]) -> Table:
    """Of each set and student the samples that only the teacher, or only it, gets right."""
    students = [role for role in summary.roles(metrics)[1:] if metrics[role].get("flips")]
    rows = [
        [name.removeprefix("ood_"), summary.NAMES[role], _flip(found["lost"]), _flip(found["gained"])]
        for role in students
        for name, found in metrics[role]["flips"].items()
    ]
    return Table("", ["Set", "Model", "Only the teacher right", "Only the student right"], rows)


def _flip(part: Mapping[str, Any]) -> Markup:
    """Number of samples, per cent of the set, and the interval of that."""
    low, high = map(percent, part["interval"])
    return count(part["samples"]) + SHARE.format(percent(part["share"]), low, high)


def _by_class(metrics: Mapping[str, Any]) -> Table:
    """Of each set and model the figures in which rare classes count as frequent ones."""
    rows = [
        [
            name.removeprefix("ood_"),
            summary.NAMES[role],
            percent(found["macro_f1"]),
            percent(found["balanced_accuracy"]),
            number(found["matthews"]),
        ]
        for name in metrics["teacher"].get("by_class") or {}
        for role in summary.roles(metrics)
        for found in [metrics[role]["by_class"][name]]
    ]
    return Table("", ["Set", "Model", "Macro F1, %", "Balanced accuracy, %", "Matthews"], rows)


def _alphas(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The values of alpha that were tried, with what was measured."""
    return (metrics.get("difficulty") or {}).get("alpha_candidates") or {}


def _medians(view: DifficultyView | None) -> list[list[str]]:
    """Rows of group, size, median variance and median difficulty, where the truth is known."""
    rows = []
    if view is not None and view.truth is not None:
        for group in np.unique(view.truth):
            mask = np.asarray(view.truth) == group
            v, d = (float(np.median(values[mask])) for values in (view.variance, view.difficulty))
            rows.append([str(group), count(int(mask.sum())), numbers.measure(v), number(d)])
    return rows
