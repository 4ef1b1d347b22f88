"""Why a model directory cannot be loaded, in one sentence; and that its own code is never run.

transformers asks on the terminal whether to run a directory's Python code unless that is forbidden, and
names the wrong package where a tokenizer needs one.
"""

import json
from importlib.util import find_spec
from pathlib import Path

from transformers import PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from compress.errors import UserError, first_line

SENTENCEPIECE = b"\n"
"""First byte of a SentencePiece model: the tag of its first field."""
PACKAGES = {"sentencepiece": "sentencepiece", "tiktoken": "tiktoken", "protobuf": "google.protobuf"}


def reason(path: Path, error: Exception) -> str:
    """The reason for a message: that the directory's own code would be needed, or its first line."""
    if _entry(path / "config.json", "auto_map") and "custom code" in str(error):
        return "it needs Python code of its own (auto_map), which is never run; name another model"
    return first_line(error)


def check_tokenizer_code(path: Path) -> None:
    """Raise UserError if the tokenizer is a class that only code in the directory defines.

    With code forbidden, transformers takes a general class in its place, which may cut texts otherwise.
    """
    file = path / "tokenizer_config.json"
    code, name = _entry(file, "auto_map"), _entry(file, "tokenizer_class")
    needs = code.get("AutoTokenizer") if isinstance(code, dict) else code
    if needs and not (isinstance(name, str) and _known(name)):
        raise UserError(
            f"{file}: its tokenizer needs Python code of its own (auto_map), which is never run; "
            "give the model a tokenizer of a class that transformers has."
        )


def _known(name: str) -> bool:
    found = (tokenizer_class_from_name(each) for each in (name, name.removesuffix("Fast")))
    return any(isinstance(kind, type) and issubclass(kind, PreTrainedTokenizerBase) for kind in found)


def tokenizer_error(path: Path, error: Exception) -> UserError:
    """The sentence for a tokenizer that cannot be loaded; names a package that it lacks."""
    lacking = _lacking(path, error)
    if lacking:
        names = " and ".join(lacking)
        return UserError(
            f"{path}: its tokenizer needs the package {names}, which is not installed; "
            f"run: pip install {' '.join(lacking)}"
        )
    return UserError(f"{path}: its tokenizer cannot be read ({first_line(error)}).")


def _lacking(path: Path, error: Exception) -> list[str]:
    """Packages that reading the tokenizer needs and that are not installed."""
    files = [*path.glob("*.model"), *path.glob("*.spm"), *path.glob("*.tiktoken")]
    needed = set()
    if files and not (path / "tokenizer.json").is_file():
        with files[0].open("rb") as source:
            pieces = source.read(1) == SENTENCEPIECE
        needed = {"sentencepiece", "protobuf"} if pieces else {"tiktoken"}
    if isinstance(error, ImportError):
        needed |= {name for name in PACKAGES if name in str(error).lower()}
    return [name for name in PACKAGES if name in needed and not _installed(PACKAGES[name])]


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _entry(file: Path, key: str) -> object:
    """A value of a JSON file; None if the file or the key is not there or cannot be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get(key) if isinstance(content, dict) else None
