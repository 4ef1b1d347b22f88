"""The model hub, with an error within seconds where it cannot be reached.

The hub's client retries for minutes behind a firewall, so one short connection is tried first. What is
in the client's local cache is used without a connection.
"""

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
from huggingface_hub.utils import disable_progress_bars

from compress.errors import UserError, first_line
from compress.models.directories import WEIGHTS

if TYPE_CHECKING:
    import datasets

TIMEOUT = 5.0
DESCRIPTION = ("*.json", "*.txt", "*.model", "README.md")
"""Files of a model beside its weights; its card names the licence."""
WAY_OUT = (
    "work without it by setting robust_compression.task.data_dir to a folder with train, dev and "
    "ood_<name> files, and robust_compression.model to a local model directory"
)


@cache
def reachable() -> bool:
    """Whether the hub answers at all within `TIMEOUT` seconds."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    try:
        request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError, HTTPException):
        return False
    return True


@contextmanager
def one_a_node() -> Iterator[None]:
    """Context in which one rank of each node asks the hub; the others follow and find all in its cache.

    Collective: every rank enters it. A rank that fails lets the others go on, which then fail alike.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    from compress.runtime import ranks  # loads torch, which takes seconds

    first = os.environ.get("LOCAL_RANK", "0") == "0"
    if not first:
        ranks.barrier()
        _follows.add(True)
    try:
        yield
    finally:
        _follows.clear()
        if first:
            ranks.barrier()


_follows: set[bool] = set()
"""Not empty while this rank may only read what another one has downloaded."""


@cache
def model_directory(name: str, key: str = "robust_compression.model") -> str:
    """Local directory of a model on the hub: downloaded, or from the client's cache.

    PyTorch's own files are taken only where the model has no safetensors (such as Turc et al.'s small
    BERTs); transformers reads them without running code in them.
    name: id on the hub; `id@revision` pins a branch, tag or commit. key: of the configuration, for
    messages. Raises UserError if the hub cannot be reached and the cache does not hold the model.
    """
    disable_progress_bars()
    repository, _, revision = name.partition("@")
    try:
        folder = ""
        for weights in WEIGHTS:
            folder = huggingface_hub.snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=[*DESCRIPTION, weights],
                local_files_only=bool(_follows) or not reachable(),
            )
            if any(Path(folder).glob(weights)):
                break
        return folder
    except Exception as error:  # noqa: BLE001  the client's errors have no common base
        raise _error(key, name, error) from None


def commit(folder: Path) -> str | None:
    """The commit of a model that lies in the hub client's cache; None of any other directory."""
    return folder.name if folder.parent.name == "snapshots" else None


def _error(key: str, name: str, error: Exception) -> UserError:
    reason = f"cannot be had from the hub ({first_line(error)})"
    if not reachable():
        reason = (
            "is no local directory, is not in the local cache, and the hub "
            f"({huggingface_hub.constants.ENDPOINT}) cannot be reached"
        )
    return UserError(f"{key}: '{name}' {reason}; {WAY_OUT}.")


def load_split(path: str, config: str | None, split: str, revision: str | None) -> "datasets.Dataset":
    """A split of a data set on the hub; UserError where it cannot be had. The main rank alone asks."""
    import datasets  # takes seconds, and local files need none of it

    if not reachable():
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    offline = datasets.DownloadConfig(local_files_only=not reachable(), max_retries=1)
    try:
        return datasets.load_dataset(
            path,
            config,
            split=split,
            revision=revision,
            download_config=offline,
            trust_remote_code=False,
        )
    except Exception as error:  # noqa: BLE001  the client's errors have no common base
        raise _error("robust_compression.task.name", path, error) from None
