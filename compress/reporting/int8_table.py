"""The table of the student's ONNX file in 8-bit integers, beside the student in float32."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from markupsafe import Markup, escape

from compress.reporting import numbers
from compress.reporting.numbers import megabytes, number, percent, signed, significant
from compress.reporting.summary import of_measure
from compress.reporting.tables import Table

QUIET = Markup(' <span class="quiet">[{}]</span>')
HEADER = ["", "Student, float32", "8-bit integers", "Change"]


def table(metrics: Mapping[str, Any]) -> Table:
    """Accuracies and Delta with the change's 95 % interval, bytes and latency; no rows without it."""
    found = metrics.get("int8")
    return Table("", HEADER, [*_rows(metrics["student"], found, of_measure(metrics))] if found else [])


def _rows(student: Mapping[str, Any], int8: Mapping[str, Any], of: str) -> Iterator[list[str]]:
    apart = int8["difference"]
    sets = [("Dev", "dev", student["dev"], int8["dev"])]
    sets += [(n, f"ood_{n}", value, int8["ood"][n]) for n, value in student["ood"].items()]
    if len(student["ood"]) > 1:
        sets.append(("Pooled OOD", "ood_pooled", student["ood_pooled"], int8["ood_pooled"]))
    for name, key, old, new in sets:
        change = _change(signed(numbers.points(new, old)), apart.get(key), 100, 1)
        yield [f"{name} accuracy, %", percent(old), percent(new), change]
    if "delta" in apart:
        change = _change(signed(apart["delta"]["value"], 3), apart["delta"], 1, 3)
        yield [f"Delta{of}", number(student["delta"]), number(int8["delta"]), change]
    for name, part in int8["same_answer"].items():
        bounds = QUIET.format(", ".join(map(percent, part["interval"])))
        title = "Dev" if name == "dev" else name.removeprefix("ood_")
        yield [f"{title} samples of the same class, %", "", escape(percent(part["share"])) + bounds, ""]
    sizes = int8["bytes"]
    yield _counted("ONNX file, MB", sizes["float"], sizes["int8"], megabytes)
    for one in int8["latency"]["timings"]:
        name = f"Latency, batch of {one['batch']}, ms"
        yield _counted(name, one["float_ms"], one["int8_ms"], significant)


def _change(shown: str, found: Mapping[str, Any] | None, factor: float, digits: int) -> Markup:
    """A difference, and its interval if that is known."""
    if not found or found["interval"] is None:
        return escape(shown)
    bounds = ", ".join(signed(factor * bound, digits) for bound in found["interval"])
    return escape(shown) + QUIET.format(bounds)


def _counted(name: str, old: float, new: float, show: Callable[[Any], str]) -> list[str]:
    return [name, show(old), show(new), f"{signed(100 * (new / old - 1))} %"]
