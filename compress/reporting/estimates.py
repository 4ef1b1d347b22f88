"""Estimates as cells of a table: digits, spread over seeds, interval, bold.

A cell may carry Markdown's `**bold**`, used only where a 95 % interval excludes zero.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from compress.reporting.numbers import fixed
from compress.study.figures import Estimate, Figures

NONE = "n/a"
"""A figure that was not measured or says nothing; `-` is one that cannot be."""
DIGITS = {"dev": (1, 100), "ood": (1, 100), "delta": (3, 1), "f_bias": (2, 1), "gap": (1, 100)}
"""Key of a difference -> its digits and factor."""


def percent(figures: Figures) -> str:
    """An accuracy in percent with spread and interval; a stretched interval ends at 0 and 100."""
    found = figures.estimate()
    low, high = (float(np.clip(bound, 0, 1)) for bound in (found.low, found.high))
    return number(replace(found, low=low, high=high), 1, 100)


def number(found: Estimate, digits: int, factor: float = 1, value: str | None = None) -> str:
    """`mean ± sd [low, high]`; the standard deviation only with several seeds. value: of the mean.

    `NONE` where the mean is unknown.
    """
    if np.isnan(found.value):
        return NONE
    mean, sd, low, high = (
        "" if x is None else fixed(factor * x, digits)
        for x in (found.value, found.sd, found.low, found.high)
    )
    return f"{value or mean}{sd and f' ± {sd}'} [{low}, {high}]"


def signed(found: Estimate | None, digits: int, factor: float = 1, bold: bool = True) -> str:
    """A difference with its spread and interval, bold where that excludes zero, if it may be bold."""
    if found is None:
        return "-"
    value = f"{factor * found.value:+.{digits}f}"
    if float(value) == 0:
        value = value.lstrip("+-")
    return number(found, digits, factor, f"**{value}**" if bold and found.certain else value)


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation of fractions, in percent."""
    if not values:
        return "-"
    mean = fixed(100 * float(np.mean(values)), 1)
    return mean if len(values) < 2 else f"{mean} ± {fixed(100 * float(np.std(values, ddof=1)), 1)}"


def count(values: Sequence[float]) -> str:
    """The mean of whole numbers or seconds."""
    return f"{np.mean(values):,.0f}" if values else "-"
