"""Which keys of a configuration a result depends on: their values, and a configuration of them alone.

Keys are dotted names in the merged configuration; a name stands for everything below it. `values` enter
the key of an artefact; it is made with `reduced`, in which every other key is back at its default.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

from compress.configuration import schedule
from compress.configuration.config import Config, build
from compress.configuration.merge import at
from compress.untyped import Json

OURS = "robust_compression"
WITHOUT_EFFECT = (
    *("tensorboard", "csv_monitor", "wandb", "steps_per_print", "wall_clock_breakdown"),
    *("train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
    *("prescale_gradients", "zero_optimization"),
    *(f"{OURS}.evaluation.{key}" for key in ("ood", "baseline", "batch_size", "sentences", "metric")),
    *(f"{OURS}.task.ood_dir", f"{OURS}.cache_dir"),
    *(
        f"{OURS}.student.uncompressed",
        f"{OURS}.checkpoint",
        f"{OURS}.timeout",
        f"{OURS}.profile",
        f"{OURS}.processes",
        f"{OURS}.activation_checkpointing",
    ),
)
"""Keys that change no artefact: monitors, how the same sums are computed, what is evaluated."""
INSIDE = (f"{OURS}.layerwise.cache_gib",)
"""More of them, inside blocks that stages read as a whole: only those stages see them."""
OF_SCORES = (f"{OURS}.evaluation.precision",)
"""Keys that change the scores of finished models and nothing else that is kept."""
CONTENT = (
    *(f"{OURS}.task", f"{OURS}.model", f"{OURS}.student.model"),
    *(f"{OURS}.teacher.model", f"{OURS}.teacher.probabilities"),
)
"""Keys that name data or a model: fingerprints of what they name enter the key, not their values."""
OF_THE_MACHINE = (f"{OURS}.task.data_dir", f"{OURS}.model")
"""Keys that name what may lie elsewhere on another machine."""
IF_GIVEN = (f"{OURS}.student.model", f"{OURS}.teacher.model", f"{OURS}.teacher.probabilities")
"""The same; whether they are given matters."""
RESOLVED = {
    f"{OURS}.{block}.epochs": f"{OURS}.epochs" for block in ("teacher", "student", "uncertainty")
}
"""Key -> the key whose value it has where it is absent."""
BLANK = {
    "train_batch_size": 1,
    "optimizer": {"type": "Adam", "params": {"lr": 1.0}},
    "zero_optimization": {"stage": 0},
    OURS: {"task": {"name": "none"}, "model": "none"},
}
"""Required keys that a result does not depend on."""


def values(config: Config, keys: Iterable[str], names: bool = False) -> dict[str, Any]:
    """The values of these keys after resolution, by key; those of `CONTENT` only with `names`.

    A default has the same value whether it was written or not. What has no effect is left out.
    """
    keys = [key for key in keys if names or key not in CONTENT]
    dump = reduced(config, keys).dump()
    return {key: _effective(at(dump, key.split(".")), key) for key in keys}


def _effective(value: Json, key: str) -> Json:
    """The value of a key without the keys inside it that have no effect."""
    if not isinstance(value, dict):
        return value
    return {name: inner for name, inner in value.items() if f"{key}.{name}" not in INSIDE}


def written(config: Config, key: str) -> str:
    """The key that this one has its value from: itself, or its entry in `RESOLVED` if it is absent."""
    follows = key in RESOLVED and at(config.merged, key.split(".")) is None
    return RESOLVED[key] if follows else key


def reduced(config: Config, keys: Iterable[str]) -> Config:
    """The configuration with the values of these keys and those of `WITHOUT_EFFECT` only."""
    whole = _resolved(config)
    out: dict[str, Any] = deepcopy(BLANK)
    for key in (*WITHOUT_EFFECT, *keys):
        value = at(whole, key.split("."))
        if value is not None:
            _put(out, key, value)
    return build(out, config.sources)


def whole(config: Config) -> dict[str, Any]:
    """Every value after resolution; equal for two configurations that ask for the same.

    A default that is written out is the same as one that is not.
    """
    return build(_resolved(config), config.sources).dump()


def of_any_seed(config: Config) -> dict[str, Any]:
    """What runs that differ in nothing but seed and machine have in common, after resolution."""
    own = (*OF_THE_MACHINE, f"{OURS}.seed")
    out = without(whole(config), lambda key: without_effect(key) or key in own)
    for key in IF_GIVEN:
        _put(out, key, at(out, key.split(".")) is not None)
    return out


def _resolved(config: Config) -> dict[str, Any]:
    """The merged configuration with the values of `RESOLVED` and of absent keys filled in."""
    out: dict[str, Any] = deepcopy(schedule.settled(config.merged))
    if "scheduler" in out:
        block = out["scheduler"]
        out["scheduler"] = {**block, "params": schedule.LIBRARY[block["type"]] | block["params"]}
    for key in ("bf16", "fp16", "torch_autocast"):
        if not out.get(key, {}).get("enabled"):
            out.pop(key, None)
    for key, other in RESOLVED.items():
        if at(out, key.split(".")) is None:
            _put(out, key, at(out, other.split(".")) or config.robust.epochs)
    _put(out, f"{OURS}.uncertainty.alpha", config.robust.uncertainty.alpha)
    return out


def _put(values: dict[str, Any], key: str, value: Json) -> None:
    """Set a dotted key."""
    *path, last = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
    values[last] = deepcopy(value)


def without(values: Mapping[str, Any], gone: Callable[[str], bool], path: str = "") -> dict[str, Any]:
    """Nested values without the dotted keys that are gone, and without blocks that are then empty."""
    left = {
        key: without(value, gone, f"{path}{key}.") if isinstance(value, Mapping) else value
        for key, value in values.items()
        if not gone(f"{path}{key}")
    }
    return {key: value for key, value in left.items() if value != {}}


def without_effect(key: str) -> bool:
    """Whether a dotted key, or one that it lies below, is in `WITHOUT_EFFECT` or `INSIDE`."""
    return any(f"{key}.".startswith(f"{name}.") for name in (*WITHOUT_EFFECT, *INSIDE))
