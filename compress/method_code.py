"""The code of the methods that a configuration trains with: whose arithmetic is edited is another one.

No result of the old code is reused. A digest covers the file of a class and the classes that it
derives from, as far as they lie in the folders of the methods; comments and docstrings do not count.
What else a method calls is covered by `artefacts.NUMERICS`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compress.configuration.config import Config

FOLDERS = ("compress.mitigations.", "compress.compression.pruners.", "compress.layerwise.")


def of_student(config: Config) -> dict[str, str]:
    """Digests by name of the loss, the layer-wise terms and the enabled blocks of the compression."""
    from compress.layerwise.terms import classes_of

    robust = config.robust
    kinds: dict[str, type] = {robust.loss.name: type(robust.loss), **classes_of(robust.layerwise)}
    kinds |= {block.key: type(block) for block in config.compression.active}
    return {name: digest(kind) for name, kind in kinds.items()}


@cache
def digest(kind: type) -> str:
    """SHA-256 of the code of a method: of the classes of its file, and of all that they derive from.

    A file of a pruner defines two of them. A whole file counts, because a class uses its functions and
    constants; of a file that others share (its name begins with an underscore) only the class.
    """
    module = sys.modules[kind.__module__]
    own = [one for one in vars(module).values() if _defined_in(one, module)]
    bases = {base for one in (*own, kind) for base in one.__mro__}
    parts = sorted({_code(base) for base in bases if base.__module__.startswith(FOLDERS)})
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _defined_in(value: object, module: ModuleType) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__


def _code(kind: type) -> str:
    """The code of the file of a class, or of the class alone where the file is shared."""
    module = importlib.import_module(kind.__module__)
    tree = without_texts(Path(str(module.__file__)).read_text(encoding="utf-8"))
    if kind.__module__.rpartition(".")[2].startswith("_"):
        tree.body = [s for s in tree.body if isinstance(s, ast.ClassDef) and s.name == kind.__name__]
    return ast.dump(tree)


def without_texts(source: str) -> ast.Module:
    """The code of a file without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [statement for statement in node.body if not _is_text(statement)]
    return tree


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a string alone: a docstring of whatever stands before or around it."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
