"""The number type of the training where `robust_compression.precision` chooses it.

What was chosen stands in the configuration afterwards as if the user had written it (`bf16`, or `tf32`
in the key itself), so that keys of artefacts, config.json and DeepSpeed know nothing of the choice.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from compress.configuration import machine
from compress.configuration.config import Config, build
from compress.configuration.used_keys import OURS

KEY = "precision"
CPU_INFO = Path("/proc/cpuinfo")
FAST = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of processors that multiply in bfloat16: AVX-512 BF16, AMX, and ARM's."""


def settle(config: Config) -> tuple[Config, str | None]:
    """The configuration with the precision that this machine uses, and a line if it was chosen."""
    asked = config.robust.precision
    if asked != "auto":
        return (config, None) if asked is None else (_with(config, asked), None)
    kind = machine.device()
    fast = computes_bf16(kind)
    where = {"cpu": "this processor", "cuda": "this GPU"}.get(kind, f"the device {kind}")
    able = "computes fast in" if fast else "does not compute fast in"
    chosen = "bf16" if fast else "fp32"
    line = f"precision: {chosen}, because {where} {able} bfloat16 ({OURS}.{KEY} is 'auto')"
    return _with(config, chosen), line


def possible(config: Config) -> list[Config]:
    """What `settle` may make of a configuration, on whatever machine."""
    asked = config.robust.precision
    return [config] if asked is None else [_with(config, p) for p in _choices(asked)]


def _choices(asked: str) -> list[str]:
    return ["bf16", "fp32"] if asked == "auto" else [asked]


def _with(config: Config, chosen: str) -> Config:
    """The same with a precision of its own keys."""
    values: dict[str, Any] = deepcopy(dict(config.merged))
    values[OURS][KEY] = chosen if chosen == "tf32" else None
    if chosen == "bf16":
        block: Mapping[str, Any] = values.get("bf16") or {}
        values["bf16"] = {**block, "enabled": True}
    return build(values, config.sources)


def computes_bf16(kind: str) -> bool:
    """Whether the device of this kind computes in bfloat16 faster than in float32.

    GPUs from compute capability 8.0 do; processors by the flags that the kernel lists.
    """
    if kind == "cuda":
        import torch

        return torch.cuda.get_device_capability() >= (8, 0)
    if kind != "cpu" or not CPU_INFO.is_file():
        return False
    text = CPU_INFO.read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if line.lower().startswith(("flags", "features")))
    return bool(FAST & set(next(lines, "").split()))
