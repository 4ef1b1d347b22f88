"""The hosts of a run as DeepSpeed's launcher reads them, and commands on them through ssh.

A command runs in this directory, with this interpreter and with the variables that the launcher would
give it: those of the environment file, PYTHON..., NCCL... and UCX... of this shell.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compress.errors import UserError

EXPORTED = ("PYTHON", "NCCL", "UCX", "MV2", "MLFLOW")
"""Beginnings of the variables that the launcher takes along (deepspeed/launcher/runner.py)."""
HERE = "localhost"


@dataclass(frozen=True)
class Hosts:
    """slots: ranks by host, in the order of the hostfile; variables: of the environment file.

    local: no hostfile, this machine alone; ssh_port: None for the usual one.
    """

    slots: Mapping[str, int]
    variables: Mapping[str, str] = field(default_factory=dict)
    local: bool = False
    ssh_port: int | None = None

    @property
    def names(self) -> list[str]:
        """The hosts, the one where the ranks meet first."""
        return list(self.slots)

    @property
    def ranks(self) -> int:
        """Ranks of all hosts together."""
        return sum(self.slots.values())

    def environment(self) -> dict[str, str]:
        """Variables that the ranks of a run would have on every host."""
        own = {name: text for name, text in os.environ.items() if name.startswith(EXPORTED)}
        path = [str(Path.cwd()), own.get("PYTHONPATH", "")]
        return {**own, **self.variables, "PYTHONPATH": ":".join(filter(None, path))}

    def command(self, host: str, words: Sequence[str], **more: str) -> list[str]:
        """How `python -m WORDS` is started on a host; more: further variables."""
        given = {**self.environment(), **more}
        start = ["env", *(f"{name}={text}" for name, text in given.items())]
        start += [sys.executable, "-m", *words]
        if self.local:
            return start
        port = [] if self.ssh_port is None else ["-p", str(self.ssh_port)]
        options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
        return [
            "ssh",
            *options,
            *port,
            host,
            f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(start)}",
        ]

    def start(self, host: str, words: Sequence[str], **more: str) -> subprocess.Popen[str]:
        """Start a module on a host; its output is kept."""
        return subprocess.Popen(
            self.command(host, words, **more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def alone(slots: int, variables: Mapping[str, str]) -> Hosts:
    """This machine without a hostfile."""
    return Hosts({HERE: slots}, variables, local=True)


def read_hostfile(file: Path) -> dict[str, int]:
    """Ranks by host of a hostfile; UserError, naming the line, for one that DeepSpeed refuses too."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"--hostfile {file}: cannot be read ({why}).") from None
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        match = re.fullmatch(r"(\S+)\s+slots=(\d+)", text)
        if match is None or match.group(2) == "0":
            raise UserError(f"{file}: line {number} is '{text}'; write it as `name slots=ranks`.")
        if match.group(1) in found:
            raise UserError(f"{file}: line {number}: the host '{match.group(1)}' stands there twice.")
        found[match.group(1)] = int(match.group(2))
    if not found:
        raise UserError(f"{file}: names no host; write one a line, as `name slots=ranks`.")
    return found


def read_variables() -> dict[str, str]:
    """The environment file of DeepSpeed's launcher: in the home directory, then here, later ones win.

    Raises UserError for a line that the launcher would fail at: it allows neither comments nor empty
    lines.
    """
    name, found = os.environ.get("DS_ENV_FILE", ".deepspeed_env"), {}
    for folder in (Path.home(), Path()):
        file = folder / name
        for number, line in enumerate(_lines(file), 1):
            key, separator, value = line.partition("=")
            if not separator or not re.fullmatch(r"\w+", key.strip()):
                raise UserError(
                    f"{file}: line {number} is '{line}'; the launcher takes lines NAME=VALUE only."
                )
            found[key.strip()] = value.strip()
    return found


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
