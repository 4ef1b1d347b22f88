"""JSON objects merged left to right, each key with the file or `--set` that gave it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.errors import UserError, nearest
from compress.untyped import Json

DEEPEST = 50
SHOWN = 8
"""Further mistaken keys that an error names."""
RECORD = "resolved_schedule"
"""Key of config.json under which a run records its schedules."""


def at(values: Mapping[str, Any], path: Sequence[str]) -> Json:
    """The value at a path of nested objects, None if it is absent."""
    node: Any = values
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


@dataclass
class Merge:
    """The merged dictionary, and for each key path the sources that set it, the last one last.

    removed: key path that was set to null though it had no value -> the source that did so last.
    """

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[tuple[str, ...], list[str]] = field(default_factory=dict)
    removed: dict[tuple[str, ...], str] = field(default_factory=dict)

    def add(self, values: Mapping[str, Any], source: str) -> None:
        """Merge `values` over those of earlier sources; null returns a key to its default."""
        self._merge(self.values, values, source, ())

    def _merge(
        self, target: dict[str, Any], values: Mapping[str, Any], source: str, path: tuple[str, ...]
    ) -> None:
        self.sources.setdefault(path, []).append(source)
        for key, value in values.items():
            if isinstance(value, Mapping):
                if not isinstance(target.get(key), dict):
                    target[key] = {}
                self._merge(target[key], value, source, (*path, key))
                continue
            self.sources.setdefault((*path, key), []).append(source)
            if value is None:
                if target.pop(key, None) is None:
                    self.removed[*path, key] = source
            else:
                target[key] = value

    def source(self, path: Sequence[str]) -> str:
        """The source of the key, or of the nearest enclosing key that has one."""
        for end in range(len(path), 0, -1):
            if tuple(path[:end]) in self.sources:
                return self.sources[tuple(path[:end])][-1]
        return "configuration"

    def lacking(self, path: Sequence[str]) -> str:
        """The sentence for a key that is needed and given nowhere.

        It names the source that removed the key, or every source that gave the object it belongs to.
        """
        key = ".".join(path)
        removed = self.sources.get(tuple(path), [])
        places = removed[-1:] or list(dict.fromkeys(self.sources.get(tuple(path[:-1]), [])))
        if len(places) < 2:
            return f"{places[0] if places else 'configuration'}: the key '{key}' is missing"
        return f"none of {', '.join(places)} gives the key '{key}'"

    def given(self, key: str) -> bool:
        """Whether the user set this dotted key (to other than null)."""
        return at(self.values, key.split(".")) is not None

    def error(self, key: str, why: str) -> UserError:
        """The sentence for a mistake in a dotted key: its source, the key, and `why`."""
        return UserError(f"{self.source(key.split('.'))}: '{key}' {why}.")


def further(what: str, keys: Iterable[str]) -> str:
    """A sentence with the further keys of a mistake, so that they need not be met one by one."""
    names = [f"'{key}'" for key in keys]
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f" {what}: {', '.join(names[:SHOWN])}{rest}." if names else ""


def _parse(text: str, source: str) -> Json:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(f"{source}: the key '{key}' stands twice in one object.")
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise UserError(_too_deep(source)) from None
    if _depth(value) > DEEPEST:
        raise UserError(_too_deep(source))
    return value


def _depth(value: object) -> int:
    """Levels of objects and lists in a JSON value, counted without recursion."""
    depth, level = 0, [value]
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        level = [v for inner in level for v in (inner.values() if isinstance(inner, dict) else inner)]
    return depth


def _too_deep(source: str) -> str:
    return f"{source}: is nested more than {DEEPEST} levels deep; no configuration is."


def _similar(file: Path) -> str:
    """The hint for a missing file: the nearest name in its folder, or that a suffix is missing."""
    if not file.suffix:
        return "; give the path of a JSON file, such as ds_configs/mitigation/rmc.json."
    hint = nearest(file.name, [other.name for other in file.parent.glob("*.json")])
    return hint if "did you mean" in hint else "."


def read(file: Path) -> dict[str, Any]:
    """The object in a JSON file; UserError if it cannot be read, or a key is given twice.

    The schedules that a run records in its config.json are no part of the configuration.
    """
    try:
        values = _parse(file.read_text(encoding="utf-8-sig"), str(file))
    except FileNotFoundError:
        raise UserError(f"{file}: cannot be read (there is no such file){_similar(file)}") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not UTF-8 text.") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}: is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg})."
        ) from None
    except ValueError as error:
        raise UserError(f"{file}: holds a value that cannot be read ({error}).") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: must hold a JSON object.")
    values.pop(RECORD, None)
    return values


def override(text: str) -> dict[str, Any]:
    """`a.b.c=value` as nested objects; the value is JSON, or else a string."""
    path, separator, raw = text.partition("=")
    if not separator or not path or "" in path.split("."):
        raise UserError(f"--set {text}: give it as a.b.c=value.")
    if path.count(".") >= DEEPEST:
        raise UserError(_too_deep("--set"))
    try:
        value = _parse(raw, f"--set {text}")
    except json.JSONDecodeError:
        value = raw
    except ValueError as error:
        raise UserError(f"--set {path}: holds a value that cannot be read ({error}).") from None
    for key in reversed(path.split(".")):
        value = {key: value}
    return value
