"""Whether a run is finished: its output directory holds the figures of just this configuration.

And the files of `--export`, if that is given.

    python -m compress.finished --ranks 16 --deepspeed_config ... --output_dir runs/x

takes the arguments of train.py and ends with 0 if the run is finished, 3 if it is not, 1 for a mistake.
Scripts ask it after a launcher has ended, whose exit code does not say that all was made.
"""

import argparse
import sys
from pathlib import Path

from compress import checks
from compress.configuration import config
from compress.configuration.config import Config
from compress.errors import UserError, fail
from compress.files import artefacts, integrity, ownership
from compress.files.integrity import MARKER

TO_DO = 3
"""Exit code of a run that is not finished."""
WHOLE = ("all", "evaluate")
"""Stages that end with figures."""
EXPORTS = {"onnx": ("onnx",), "onnx-int8": ("onnx", "onnx_int8")}
"""Value of `--export` -> directories that it makes, each from the one before it or the student."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The arguments of train.py that say which run is meant; others are left out of account."""
    parser = argparse.ArgumentParser(prog="python -m compress.finished", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--deepspeed_config", nargs="+", required=True, metavar="JSON")
    parser.add_argument("--set", nargs="+", action="extend", default=[], dest="overrides")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--stage", default="all")
    parser.add_argument("--export", choices=list(EXPORTS))
    parser.add_argument("--ranks", type=int, help="of the run; needed without train_batch_size")
    return parser.parse_known_args(arguments)[0]


def lacking(settings: Config, output_dir: Path) -> str | None:
    """Why a run is not finished; None if it is.

    A change since then of this program or of a file that the configuration names counts too. Raises
    UserError if the place belongs to another configuration.
    """
    ownership.claim(output_dir, settings)
    found = ownership.figures_found(output_dir)
    if found is None:
        return "there are no figures yet (metrics.json)"
    if found not in ownership.figures_keys(settings):
        return "metrics.json is of other settings of the evaluation"
    if not (output_dir / "hits.npz").is_file():
        return "hits.npz is missing"
    stamp = artefacts.read_json(output_dir / "metrics.json").get("stamp")
    if stamp != ownership.stamp(settings):
        return "files that the configuration names, or this program, have changed since"
    return None


def unexported(output_dir: Path, export: str) -> str | None:
    """Which file of `--export` is not there as it was made from today's student; None if all are."""
    source = output_dir / "student"
    for name in EXPORTS[export]:
        folder = output_dir / name
        try:
            before, marker = (artefacts.read_json(place / MARKER) for place in (source, folder))
            now = artefacts.content(before)
            other = marker.get("made_from", {}).get(source.name, now) != now
            lacking = integrity.lacking(folder, marker)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return f"there is no {folder} yet"
        if other or lacking is not None:
            return lacking or f"{folder} is of another {source.name}"
        source = folder
    if len(EXPORTS[export]) > 1 and "int8" not in artefacts.read_json(output_dir / "metrics.json"):
        return "metrics.json has no figures of the student in 8-bit integers"
    return None


def main(arguments: list[str] | None = None) -> int:
    """0 if the run is finished, 3 if not, with a line that says so; UserError for a mistake."""
    options = parse(arguments)
    if options.stage not in WHOLE:
        raise UserError(
            f"--stage {options.stage}: makes no figures, so it cannot be told; leave it out."
        )
    settings = config.load(options.deepspeed_config, options.overrides, options.ranks)
    checks.check(settings, options.stage)
    if options.ranks is not None:
        config.batch_split(settings, options.ranks)
    why = lacking(settings, options.output_dir)
    if why is None and options.export is not None:
        why = unexported(options.output_dir, options.export)
    sys.stdout.write(f"{options.output_dir}: {'finished' if why is None else f'not finished, {why}'}\n")
    return 0 if why is None else TO_DO


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        fail(error)
