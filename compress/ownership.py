"""An output directory belongs to one configuration: what may change there, and what may not."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.configuration.config import Config
from compress.errors import UserError

FREE = {"tensorboard", "csv_monitor", "wandb", "steps_per_print", "wall_clock_breakdown"}


def claim(output_dir: Path, config: Config) -> None:
    """Check that the output directory holds no results of another configuration.

    Raises UserError naming the first key that differs.
    """
    owner = output_dir / "config.json"
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"--output_dir {output_dir}: is a file.")
    there = next(p for p in (output_dir, *output_dir.absolute().parents) if p.exists())
    if not os.access(there, os.W_OK):
        raise UserError(f"--output_dir {output_dir}: '{there}' cannot be written to.")
    finished = any((output_dir / name).exists() for name in ("student", "metrics.json"))
    if not owner.is_file() or not finished:
        return
    try:
        old = json.loads(owner.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{owner}: cannot be read ({error}).") from None
    key = difference(old, config.merged)
    if key is not None:
        raise UserError(
            f"--output_dir {output_dir}: belongs to another configuration ({key} differs); "
            "choose another directory or delete this one."
        )


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """The first key in which two merged configurations differ, among those that results depend on."""
    return _difference(_lasting(old), _lasting(new))


def _lasting(merged: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without what only concerns watching and evaluating."""
    lasting = {key: value for key, value in merged.items() if key not in FREE}
    ours = lasting.get("robust_compression", {})
    lasting["robust_compression"] = {k: v for k, v in ours.items() if k != "evaluation"}
    return lasting


def _difference(old: object, new: object, path: str = "") -> str | None:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            here = f"{path}.{key}" if path else key
            if key not in old or key not in new:
                return here
            if (deeper := _difference(old[key], new[key], here)) is not None:
                return deeper
        return None
    return None if old == new else path
