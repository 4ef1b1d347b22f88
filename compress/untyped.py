"""Names for what has no type of its own."""

from typing import Any, TypeAlias

Engine: TypeAlias = Any
"""DeepSpeed's engine or its optimiser: the library has no types."""
Json: TypeAlias = Any
"""Any JSON value."""
