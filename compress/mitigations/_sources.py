"""The files that a function of the user's depends on: its own, its module's, and what these import.

`import` statements are followed as far as they lead to files below the current folder or the folder of
the module; files of this package and of installed libraries are left out (their versions are known).
What a program imports in another way, and data that it reads, is not followed.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compress.mitigations._function import Function

Import = tuple[int, tuple[str, ...]]
"""How many dots stand before a name (0: none), and its parts."""


def of(hook: str, function: Function, left_out: tuple[str, ...]) -> list[Path]:
    """The files, each once: that of the hook's module first, the others as they are found.

    hook: `module:function`; left_out: folders whose files do not count, unless the hook is there.
    """
    name = hook.partition(":")[0]
    written = inspect.getfile(inspect.unwrap(function))
    names = getattr(sys.modules.get(name), "__file__", None), written
    start = [file for file in (Path(each) for each in names if each) if file.is_file()]
    roots = [Path.cwd(), *(_top(file, name.split(".")) for file in start[:1])]
    packages = (file for root in roots for file in _files_of(root, name.split(".")[:-1]))
    waiting = [*start, *(file for file in packages if not _below(file, left_out))]
    files: dict[Path, Path] = {}
    while waiting:
        file = waiting.pop(0)
        if file.resolve() not in files:
            files[file.resolve()] = file
            imported = (path for one in _imports_now(file) for path in _resolved(file, one, roots))
            waiting += [path for path in imported if not _below(path, left_out)]
    return list(files.values())


def _top(file: Path, module: list[str]) -> Path:
    """The folder in which the first package of a module lies; file: of the module."""
    return file.parents[len(module) - (file.name != "__init__.py")]


def _below(file: Path, folders: tuple[str, ...]) -> bool:
    return any(file.resolve().is_relative_to(folder) for folder in folders)


def _resolved(file: Path, found: Import, roots: list[Path]) -> Iterator[Path]:
    """The files that an import in `file` runs: the packages on the way, and the module."""
    dots, parts = found
    folders = roots if dots == 0 else [file.resolve().parents[dots - 1]]
    for folder in folders:
        if files := [*_files_of(folder, parts)]:
            yield from files
            return


def _files_of(folder: Path, parts: tuple[str, ...] | list[str]) -> Iterator[Path]:
    """The files of a dotted name below a folder: of each package on the way, and of the module."""
    for end in range(len(parts) + 1):
        place = folder.joinpath(*parts[:end])
        package, module = place / "__init__.py", place.with_suffix(".py")
        if end and package.is_file():
            yield package
        elif end == len(parts) and end and module.is_file():
            yield module


def _imports_now(file: Path) -> tuple[Import, ...]:
    about = file.stat()
    return _imports(file, about.st_size, about.st_mtime_ns)


@cache
def _imports(file: Path, size: int, changed: int) -> tuple[Import, ...]:
    """What the statements of a file import, in order; read again once it has changed."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return ()
    found: list[Import] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(0, tuple(alias.name.split("."))) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = tuple(node.module.split(".")) if node.module else ()
            found += [(node.level, (*above, alias.name)) for alias in node.names] + [
                (node.level, above)
            ]
    return tuple(found)
