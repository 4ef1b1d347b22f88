"""A function of the user's, `module:function`: imported, called, checked.

An error names `robust_compression.loss.hook`, the function and the line of the user's code instead of a
traceback through this program.
"""

from __future__ import annotations

import importlib
import inspect
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from compress.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor

KEY = "robust_compression.loss.hook"
PACKAGE = Path(__file__).parents[1]
LIBRARIES = tuple(
    str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "purelib", "platlib")
)
Function = Callable[..., Any]


def load(hook: str, names: Sequence[str]) -> Function:
    """The function at the dotted path `module:function`.

    Raises UserError if its module cannot be imported, for whatever reason, if there is no such function
    in it, or if that takes neither the parameters `names` by position nor one alone.
    """
    path, _, name = hook.partition(":")
    module = _attempt(hook, "cannot be imported ({})", importlib.import_module, path)
    if not hasattr(module, name):
        raise refusal(hook, f"cannot be imported ({_missing(module, name)})")
    function = getattr(module, name)
    if not inspect.isfunction(function):
        raise refusal(hook, "is not a function")
    if not can_take(function, names) and not can_take(function, ("batch",)):
        called = f"is called with ({', '.join(names)}) by position, or with one batch"
        takes = f"takes {inspect.signature(function)}, but {called} ({place(function)})"
        raise refusal(hook, takes)
    return function


def can_take(function: Function, names: Sequence[str]) -> bool:
    """Whether the function can be called with so many arguments by position."""
    try:
        inspect.signature(function).bind(*names)
    except TypeError:
        return False
    return True


def call(hook: str, function: Function, *arguments: object) -> object:
    """What the function returns; UserError if it raises, except for memory."""
    return _attempt(hook, "raises {}", function, *arguments)


def _attempt(hook: str, failure: str, function: Function, *arguments: object) -> Any:  # noqa: ANN401  what the call returns
    """What a call of the user's code returns; what it raises, sys.exit too, becomes a UserError.

    failure: the message, with {} for the error. Missing memory is no mistake of the code: that error is
    raised as it is.
    """
    try:
        return function(*arguments)
    except (KeyboardInterrupt, UserError):
        raise
    except BaseException as error:
        from compress.runtime import memory

        if memory.exhausted(error):
            raise
        raise refusal(hook, failure.format(_described(error))) from None


def checked(hook: str, function: Function, returned: object, labels: Tensor) -> Tensor:
    """The losses [B] that a function returned for labels [B]; UserError for any other value."""
    from compress.microbatch import mistake_in

    if (wrong := mistake_in(returned, labels)) is not None:
        raise refusal(hook, f"{wrong} ({place(function)})")
    return cast("Tensor", returned)


def place(function: Function) -> str:
    """`file.py:12`, where a function is defined."""
    code = inspect.unwrap(function).__code__
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}"


def refusal(hook: str, why: str) -> UserError:
    """The error of a loss, naming it."""
    return UserError(f"{KEY}: '{hook}' {why}.")


def _missing(module: ModuleType, name: str) -> str:
    """The reason that a module lacks a name."""
    own = [key for key, value in vars(module).items() if inspect.isfunction(value)]
    hint = nearest(name, own).rstrip(".") if own and name else ""
    return f"'{module.__name__}' ({getattr(module, '__file__', None)}) has no '{name}'{hint}"


def _described(error: BaseException) -> str:
    """An error in one line: type, message, the innermost line of the user's code."""
    message = " ".join(str(error).split())
    place = _place(error)
    if isinstance(error, SyntaxError):
        message, place = error.msg, f"{Path(error.filename or '?').name}:{error.lineno}"
    elif isinstance(error, SystemExit):
        message = f"sys.exit({error.code!r})"
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return f"{text}, {place}" if place else text


def _place(error: BaseException) -> str | None:
    """`file.py:12`, the innermost line that is neither a library's nor this package's, or None."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        inside = PACKAGE in file.resolve().parents or str(file.resolve()).startswith(LIBRARIES)
        if file.suffix == ".py" and not inside and "<" not in frame.filename:
            return f"{file.name}:{frame.lineno}"
    return None
