"""The first table of a run's report: teacher, the student with the plain loss, student, side by side.

The rows are cells of HTML. Takes the run's metrics as in metrics.json.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from markupsafe import Markup, escape

from compress.reporting import notes, numbers, summary
from compress.reporting.numbers import count, number, percent, signed
from compress.reporting.summary import Metrics

QUIET = Markup(' <span class="quiet">{}</span>')
COUNTED = (("params", "Parameters"), ("nonzero_params", "Non-zero parameters"))


@dataclass(frozen=True)
class Row:
    """name: of the row; cells: of the models; change: of the student from the teacher; gained: from the
    student with the plain loss.
    """

    name: Markup
    cells: Sequence[str | Markup]
    change: str = ""
    gained: str | Markup = ""
    strong: bool = False
    kind: str = ""


def header(metrics: Metrics) -> list[str]:
    """The names of the columns behind the first; the last is a difference."""
    names = [summary.NAMES[role].capitalize() for role in summary.roles(metrics)]
    return [*names, "Student minus plain" if "plain" in metrics else "Change"]


def rows(metrics: Metrics) -> list[Row]:
    """All rows, the difference among their cells; what the metrics lack is left out."""
    models = [metrics[role] for role in summary.roles(metrics)]
    found = [*_dimensions(models), *_latency(metrics), *_accuracies(metrics, models)]
    found += _bias(metrics, models)
    last = "gained" if "plain" in metrics else "change"
    return [replace(row, cells=[*row.cells, getattr(row, last)]) for row in found]


def _dimensions(models: Sequence[Metrics]) -> Iterator[Row]:
    """Names, layers and so on, parameters, bytes, sparsity."""
    teacher, student = models[0], models[-1]
    if teacher.get("model") or student.get("model"):
        yield Row(Markup("Model"), [_model(one) for one in models], kind="model")
    shapes, unknown = [one.get("shape") or {} for one in models], teacher["params"] is None
    for key, name in summary.PARTS:
        if key in shapes[-1] and (unknown or key in shapes[0]):
            title = name.replace("layers", "Layers").replace("attention", "Attention")
            yield _counted(title, [shape.get(key) for shape in shapes], count)
    for key, name in COUNTED:
        yield _counted(name, [one[key] for one in models], count)
    if student.get("weights_bytes") and (unknown or teacher.get("weights_bytes")):
        sizes = [one.get("weights_bytes") for one in models]
        yield _counted("Weights on disk, MB", sizes, numbers.megabytes)
    if student.get("sparsity"):
        shares = [one.get("sparsity") for one in models]
        yield Row(Markup("Sparsity, %"), ["" if s is None else percent(s) for s in shares])


def _model(model: Metrics) -> Markup:
    origin = QUIET.format(model["origin"]) if model.get("origin") else ""
    return escape(model.get("model") or "n/a") + origin


def _counted(name: str, values: Sequence[Any], show: Callable[[Any], str]) -> Row:
    """Sizes, and the student's change in per cent."""
    return Row(Markup(name), [*map(show, values)], _relative(values[-1], values[0]))


def _relative(new: float | None, old: float | None) -> str:
    return "" if new is None or not old else f"{signed(100 * (new / old - 1))} %"


def _latency(metrics: Metrics) -> Iterator[Row]:
    """Milliseconds of teacher and student."""
    shapes = [metrics[role].get("shape") for role in ("teacher", "student")]
    alike = bool(shapes[0]) and shapes[0] == shapes[1]
    for one in (metrics.get("latency") or {}).get("timings", []):
        old, new = one.get("teacher_ms"), one["student_ms"]
        first = "" if old is None else numbers.significant(old)
        cells = [first, *([""] if "plain" in metrics else [])]
        name = Markup(f"Latency, batch of {one['batch']}, ms")
        change = "" if alike else _relative(new, old)
        yield Row(name, [*cells, numbers.significant(new)], change)


def _accuracies(metrics: Metrics, models: Sequence[Metrics]) -> Iterator[Row]:
    """Accuracy on dev, on every OOD set and on all of them."""
    sizes, wholes = metrics.get("samples") or {}, metrics.get("set_sizes") or {}
    ood_sizes, sets = sizes.get("ood") or {}, list(models[0]["ood"])
    accuracy = partial(_accuracy, metrics.get("gain") or {})
    name = Markup("Dev accuracy, %") + _size(sizes.get("dev"), wholes.get("dev"))
    yield accuracy(name, "dev", [one["dev"] for one in models], True)
    for each in sets:
        name = Markup("OOD accuracy on {}, %").format(each)
        name += _size(ood_sizes.get(each), wholes.get(f"ood_{each}"))
        values = [one["ood"].get(each) for one in models]
        yield accuracy(name, f"ood_{each}", values, len(sets) == 1)
    if len(sets) > 1:
        whole = sum(size for key, size in wholes.items() if key.startswith("ood_"))
        name = Markup("OOD accuracy, pooled, %")
        name += _size(sum(ood_sizes.values()), whole) if ood_sizes else ""
        yield accuracy(name, "ood_pooled", [one["ood_pooled"] for one in models], True)
    if summary.measure_name(metrics):
        yield from _measured(metrics, models)


def _measured(metrics: Metrics, models: Sequence[Metrics]) -> Iterator[Row]:
    """What Delta is taken of, where that is not the accuracy: on dev and over all OOD sets."""
    what, gain = summary.measure_name(metrics), metrics.get("gain") or {}
    for key, where in zip(summary.MEASURED, ("Dev", "OOD"), strict=True):
        values = [one["measure"][key] for one in models]
        change, gained = "", Markup()
        if None not in values:
            change = signed(values[-1] - values[0], 3)
        if (found := gain.get(f"measure_{key}")) is not None:
            gained = escape(signed(found["value"], 3)) + _bounds(found["interval"])
        name = Markup("{} {}").format(where, what)
        yield Row(name, [*map(number, values)], change, gained, True)


def _accuracy(gain: Metrics, name: Markup, key: str, values: Sequence[Any], strong: bool) -> Row:
    """Percentages, the student's change in points, and against the plain loss with its interval."""
    gained = Markup()
    if key in gain:
        gained = escape(signed(numbers.points(values[-1], values[-2])))
        if (bounds := gain[key]["interval"]) is not None:
            gained += QUIET.format(f"[{', '.join(signed(100 * bound) for bound in bounds)}]")
    change = signed(numbers.points(values[-1], values[0]))
    return Row(name, [*map(percent, values)], change, gained, strong)


def _bias(metrics: Metrics, models: Sequence[Metrics]) -> Iterator[Row]:
    """Delta of each model, its difference to the teacher's, F_bias."""
    deltas = [escape(number(one["delta"])) + _bounds(one.get("delta_interval")) for one in models]
    change = (metrics.get("gain") or {}).get("delta")
    gained = Markup()
    if change is not None:
        gained = escape(signed(change["value"], 3)) + _bounds(change["interval"])
    yield Row(Markup("Delta") + summary.of_measure(metrics), deltas, gained=gained)
    compared = [*models[1:-1], metrics]  # the student's figures stand at the top of the metrics
    if metrics.get("delta_difference"):
        cells = [_difference(one) for one in compared]
        yield Row(Markup("Delta minus the teacher's"), ["", *cells], strong=True)
    cells = [
        escape(number(one.get("f_bias")) + notes.doubt(one)) + _bounds(one.get("f_bias_interval"))
        for one in compared
    ]
    yield Row(Markup("F<sub>bias</sub>"), ["", *cells], strong=True)


def _difference(metrics: Metrics) -> Markup:
    found = metrics.get("delta_difference") or {}
    shown = summary.difference(metrics).partition(" ")[0]
    return escape(shown) + _bounds(found.get("interval"))


def _bounds(interval: Sequence[float] | None) -> Markup:
    return Markup() if interval is None else QUIET.format(numbers.interval(interval))


def _size(samples: int | None, whole: int | None) -> Markup:
    """`n = ...`, of how many if it is a part."""
    if samples is None:
        return Markup()
    part = f" of {count(whole)}" if whole is not None and whole != samples else ""
    return QUIET.format(f"n = {count(samples)}{part}")
