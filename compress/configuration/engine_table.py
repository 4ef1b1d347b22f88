"""The table of DeepSpeed's keys, `engine_keys.toml`: which take effect, at which stage and device.

Cases that depend on the machine (`device`, `lacking`, `releases`) are left to
`compress.configuration.machine`, because a configuration may be read on another machine than the one it
runs on.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from compress.configuration.merge import Merge, at
from compress.errors import UserError
from compress.untyped import Json

TABLE = Path(__file__).with_name("engine_keys.toml")


class Case(BaseModel):
    """One case of a row's `refused`; the fields are described at the head of the table."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    why: str
    stages: list[int] = [0, 1, 2, 3]
    values: list[Any] | None = None
    passing: list[Any] = Field(default=[], alias="except")
    when: dict[str, list[Any]] = {}
    when_not: dict[str, list[Any]] = {}
    absent: str = "never"
    device: str | None = None
    lacking: str | None = None
    releases: list[str] = []

    @property
    def of_machine(self) -> bool:
        """Whether it depends on the machine."""
        return bool(self.device or self.lacking or self.releases)


class Row(BaseModel):
    """The table's row of one key."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    source: str
    default: Any = None
    refused: list[Case] = []


@dataclass(frozen=True)
class Found:
    """A case that holds for a configuration, and its key."""

    key: str
    case: Case


@cache
def rows() -> dict[str, Row]:
    """Key (dotted) -> its row."""
    return {key: Row(**row) for key, row in tomllib.loads(TABLE.read_text(encoding="utf-8")).items()}


def wrong(merge: Merge) -> Iterator[tuple[str, str]]:
    """(key, what is wrong with it) of the settings that have no effect on any machine."""
    for found in holding(merge):
        if not found.case.of_machine:
            yield found.key, _why(merge, found)


def holding(merge: Merge) -> Iterator[Found]:
    """The cases that hold, in the table's order, on any machine."""
    for key, row in rows().items():
        given = merge.given(key)
        for case in row.refused:
            if case.absent == "only" if given else case.absent == "never":
                continue
            if _holds(case, _value(merge, key), merge):
                yield Found(key, case)


def refusal(merge: Merge, found: Found, lacking: str = "") -> UserError:
    """The sentence for a case; lacking: what the machine does not have."""
    return merge.error(found.key, _why(merge, found).replace("{lacking}", lacking))


def _why(merge: Merge, found: Found) -> str:
    return found.case.why.replace("{stage}", str(_value(merge, "zero_optimization.stage")))


def _holds(case: Case, value: object, merge: Merge) -> bool:
    return (
        _value(merge, "zero_optimization.stage") in case.stages
        and (case.values is None or _among(value, case.values))
        and not _among(value, case.passing)
        and all(_among(_value(merge, key), values) for key, values in case.when.items())
        and not any(_among(_value(merge, key), values) for key, values in case.when_not.items())
    )


def _among(value: object, values: list[Any]) -> bool:
    """`in`, but 1 is not true."""
    return any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in values)


def _value(merge: Merge, key: str) -> Json:
    """What the user set, else the table's default."""
    value = at(merge.values, key.split("."))
    return rows()[key].default if value is None else value
