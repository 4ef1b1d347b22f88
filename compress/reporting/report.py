"""The report a person opens after a run: one HTML file that needs nothing else.

What: `write_report` turns the run's metrics, its configuration and the difficulty of its training
samples into a page; `summary_table` prints the core of it in a terminal; `verdict` says it in one
sentence.

Why: whether a compressed model kept its robustness shows in few numbers, dev and OOD accuracy of
teacher and student and the relative bias between them, but they are only believed beside what they
rest on: accuracy by subset, difficulty scores, sample sentences, settings.

How: the page is a Jinja2 template with autoescaping on (sentences and names are untrusted text);
the figures are inline SVG from `figures`; the file is written beside its target and then renamed
over it, and equal input gives equal bytes. Differences are taken between the numbers as
shown, so that a reader who subtracts gets the same. This module needs neither torch nor DeepSpeed.

Definitions (Du et al. 2023, Sec. 3.4): Delta = (acc_dev - acc_ood) / acc_dev, F_bias =
Delta_student / Delta_teacher.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from compress import artefacts
from compress.reporting.figures import (
    bar_chart,
    dev_subsets,
    histogram_chart,
    line_chart,
    most_different,
    ood_subsets,
)

LONGEST_TEXT = 360
_RUN_KEYS = (
    *("task", "seed", "compression", "mitigation", "teacher", "student", "notes", "samples"),
    *("set_sizes", "at_chance", "vanished"),
    *("seconds", "reused", "versions", "world_size", "device"),
)
_RESULT_KEYS = ("params", "nonzero_params", "dev", "ood", "ood_pooled", "delta")


@dataclass(frozen=True)
class Sentence:
    """One training sample as the report shows it.

    Attributes:
        texts: the sample's texts in order, e.g. (premise, hypothesis).
        label: name of the true class.
        difficulty: d_i in [alpha, 1] (Du et al. 2023, Eq. 1); 1 is the hardest.
        variance: v_i, variance of the loss over the sub-networks (Sec. 4.1), nats squared.
        truth: "aligned" or "conflicting" with the shortcut where that is known.
    """

    texts: tuple[str, ...]
    label: str
    difficulty: float
    variance: float
    truth: str | None


@dataclass(frozen=True)
class DifficultyView:
    """What the report shows of the difficulty stage, for N samples and T sub-networks.

    Attributes:
        variance: v_i, shape [N], nats squared.
        difficulty: d_i, shape [N].
        sparsities: share of pruned weights of each sub-network, length T.
        mean_loss: mean training loss under each sub-network, shape [T], nats.
        truth: "aligned" or "conflicting" for each sample, shape [N], or None.
        hardest: samples with the highest difficulty, the hardest first.
        easiest: samples with the lowest difficulty, the easiest first.

    Raises:
        ValueError: the shapes do not fit together.
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

    Args:
        path: the file to write; its folder exists.
        metrics: the run's metrics as in metrics.json, accuracies as fractions.
        config: the run's configuration, shown as JSON.
        difficulty: the difficulty stage, or None where the run had none.

    Raises:
        ValueError: a required key of the metrics is missing.
        OSError: the file cannot be written.
    """
    _require(metrics, _RUN_KEYS, "")
    _check_results(metrics)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": percent,
        "number": _number,
        "count": lambda value: "n/a" if value is None else f"{value:,}",
        "signed": _signed,
        "duration": _duration,
        "shorten": _shorten,
        "measure": lambda value: f"{value:#.3g}" if abs(value) >= 1e-3 else f"{value:.1e}",
    }
    source = (
        resources.files("compress.reporting").joinpath("report.html.j2").read_text(encoding="utf-8")
    )
    subsets = ood_subsets(metrics)
    page = environment.from_string(source).render(
        metrics=metrics,
        teacher=metrics["teacher"],
        student=metrics["student"],
        verdict=verdict(metrics),
        f_bias_reason=_f_bias_reason(metrics),
        doubt=doubt(metrics),
        pooled_size=sum(size for name, size in metrics["set_sizes"].items() if name.startswith("ood_")),
        points=_points,
        figures={name: Markup(svg) for name, svg in figures(metrics, difficulty).items()},
        subsets=most_different(subsets),
        subset_total=len(subsets),
        dev_subsets=dev_subsets(metrics),
        view=difficulty,
        medians=_medians(difficulty),
        unscored=0 if difficulty is None else int((~np.isfinite(difficulty.variance)).sum()),
        config=json.dumps(config, indent=2, ensure_ascii=False, default=str),
    )
    with artefacts.replacing(path) as temporary:
        temporary.write_bytes(page.encode("utf-8", errors="replace"))


def figures(metrics: Mapping[str, Any], difficulty: DifficultyView | None) -> dict[str, str]:
    """Draw the report's figures.

    Args:
        metrics: the run's metrics.
        difficulty: the difficulty stage, or None.

    Returns:
        Inline SVG by name: "ood_subsets" where there are any; "variance", "difficulty" and
        "sparsity" where the run scored difficulty. A figure without finite data is left out.
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


def summary_table(metrics: Mapping[str, Any]) -> str:
    """Return the plain-text table for the end of a run: one row for teacher, one for student.

    Args:
        metrics: the run's metrics.

    Returns:
        Three aligned lines (and one that says why where F_bias is n/a), no newline at the end.
        Accuracies in percent; the pooled OOD column appears where there are several OOD sets; an F_bias
        that a note speaks against ends with " *".

    Raises:
        ValueError: a required key of the metrics is missing.
    """
    _check_results(metrics)
    sets = list(metrics["teacher"]["ood"])
    pooled = len(sets) > 1
    header = ["", "parameters", "non-zero", "dev %", *(f"{name} %" for name in sets)]
    table = [[*header, *(["pooled OOD %"] if pooled else []), "Delta", "F_bias"]]
    for role in ("teacher", "student"):
        row = metrics[role]
        table.append(
            [role, f"{row['params']:,}", f"{row['nonzero_params']:,}", percent(row["dev"])]
            + [percent(row["ood"].get(name)) for name in sets]
            + ([percent(row["ood_pooled"])] if pooled else [])
            + [_number(row["delta"])]
            + ["-" if role == "teacher" else _number(metrics.get("f_bias")) + doubt(metrics)]
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table
    ]
    if metrics.get("f_bias") is None:
        lines.append(f"F_bias n/a: {_f_bias_reason(metrics)}")
    return "\n".join(lines).replace("−", "-")


def verdict(metrics: Mapping[str, Any]) -> str:
    """Say in one sentence what compression cost on dev, on OOD, and in relative bias.

    Args:
        metrics: the run's metrics.

    Returns:
        The sentence. Its differences are those between the percentages as shown, and F_bias
        counts as equal to 1 where it shows as 1.000.

    Raises:
        ValueError: a required key of the metrics is missing.
    """
    _check_results(metrics)
    teacher, student = metrics["teacher"], metrics["student"]
    kept, had = percent(student["dev"]), percent(teacher["dev"])
    change = _points(student["dev"], teacher["dev"])
    if not change:
        sentence = f"The student keeps all of the teacher's {had} % on dev"
    elif change < 0:
        sentence = f"The student keeps {kept} of the teacher's {had} % on dev"
    else:
        sentence = f"The student gains {_amount(change)} on dev ({kept} % against {had} %)"
    change = _points(student["ood_pooled"], teacher["ood_pooled"])
    if change is None:
        return f"{sentence}; OOD accuracy was not measured, so its relative bias is not known."
    shown = f"{percent(student['ood_pooled'])} % against {percent(teacher['ood_pooled'])} %"
    sets = list(teacher["ood"])
    where = f"on OOD ({sets[0]}" if len(sets) == 1 else f"on OOD ({len(sets)} sets pooled"
    if not change:
        sentence += f", and stays level {where}, {percent(student['ood_pooled'])} %)"
    else:
        sentence += f", and {'loses' if change < 0 else 'gains'} {_amount(change)} {where}, {shown})"
    return f"{sentence}: {_bias_clause(metrics)}."


def percent(fraction: float | None) -> str:
    """Return a fraction as a percentage with one decimal, without the sign; "n/a" for None."""
    return "n/a" if fraction is None else f"{100 * fraction:.1f}"


def doubt(metrics: Mapping[str, Any]) -> str:
    """Return the mark of an F_bias that a note of the run speaks against; empty without one."""
    return " *" if metrics["notes"] and metrics.get("f_bias") is not None else ""


def _bias_clause(metrics: Mapping[str, Any]) -> str:
    """Return the verdict's part on relative bias."""
    f_bias = metrics.get("f_bias")
    if f_bias is None:
        return f"F_bias is n/a, because {_f_bias_reason(metrics)}"
    shown = round(f_bias, 3)
    if metrics["vanished"]:
        return f"F_bias ({shown:.3f}) says nothing, because the student has collapsed"
    if set(metrics["at_chance"]) >= set(metrics["teacher"]["ood"]):
        why = "the teacher is not above the majority class on OOD"
        return f"F_bias ({shown:.3f}) says nothing, because {why}"
    if doubt(metrics):
        return f"F_bias is {_number(f_bias)}, which the notes speak against"
    if shown == 1:
        return "its relative bias is the same as the teacher's"
    if shown > 1:
        return f"its relative bias is {shown:.3f} times the teacher's"
    if shown > 0:
        return f"its relative bias is only {shown:.3f} times the teacher's"
    return f"it is no worse on OOD than on dev, so no relative bias is left ({_number(f_bias)})"


def _f_bias_reason(metrics: Mapping[str, Any]) -> str:
    """Say why F_bias is n/a; empty where it is not."""
    delta = metrics["teacher"]["delta"]
    if metrics.get("f_bias") is not None:
        return ""
    if delta is None:
        return "no OOD accuracy of the teacher was measured"
    if delta <= 0:
        return (
            f"the teacher is no worse on OOD than on dev (Delta {_number(delta)}), "
            "so there is no bias to compare with"
        )
    return "the run recorded none"


def _amount(points: float) -> str:
    """Return a difference in words, without its sign."""
    return f"{abs(points):.1f} point{'' if abs(points) == 1 else 's'}"


def _points(new: float | None, old: float | None) -> float | None:
    """Return new - old in percentage points, between the numbers as shown (one decimal)."""
    if new is None or old is None:
        return None
    return round(float(percent(new)) - float(percent(old)), 1) + 0.0


def _number(value: float | None) -> str:
    """Return a ratio with three decimals and a real minus sign; "n/a" for None."""
    return "n/a" if value is None else f"{round(value, 3) + 0.0:.3f}".replace("-", "−")


def _signed(value: float | None) -> str:
    """Return a difference with one decimal and its sign, zero without one; "" for None."""
    if value is None:
        return ""
    return "0.0" if round(value, 1) == 0 else f"{value:+.1f}".replace("-", "−")


def _duration(seconds: float | None) -> str:
    """Return seconds for a reader: 8.0 s, 12 min 05 s, 2 h 03 min."""
    if seconds is None:
        return "n/a"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _shorten(text: str) -> str:
    """Return the text, cut at a word and marked with an ellipsis where it is too long."""
    if len(text) <= LONGEST_TEXT:
        return text
    start = text[: LONGEST_TEXT - 40]
    return (start.rsplit(None, 1)[0] if any(map(str.isspace, start)) else start) + " …"


def _medians(view: DifficultyView | None) -> list[tuple[str, int, float, float]]:
    """Return group, size, median variance and median difficulty, where the truth is known."""
    if view is None or view.truth is None:
        return []
    masks = [(str(name), np.asarray(view.truth) == name) for name in np.unique(view.truth)]
    return [
        (
            name,
            int(mask.sum()),
            float(np.median(view.variance[mask])),
            float(np.median(view.difficulty[mask])),
        )
        for name, mask in masks
    ]


def _check_results(metrics: Mapping[str, Any]) -> None:
    """Check that teacher and student have all results."""
    _require(metrics, ("teacher", "student"), "")
    for role in ("teacher", "student"):
        _require(metrics[role], _RESULT_KEYS, f"{role}.")


def _require(mapping: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    """Raise a ValueError that names the first missing key."""
    for key in keys:
        if key not in mapping:
            raise ValueError(f"the metrics lack the required key {where + key!r}")
