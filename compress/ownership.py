"""An output directory belongs to one configuration: what may change there, and what may not."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress import artefacts, losses, own_loss
from compress.configuration.config import Config
from compress.data import sources, tasks
from compress.errors import UserError

FREE = {"tensorboard", "csv_monitor", "wandb", "steps_per_print", "wall_clock_breakdown"}
ROWS = "parts drawn evenly over a file"
"""Which rows a configuration means; other words whenever that changes, so that runs are made again."""


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
        old = artefacts.read_json(owner)
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


def identity(merged: Mapping[str, Any]) -> str:
    """A hash that changes with whatever `difference` looks at."""
    return artefacts.key(_lasting(merged))


def stamp(config: Config) -> str:
    """A hash that changes when a file changes which the configuration names: data, models, own loss.

    Of names, sizes and times only, so that it costs nothing; contents are compared by the run itself.
    """
    robust = config.robust
    names = [robust.task.data_dir, robust.task.ood_dir, robust.model, robust.teacher.model]
    files = [
        file
        for name in (*names, robust.student.model)
        if name is not None and Path(name).is_dir()
        for file in sorted(Path(name).iterdir())
        if file.is_file()
    ]
    named = sources.files(robust.task, tasks.of(robust.task))
    files += [file for file in named if file not in files]
    if ":" in robust.loss.hook:
        files.append(own_loss.source(losses.resolve(robust.loss.hook)))
    facts = [ROWS, *((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files)]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _lasting(merged: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without what only concerns watching and evaluating."""
    lasting = {key: value for key, value in merged.items() if key not in FREE}
    ours = {k: v for k, v in lasting.get("robust_compression", {}).items() if k != "evaluation"}
    if isinstance(ours.get("task"), Mapping):
        ours["task"] = {k: v for k, v in ours["task"].items() if k != "ood_dir"}
    lasting["robust_compression"] = ours
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
