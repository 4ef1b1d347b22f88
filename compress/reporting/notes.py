"""What a run says in sentences: what speaks against an F_bias, and what a reader must know besides."""

from collections.abc import Mapping
from typing import Any

Metrics = Mapping[str, Any]


def against(metrics: Metrics) -> list[str]:
    """What speaks against the F_bias of the student, then against that of the one with the plain loss.

    A sentence about their teacher stands once.
    """
    plain = metrics.get("plain") or {}
    return list(dict.fromkeys([*metrics["notes"], *plain.get("notes", [])]))


def beside(metrics: Metrics) -> list[str]:
    """What a reader must know and what does not speak against the figures: of the models, the data."""
    return [*metrics.get("remarks", []), *(metrics.get("data_notes") or [])]


def doubt(compared: Metrics) -> str:
    """The mark of an F_bias that a note speaks against; empty without one.

    compared: the metrics of the run for its student, or those of the student with the plain loss.
    """
    return " *" if compared.get("notes") and compared.get("f_bias") is not None else ""
