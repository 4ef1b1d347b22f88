"""Figures as a reader sees them: percentages, ratios, intervals, durations, with a real minus sign.

Differences are taken between the numbers as shown, so that a reader who subtracts gets the same.
"""

import math
from collections.abc import Sequence

MEGABYTE = 1_000_000


def percent(fraction: float | None) -> str:
    """Return a fraction as a percentage with one decimal, without the sign; "n/a" for None."""
    return "n/a" if fraction is None else f"{100 * fraction:.1f}"


def fixed(value: float, digits: int) -> str:
    """Return a number with that many decimals and a hyphen as minus sign; "n/a" if not finite."""
    return f"{round(value, digits) + 0.0:.{digits}f}" if math.isfinite(value) else "n/a"


def number(value: float | None) -> str:
    """Return a ratio with three decimals and a real minus sign; "n/a" for None."""
    return "n/a" if value is None else fixed(value, 3).replace("-", "−")


def interval(bounds: Sequence[float] | None) -> str:
    """Return `[low, high]` with three decimals each; "n/a" for None."""
    return "n/a" if bounds is None else f"[{number(bounds[0])}, {number(bounds[1])}]"


def count(value: int | None) -> str:
    """Return a whole number with commas; "n/a" for None."""
    return "n/a" if value is None else f"{value:,}"


def signed(value: float | None, digits: int = 1) -> str:
    """Return a difference with its sign and a real minus sign, zero without one; "" for None."""
    if value is None:
        return ""
    sign = "" if round(value, digits) == 0 else "+"
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}".replace("-", "−")


def points(new: float | None, old: float | None) -> float | None:
    """Return new - old in percentage points, between the numbers as shown (one decimal)."""
    if new is None or old is None:
        return None
    return round(float(percent(new)) - float(percent(old)), 1) + 0.0


def amount(difference: float) -> str:
    """Return a difference in points, in words and without its sign."""
    return f"{abs(difference):.1f} point{'' if abs(difference) == 1 else 's'}"


def significant(value: float) -> str:
    """Return a positive quantity with three digits, or all before the point: 0.123, 4.56, 1,234."""
    return f"{value:,.0f}" if round(value) >= 100 else f"{value:#.3g}"


def megabytes(size: int | None) -> str:
    """Return bytes as megabytes (10^6); "n/a" for None."""
    return "n/a" if size is None else significant(size / MEGABYTE)


def duration(seconds: float | None) -> str:
    """Return seconds for a reader: 8.0 s, 12 min 05 s, 2 h 03 min."""
    if seconds is None:
        return "n/a"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def printable(text: str) -> str:
    """Return the text on one line, without the control characters that XML forbids."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def measure(value: float) -> str:
    """Return a number with three significant digits, in scientific notation below 0.001."""
    return f"{value:#.3g}" if abs(value) >= 1e-3 else f"{value:.1e}"


def shorten(text: str, most: int = 360) -> str:
    """Return the text, cut at a word and marked with an ellipsis where it is longer than `most`."""
    if len(text) <= most:
        return text
    start = text[: most - 40]
    return (start.rsplit(None, 1)[0] if any(map(str.isspace, start)) else start) + " …"
