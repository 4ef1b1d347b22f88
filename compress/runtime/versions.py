"""Versions of everything that a result depends on, and those that are taken."""

import importlib.util
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from compress import __version__
from compress.errors import UserError

DEEPSPEED = ("0.19.6", "0.19.8")
"""Releases that the tests of masks, launcher and golden runs are run with; the first is the last that
has the compression library."""
ACCEPT = "reuse what was made with other versions of torch, transformers or deepspeed"
"""What --accept_versions does."""
PACKAGES = ("deepspeed", "torch", "transformers", "tokenizers", "datasets", "pyarrow", "numpy")


@cache
def installed(package: str) -> str | None:
    """Installed version of a package, None if it is not installed; looked up once a process."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check() -> None:
    """Raise UserError unless a release of DeepSpeed is installed that this program is tested with."""
    found = installed("deepspeed")
    if found is None or found.split("+")[0] not in DEEPSPEED:
        raise UserError(
            f"deepspeed {found or '(none)'} is installed, but this program is tested with "
            f"{' and '.join(DEEPSPEED)} only; run: pip install deepspeed=={DEEPSPEED[0]}"
        )


def has_library() -> bool:
    """Whether the installed DeepSpeed has the compression library; does not import it.

    Later releases keep a stub named deepspeed.compression (upstream PR #8490).
    """
    spec = importlib.util.find_spec("deepspeed")
    places = (spec.submodule_search_locations or []) if spec else []
    return any((Path(place) / "compression" / "compress.py").is_file() for place in places)


def report() -> dict[str, str]:
    """Versions by package, and Python's."""
    found = {package: installed(package) for package in PACKAGES}
    own = {"python": platform.python_version(), "robust-compression": __version__}
    return own | {package: number for package, number in found.items() if number}
