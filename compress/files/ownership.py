"""An output directory belongs to one configuration and, while a run lasts, to one run.

`claim` looks, before anything is computed, whether the places that a run writes to can be used and hold
nothing of another configuration; `held` keeps other runs out.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress import method_code
from compress.configuration import merge, precision, used_keys
from compress.configuration.config import Config, build
from compress.data import sources, tasks
from compress.errors import UserError
from compress.files import artefacts, disk
from compress.files.lock import Lock
from compress.runtime import interrupts

KINDS = (
    "teacher",
    "teacher_states",
    "difficulty",
    "first",
    "partial_input",
    "shallow",
    "weak",
    "partial_encoder",
    "plain",
    "rows",
    "splits",
    "tokens",
    "scores",
)
"""Directories of the cache."""
FOLDERS = ("student", "scores", "alpha", "onnx", "onnx_int8", "scores_int8")
FILES = ("config.json", "versions.json", "metrics.json", "hits.npz", "report.html")
"""What a run leaves in its output directory."""


def cache_dir(config: Config, output_dir: Path) -> Path:
    """Where the artefacts lie that several runs share."""
    given = config.robust.cache_dir
    return Path(given) if given else output_dir.parent / "shared"


def cache_name(config: Config) -> str:
    """What the user calls the cache."""
    named = config.robust.cache_dir is not None
    return f"{used_keys.OURS}.cache_dir" if named else "--output_dir: the shared directory beside it"


def claim(output_dir: Path, config: Config) -> None:
    """Check that a run can write its files and that there are no results of another configuration.

    Reads no data and writes nothing. Raises UserError naming the path, or the first key that differs.
    """
    _check_places(output_dir, config)
    owner = output_dir / "config.json"
    finished = any((output_dir / name).exists() for name in ("student", "metrics.json"))
    if not owner.is_file():
        return
    try:
        old = artefacts.read_json(owner)
    except (OSError, ValueError, RecursionError) as error:
        if not finished:
            return
        raise UserError(
            f"{owner}: cannot be read ({error}), so it is not known of which configuration the "
            "results beside it are; delete this output directory or choose another."
        ) from None
    if "robust_compression" not in old:
        raise UserError(
            f"--output_dir {output_dir}: its config.json is not one of this program and would be "
            "overwritten; choose another directory."
        )
    key = difference(old, config) if finished else None
    if key is not None:
        raise UserError(
            f"--output_dir {output_dir}: belongs to another configuration ({key} differs); "
            "choose another directory or delete this one."
        )


def _check_places(output_dir: Path, config: Config) -> None:
    """Raise UserError for the first directory or file that could not be written to.

    A cache that is there may be read-only: whether anything must be written to it is known with the
    keys of the artefacts (`remaining_work.check_places`).
    """
    disk.check(output_dir, "--output_dir")
    for name in FOLDERS:
        disk.check(output_dir / name, "--output_dir: its entry")
    for name in FILES:
        if (output_dir / name).is_dir():
            raise UserError(f"--output_dir {output_dir}: its '{name}' is a directory; choose another.")
    cache = cache_dir(config, output_dir)
    key = cache_name(config)
    disk.check(cache, key, writable=not cache.is_dir())
    inside = [output_dir / name for name in FOLDERS if _within(cache, output_dir / name)]
    if inside:
        raise UserError(f"{key} {cache}: lies in '{inside[0]}', which is replaced; choose another.")
    for entry in sorted(cache.iterdir()) if cache.is_dir() else ():
        if entry.name in KINDS:
            disk.check(entry, key, writable=False)
    for name in ("tensorboard", "csv_monitor"):
        block = config.merged.get(name) or {}
        if block.get("enabled"):
            place = Path(block.get("output_path") or output_dir) / (block.get("job_name") or name)
            disk.check(place, f"{name}.output_path")


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


@contextmanager
def held(output_dir: Path, config: Config) -> Iterator[None]:
    """Context around all that a run writes: the main rank holds the lock of the output directory.

    Removes what runs that have ended left unfinished. Raises UserError on every rank, before anything
    is written, if another run is at work there or has left results of another configuration.
    """
    from compress.runtime import ranks  # loads torch, which takes seconds

    lock = Lock(output_dir)
    interrupts.before_end(lock.release)
    try:
        for line in ranks.on_main(lambda: _hold(lock, output_dir, config)):
            ranks.say(line)
        with disk.writing(output_dir, codes=disk.EVERYWHERE):
            yield
    finally:
        lock.release()


def _hold(lock: Lock, output_dir: Path, config: Config) -> list[str]:
    """Take the lock and remove what is left over; what to say of both."""
    with disk.writing(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
    line = lock.claim()
    said = [] if line is None else [line]
    claim(output_dir, config)
    cache = cache_dir(config, output_dir)
    shared = [entry for entry in (cache / kind for kind in KINDS) if os.access(entry, os.W_OK)]
    own = [output_dir / name for name in ("", "alpha", "student", "student/model")]
    if count := artefacts.sweep(own, alone=True) + artefacts.sweep(shared):
        said.append(f"removed {count} unfinished files or directories of runs that have ended")
    return said


def difference(old: Mapping[str, Any], new: Config) -> str | None:
    """The first key in which a configuration differs from the one that config.json holds.

    Among the keys that results depend on, after resolution: a default may be written or not. One that
    this version does not take (any more) is compared as it was written. Precision
    may be settled or not.
    """
    written = {key: value for key, value in old.items() if key != merge.RECORD}
    try:
        before = used_keys.whole(build(written, {}))
    except (ValueError, LookupError, TypeError, AttributeError):
        return _difference(_lasting(written), _lasting(new.merged))
    settled = [_lasting(used_keys.whole(config)) for config in (new, *precision.possible(new))]
    found = [_difference(_lasting(before), one) for one in settled]
    return None if None in found else found[-1]


def figures_key(config: Config) -> str:
    """Which figures a run makes: a hash of the whole configuration, what is evaluated included."""
    return artefacts.key(used_keys.whole(config))


UNUSED_ALPHA = 0.5
"""What alpha "auto" becomes where the difficulty is not used: it only scales the report's histogram."""


def figures_keys(config: Config) -> set[str]:
    """The keys of the figures that a run may have made; nothing is "auto" in them."""
    return set(_by_figures(config))


def settled(config: Config, figures: str | None) -> Config | None:
    """The configuration with the precision of the run that made the figures of this key.

    None if no run of this configuration makes such figures.
    """
    return _by_figures(config).get(figures or "")


def _by_figures(config: Config) -> dict[str, Config]:
    """Key of the figures that a run may have made -> the configuration with its precision."""
    block = config.robust.uncertainty
    found: dict[str, Config] = {}
    for one in precision.possible(config):
        alphas = (*block.alpha_candidates, UNUSED_ALPHA)
        chosen = [one.with_alpha(alpha) for alpha in alphas] if block.alpha == "auto" else [one]
        found |= dict.fromkeys(map(figures_key, chosen), one)
    return found


def figures_found(output_dir: Path) -> str | None:
    """The key of the figures in an output directory, as of `figures_key`; None if there are none."""
    try:
        return artefacts.read_json(output_dir / "metrics.json")["keys"].get("evaluate")
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None


def stamp(config: Config) -> str:
    """A hash that changes with a file that the configuration names (data, models, own loss), and with
    the code of a method that the run trains with, or of the figures (`artefacts.FIGURES`).

    Of files the names, sizes and times only, so that it costs nothing; contents are compared by the run
    itself.
    """
    from compress.compression.pruners.magnitude import Magnitude
    from compress.mitigations.vanilla import Vanilla

    robust = config.robust
    names = [robust.task.data_dir, robust.task.ood_dir, *robust.models.values()]
    names.append(robust.teacher.probabilities)
    files = [
        file
        for name in names
        if name is not None and Path(name).is_dir()
        for file in sorted(Path(name).iterdir())
        if file.is_file()
    ]
    named = sources.files(robust.task, tasks.of(robust.task))
    files += [file for file in named if file not in files]
    files += robust.loss.files()
    kinds = (Vanilla, Magnitude, type(robust.teacher.loss))
    code = [*method_code.of_student(config).items(), *map(method_code.digest, kinds)]
    about = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    facts = [artefacts.NUMERICS, artefacts.FIGURES, *code, *about]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _lasting(merged: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without the keys that may change: what they decide is made again at no cost."""
    may_change = used_keys.OF_SCORES
    return used_keys.without(merged, lambda key: used_keys.without_effect(key) or key in may_change)


def _difference(old: object, new: object, path: str = "") -> str | None:
    """The first key that differs: of those that both have, before those that one lacks."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}, key=lambda key: (key not in old or key not in new, key)):
            here = f"{path}.{key}" if path else key
            if key not in old or key not in new:
                return here
            if (deeper := _difference(old[key], new[key], here)) is not None:
                return deeper
        return None
    return None if old == new else path
