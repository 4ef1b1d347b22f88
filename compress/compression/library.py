"""What sparse and structured masks share about DeepSpeed's compression library: blocks and ratios."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from deepspeed.compression.basic_layer import LinearLayer_Compress
from torch import Tensor

Layers = Mapping[str, LinearLayer_Compress]
State = dict[str, Tensor]
Weights = dict[str, Tensor]


def exactly(name: str) -> str:
    """Regular expression for one module."""
    return f"^{re.escape(name)}$"


def ratio_of(keep: int, size: int) -> float:
    """A ratio that the library's `ceil(ratio * size)` turns into exactly `keep`.

    A ratio that was computed does not always: 1 - 11 / 12 keeps 2 heads of 12, by a rounding error.
    """
    return (keep - 0.5) / size if keep else 0.0


def dense_block(key: str, layers: Mapping[str, Sequence[str]], **shared: object) -> dict[str, Any]:
    """A block of DeepSpeed's schema that prunes nothing yet: groups with their layers by name."""
    return {
        key: {
            "shared_parameters": {"enabled": True, "schedule_offset": 0, **shared},
            "different_groups": {
                name: {"params": {"dense_ratio": 1.0}, "modules": [exactly(n) for n in names]}
                for name, names in layers.items()
            },
        }
    }
