"""The error that a user can correct: one sentence that names the file, key or row and what to do.

`train.py` prints it without a traceback and ends with exit code 1 on every rank.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from difflib import get_close_matches
from types import TracebackType
from typing import NoReturn

PATIENCE = 5.0


class UserError(Exception):
    """A mistake in the configuration, the data or the machine; the message is one sentence."""


class Interrupted(Exception):  # noqa: N818  nothing is wrong
    """The run was asked to end; what it has done is saved, so that the same command continues."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the valid name nearest to `name`, else the valid names."""
    names = sorted(valid)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid here: {', '.join(names)}." if len(names) <= 20 else "."


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, else its type."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def fail(error: UserError) -> NoReturn:
    """Print the sentence once for all ranks of a node and end this process with exit code 1.

    The launcher ends the other ranks as soon as one has failed, so the main rank prints at once; the
    others wait and print only if they still run, because the main rank has not failed.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(PATIENCE)
    with suppress(OSError, ValueError):  # a log on a full disk
        sys.stdout.flush()
    with suppress(OSError, ValueError):
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
    os._exit(1)


Hook = Callable[[type[BaseException], BaseException, TracebackType | None], object]


def _shown(otherwise: Hook) -> Hook:
    """What is called for an exception that ends the program: prints a UserError as one sentence."""

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, UserError):
            sys.stderr.write(f"error: {error}\n")
        else:
            otherwise(kind, error, trace)

    return show


sys.excepthook = _shown(sys.excepthook)
"""The file of a method may be wrong: that is found while a program imports this package, before its
`main` could catch anything."""
