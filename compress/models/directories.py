"""Model directories as files: what a name means and which files must be present.

A model is "synthetic-encoder" (the one that comes with the package), a local directory, or an id on the
model hub. Nothing is imported from torch or transformers, so a wrong path is an error within a second.
"""

from difflib import get_close_matches
from pathlib import Path

from compress.errors import UserError

SYNTHETIC_ENCODER = "synthetic-encoder"
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""Files of weights, the first that a model has."""


def local(name: str, key: str) -> Path | None:
    """The directory of a model given as `key`, or None if the name can only be an id on the hub.

    Raises UserError if the name is a path at which there is no directory.
    """
    if name == SYNTHETIC_ENCODER:
        return Path(__file__).parents[1] / "synthetic/encoder"
    path = Path(name)
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{key}: '{name}' is a file; name the model's directory.")
    if is_path(name):
        raise UserError(f"{key}: there is no directory '{name}'.")
    repository, at, revision = name.partition("@")
    if at and not (repository and revision):
        raise UserError(f"{key}: '{name}' is no id on the hub; give it as id@revision, or without @.")
    if get_close_matches(name, [SYNTHETIC_ENCODER], cutoff=0.9):
        raise UserError(f"{key}: there is no model '{name}'; did you mean '{SYNTHETIC_ENCODER}'?")
    return None


def is_path(name: str) -> bool:
    """Whether a model's name can only be a path, not an id on the hub."""
    return not name.strip() or Path(name).is_absolute() or name[0] in ".~" or name.count("/") > 1


def check(path: Path, key: str | None = None) -> None:
    """Raise UserError if a directory (given as `key`) holds no model, or no weights of one."""
    where = str(path) if key is None else f"{key}: '{path}'"
    if not (path / "config.json").is_file():
        raise UserError(f"{where} is no model directory (it has no config.json){_inside(path)}")
    if not _has_weights(path):
        raise UserError(f"{where} has no weights of a model ({', '.join(WEIGHTS)}){_inside(path)}")


def _has_weights(path: Path) -> bool:
    return any(any(path.glob(pattern)) for pattern in WEIGHTS)


def _inside(path: Path) -> str:
    """The end of the sentence; for the directory of a run or a stage, where its model is."""
    places = (path / "student" / "model", path / "model")
    found = next((place for place in places if _has_weights(place)), None)
    return f"; did you mean '{found}'?" if found else "."
