"""The table of DeepSpeed's keys: which take effect, at which stage and on which device.

What: `engine_keys.toml` beside this file has a row for every key; `check` raises for the first setting
that the table refuses. Cases that depend on the machine (`device`, `lacking`) are left to
`compress.configuration.machine`, because a configuration may be read elsewhere than it runs.
"""

import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from compress.configuration.merge import Merge
from compress.errors import UserError

TABLE = Path(__file__).with_name("engine_keys.toml")


class Case(BaseModel):
    """One case of a row's `refused`; the head of the table says what the fields mean."""

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

    @property
    def of_machine(self) -> bool:
        """Whether it depends on the machine."""
        return self.device is not None or self.lacking is not None


class Row(BaseModel):
    """The table's row of one key."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    source: str
    default: Any = None
    refused: list[Case] = []


@dataclass(frozen=True)
class Found:
    """A case that holds for a configuration: its key and the key's value."""

    key: str
    value: Any
    case: Case


@cache
def rows() -> dict[str, Row]:
    """Key (dotted) -> its row."""
    return {key: Row(**row) for key, row in tomllib.loads(TABLE.read_text(encoding="utf-8")).items()}


def check(merge: Merge) -> None:
    """Raise UserError, naming source and key, for the first setting that has no effect anywhere."""
    for found in holding(merge):
        if not found.case.of_machine:
            raise refusal(merge, found)


def holding(merge: Merge) -> Iterator[Found]:
    """The cases that hold, in the table's order, whatever the machine."""
    for key, row in rows().items():
        path = tuple(key.split("."))
        given = merge.given(*path)
        for case in row.refused:
            if case.absent == "only" if given else case.absent == "never":
                continue
            value = _value(merge, key)
            if _holds(case, value, lambda other: _value(merge, other)):
                yield Found(key, value, case)


def refusal(merge: Merge, found: Found, lacking: str = "") -> UserError:
    """The sentence for a case."""
    path, stage = found.key.split("."), _value(merge, "zero_optimization.stage")
    why = found.case.why.replace("{stage}", str(stage)).replace("{lacking}", lacking)
    return UserError(f"{merge.source(path)}: '{found.key}' {why}.")


def _holds(case: Case, value: object, of: Callable[[str], Any]) -> bool:
    among = case.values is None or _among(value, case.values)
    return (
        of("zero_optimization.stage") in case.stages
        and among
        and not _among(value, case.passing)
        and all(_among(of(key), values) for key, values in case.when.items())
        and not any(_among(of(key), values) for key, values in case.when_not.items())
    )


def _among(value: object, values: list[Any]) -> bool:
    """`in`, but 1 is not true."""
    return any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in values)


def _value(merge: Merge, key: str) -> Any:  # noqa: ANN401  any JSON value
    """What the user set, else the table's default."""
    node: Any = merge.values
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return rows()[key].default
        node = node[part]
    return node
