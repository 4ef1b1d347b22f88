"""The folders of mitigations and pruners: import each file, and refuse one that cannot be used.

A file that has just been written is wrong more often than not. Each mistake is a `UserError` that names
the file, before anything is trained. Torch is not imported.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from compress.configuration.blocks import Block
from compress.errors import UserError, first_line
from compress.methods import NEEDS, Method


def subclasses_in(package: ModuleType, base: type) -> dict[str, list[type[Any]]]:
    """Subclasses of `base` that each module of a package defines; without modules named `_...`.

    Raises UserError, naming the file, for one that cannot be imported, defines none, or defines a class
    that `check` refuses.
    """
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        if not info.name.startswith("_"):
            module = load(f"{package.__name__}.{info.name}", Path(package.__path__[0]))
            own = [value for value in vars(module).values() if isinstance(value, type)]
            own = [value for value in own if value.__module__ == module.__name__]
            for kind in own:
                check(kind)
            found[info.name] = [value for value in own if issubclass(value, base)]
            if not found[info.name]:
                raise UserError(f"{module.__file__}: defines no class derived from {base.__name__}.")
    return found


def load(name: str, folder: Path) -> ModuleType:
    """The module of this dotted name; UserError, with the line, if its file cannot be imported.

    folder: where the file `<last part of the name>.py` lies.
    """
    file = folder / f"{name.rpartition('.')[2]}.py"
    try:
        return importlib.import_module(name)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever the code of a file raises
        line = _line(error, file)
        place = f" at line {line}" if line else ""
        message = error.msg if isinstance(error, SyntaxError) else first_line(error)
        why = f"{type(error).__name__}: {message.rstrip('.')}"
        raise UserError(f"{file}: cannot be imported ({why}{place}).") from None


def _line(error: BaseException, file: Path) -> int | None:
    """The line of the file at which it went wrong, if it did so there."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return error.lineno
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    return lines[-1] if lines else None


def only(package: ModuleType, base: type) -> dict[str, Any]:
    """The one subclass of `base` that each module of a package defines; UserError if there are more."""
    found = {}
    for name, kinds in subclasses_in(package, base).items():
        if len(kinds) > 1:
            names = " and ".join(kind.__name__ for kind in kinds)
            raise UserError(
                f"{inspect.getfile(kinds[0])}: must define exactly one class derived from "
                f"{base.__name__}, it defines {names}."
            )
        found[name] = kinds[0]
    return found


def check(kind: type) -> None:
    """Raise UserError, naming the file, for a class whose attributes are not what its bases ask for.

    `needs` holds another word, an abstract method is left, an attribute of the class has no value or is
    a setting by mistake, a default is not a value of its field.
    """
    left: frozenset[str] = getattr(kind, "__abstractmethods__", frozenset())
    why = _wrong_attribute(kind) if issubclass(kind, Block) else None
    if why is None and left:
        why = f"does not define '{min(left)}'"
    if why is None and issubclass(kind, Block):
        why = _wrong_default(kind)
    if why is None and issubclass(kind, Method):
        why = _wrong_needs(kind)
    if why is not None:
        raise wrong(kind, why)


def wrong(kind: type, why: str) -> UserError:
    """The error of a class of a method; it names the file."""
    return UserError(f"{inspect.getfile(kind)}: the class {kind.__name__} {why}.")


def _wrong_attribute(kind: type[Block]) -> str | None:
    """What is wrong with the attributes that are no settings."""
    for name in sorted({name for base in kind.__mro__ for name in getattr(base, "__class_vars__", ())}):
        if name in kind.model_fields:
            return f"gives '{name}' a type, which makes it a setting; write '{name} = ...'"
        if not hasattr(kind, name):
            return f"must have a value of '{name}'"
    return None


def _wrong_default(kind: type[Block]) -> str | None:
    """The first default that the type of its field does not allow.

    The defaults themselves stay as written: checked ones could differ from them (0 and 0.0).
    """
    fields = [(info.alias or name, info) for name, info in kind.model_fields.items()]
    fields = [(key, info) for key, info in fields if not info.is_required()]
    try:
        kind.model_validate({key: info.get_default(call_default_factory=True) for key, info in fields})
    except ValidationError as error:
        problems = [one for one in error.errors() if one["type"] != "missing" and one["loc"]]
        for problem in problems[:1]:
            key, why = ".".join(map(str, problem["loc"])), problem["msg"]
            return f"gives '{key}' the default {problem['input']!r}, but: {why[0].lower()}{why[1:]}"
    except Exception as error:  # noqa: BLE001  whatever its validators raise
        return f"cannot be used ({first_line(error).rstrip('.')})"
    return None


def _wrong_needs(kind: type[Method]) -> str | None:
    """What is wrong with the words of `needs`, or with what they ask of the class."""
    words = ", ".join(f"'{word}'" for word in NEEDS)
    if not isinstance(kind.needs, set | frozenset) or not kind.needs <= set(NEEDS):
        return f"has needs {kind.needs!r}; it is a set of {words}"
    if "batch_mean" in kind.needs and kind.batch_weight is Method.batch_weight:
        return "needs 'batch_mean' but does not define 'batch_weight'"
    return None
