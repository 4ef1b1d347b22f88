"""What making an artefact needs, whatever it is: configuration, directories, device, what is there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from compress.checkpoints.unfinished import Unfinished
from compress.configuration.config import Config
from compress.files import artefacts
from compress.runtime import provenance
from compress.training.monitor import Monitor


@dataclass(frozen=True)
class Artefact:
    """A finished stage: its directory, the marker in it, and whether it was found rather than made."""

    path: Path
    marker: Mapping[str, Any]
    reused: bool

    @property
    def key(self) -> str:
        """Hash of the inputs."""
        return str(self.marker["key"])

    @property
    def content(self) -> str:
        """Hash of its files."""
        return artefacts.content(self.marker)

    @property
    def seconds(self) -> float:
        """How long its making took."""
        return float(self.marker["seconds"])

    @property
    def origin(self) -> dict[str, Any]:
        """Versions, device, ranks, seconds, memory and command of its making."""
        return {**provenance.UNKNOWN, **self.marker.get("origin", {}), "seconds": self.seconds}


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Where a run works.

    stage: of `--stage`; chosen: the stages that are made if they are missing; accept_versions: whether
    artefacts of other versions are reused; known: artefacts that this run has found or made, by
    directory; unfinished: what the stage that is made has done so far; said: messages that are not
    repeated.
    """

    config: Config
    output_dir: Path
    cache_dir: Path
    device: torch.device
    monitor: Monitor = field(default_factory=Monitor)
    stage: str = "all"
    chosen: tuple[str, ...] = ("teacher", "difficulty", "student", "evaluate")
    accept_versions: bool = False
    known: dict[Path, Artefact] = field(default_factory=dict)
    unfinished: Unfinished = field(default_factory=Unfinished)
    said: set[str] = field(default_factory=set)
