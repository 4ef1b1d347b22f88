"""Versions of everything that a result depends on, and the one that is required."""

import platform
from importlib.metadata import PackageNotFoundError, version

from compress import __version__
from compress.errors import UserError

DEEPSPEED = "0.19.6"
ACCEPT = "reuse what was made with other versions of torch, transformers or deepspeed"
"""What --accept_versions does."""
PACKAGES = ("deepspeed", "torch", "transformers", "tokenizers", "datasets", "pyarrow", "numpy")


def installed(package: str) -> str | None:
    """Installed version of a package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check() -> None:
    """Raise UserError unless the last DeepSpeed with the compression library is installed."""
    found = installed("deepspeed")
    if found is None or found.split("+")[0] != DEEPSPEED:
        raise UserError(
            f"deepspeed {found or '(none)'} is installed, but {DEEPSPEED} is needed, the last release "
            f"with the compression library; run: pip install deepspeed=={DEEPSPEED}"
        )


def report() -> dict[str, str]:
    """Versions by package, and Python's."""
    found = {package: installed(package) for package in PACKAGES}
    own = {"python": platform.python_version(), "robust-compression": __version__}
    return own | {package: number for package, number in found.items() if number}
