"""Figures as cells of a table: digits, spread over seeds, interval, bold.

A cell may carry Markdown's `**bold**`, used only where a 95 % interval excludes zero.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from compress.reporting.numbers import fixed
from compress.study.analysis import Estimate, Figures

NONE = "n/a"
"""A figure that says nothing here; `-` is one that cannot be."""
DIGITS = {"dev": (1, 100), "ood": (1, 100), "delta": (3, 1), "f_bias": (2, 1), "gap": (1, 100)}
"""Key of a difference -> its digits and factor."""


def percent(figures: Figures) -> str:
    """An accuracy in percent with spread and interval; a stretched interval ends at 0 and 100."""
    found = figures.estimate()
    low, high = (float(np.clip(bound, 0, 1)) for bound in (found.low, found.high))
    return number(replace(found, low=low, high=high), 1, 100)


def number(found: Estimate, digits: int, factor: float = 1) -> str:
    """`mean ± sd [low, high]`; the standard deviation only with several seeds."""
    value = fixed(factor * found.value, digits)
    return f"{value}{_deviation(found, digits, factor)} {_interval(found, digits, factor)}"


def signed(found: Estimate | None, digits: int, factor: float = 1) -> str:
    """A difference with its spread and interval, bold where that excludes zero."""
    if found is None:
        return "-"
    value = f"{factor * found.value:+.{digits}f}"
    if float(value) == 0:
        value = value.lstrip("+-")
    value = f"**{value}**" if found.certain else value
    return f"{value}{_deviation(found, digits, factor)} {_interval(found, digits, factor)}"


def _deviation(found: Estimate, digits: int, factor: float) -> str:
    return "" if found.sd is None else f" ± {fixed(factor * found.sd, digits)}"


def _interval(found: Estimate, digits: int, factor: float) -> str:
    return f"[{fixed(factor * found.low, digits)}, {fixed(factor * found.high, digits)}]"


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation of fractions, in percent."""
    if not values:
        return "-"
    mean = fixed(100 * float(np.mean(values)), 1)
    return mean if len(values) < 2 else f"{mean} ± {fixed(100 * float(np.std(values, ddof=1)), 1)}"


def count(values: Sequence[float]) -> str:
    """The mean of whole numbers or seconds."""
    return f"{np.mean(values):,.0f}" if values else "-"
