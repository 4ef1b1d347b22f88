"""The base of every block of configuration, a strict frozen model, and common ranges."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Auto = Literal["auto"]
LARGEST = 2**63 - 1
"""The largest whole number that torch, numpy and Arrow take alike."""
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Natural = Annotated[int, Field(ge=0, le=LARGEST)]
Epochs = Annotated[int, Field(ge=1, le=1_000_000)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Block(BaseModel):
    """Frozen, strict block of configuration: an unknown key or another type is an error.

    The docstring under a field is its description in docs/configuration.md (`reference`).
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
