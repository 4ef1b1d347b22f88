"""One run at a time in an output directory: `run.lock` names the process that writes there.

The main rank holds the lock; a thread renews its time of change every 20 s. A lock is abandoned when
its process has ended, which is known on the same machine (and container), or when it was not renewed
for 3 minutes by the clock of the file system, nor while one looks: that clock may have been set. Then
one run takes it over, even if several try. The file system needs hard links or exclusive creation.
"""

import json
import os
import secrets
import shlex
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from compress.errors import PATIENCE, UserError, fail
from compress.files import artefacts, disk, processes

NAME = "run.lock"
RENEWED = 20.0
ABANDONED = 180.0
WATCHED = 30.0
"""Seconds for which a lock of an unknown process is watched before it is taken over."""
EARLY = -60.0
"""Below this age a lock is dated in the future: the clock has been set back."""
TRIES, PAUSE = 100, 0.05


class Lock:
    """The lock of a directory; free until `claim`."""

    def __init__(self, folder: Path, name: str = NAME) -> None:
        """folder: must be there when it is claimed; name: of the lock's file in it."""
        self.folder, self.path = folder, folder / name
        self._guard = folder / f".{name}.guard"
        self._text = ""
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def claim(self) -> str | None:
        """Take the lock; a message if it was taken over from a run that has ended.

        Raises UserError if another run holds it, or if the directory cannot be written to.
        """
        line, holder = self._take()
        if holder is not None:
            raise UserError(self._refusal(holder))
        return line

    def holder(self) -> str | None:
        """Take the lock, or say who has it, such as `pid 12 on host node1`.

        Raises UserError if the directory cannot be written to.
        """
        _, holder = self._take()
        return None if holder is None else _who(holder)

    def _take(self) -> tuple[str | None, str | None]:
        """Take the lock: a message if it was taken over; and the text of the lock of another run."""
        about = {
            **processes.this().as_json(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "command": shlex.join(sys.argv),
            "token": secrets.token_hex(8),
        }
        text = json.dumps(about, indent=2) + "\n"
        watched = ""
        with disk.writing(self.path):
            for _ in range(TRIES):
                if artefacts.create(self.path, text):
                    return self._hold(text, None), None
                holder = _read(self.path)
                if holder is None:
                    continue
                why = _abandoned(self.path, holder, holder == watched)
                if why is None:
                    return None, holder
                watched = holder
                if self._replace(holder, text):
                    return self._hold(text, f"took over the lock of {_who(holder)}, {why}"), None
                time.sleep(PAUSE)
        raise UserError(f"--output_dir {self.folder}: several runs are starting there; try again.")

    def release(self) -> None:
        """Remove the lock if this process holds it."""
        self._done.set()
        if self._thread is not None:
            self._thread.join(PATIENCE)
        with suppress(OSError):
            if self._text and _read(self.path) == self._text:
                self.path.unlink()
        self._text = ""

    def _hold(self, text: str, line: str | None) -> str | None:
        self._text = text
        self._done.clear()
        self._thread = threading.Thread(target=self._renew, name="lock", daemon=True)
        self._thread.start()
        return line

    def _renew(self) -> None:
        """Renew the lock until it is released; end the run if another one has taken it over."""
        own = self._text
        while not self._done.wait(RENEWED):
            with suppress(OSError):
                holder = _read(self.path)
                if self._done.is_set():
                    return
                if holder is None:
                    artefacts.create(self.path, own)
                elif holder == own:
                    os.utime(self.path)
                elif _owner(holder) is not None:
                    fail(UserError(f"{self.path}: was taken over by {_who(holder)}; this run ends."))

    def _replace(self, holder: str, text: str) -> bool:
        """Replace the abandoned text `holder`; False if another run was faster.

        The guard lets one process at a time look and replace; that of a dead one is removed.
        """
        if not artefacts.create(self._guard, text):
            other = _read(self._guard)
            if other is not None and _abandoned(self._guard, other) is not None:
                self._guard.unlink(missing_ok=True)
            return False
        try:
            if _read(self.path) != holder:
                return False
            with artefacts.replacing(self.path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            return True
        finally:
            self._guard.unlink(missing_ok=True)

    def _refusal(self, holder: str) -> str:
        owner, since = _owner(holder), ""
        if owner is None:
            return f"{self.path}: cannot be read and is new; try again in {ABANDONED / 60:.0f} minutes."
        with suppress(ValueError, KeyError):
            since = f" since {json.loads(holder)['since']}"
        ended = (
            "" if owner.local else f" (if it has ended there, {ABANDONED / 60:.0f} minutes after that)"
        )
        return (
            f"--output_dir {self.folder}: another run writes there ({_who(holder)}{since}); wait "
            f"until it has ended{ended} or choose another directory."
        )


def _read(path: Path) -> str | None:
    """The text of a lock, None if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _owner(text: str) -> processes.Process | None:
    try:
        return processes.of_json(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _who(text: str) -> str:
    owner = _owner(text)
    return f"pid {owner.pid} on host {owner.host}" if owner else "an unknown process"


def _abandoned(path: Path, text: str, watched: bool = False) -> str | None:
    """Why a lock is abandoned, None if it is not; watched: whether it was found so a moment ago."""
    owner = _owner(text)
    ended = owner.ended if owner is not None else None
    if ended is not None:
        return "which has ended" if ended else None
    age = _age(path)
    if EARLY <= age <= ABANDONED or (not watched and _renewed(path)):
        return None
    if age < 0:
        return "which does not renew it and has dated it in the future"
    return f"which has not renewed it for {age / 60:.0f} minutes"


def _age(path: Path) -> float:
    """Seconds since a file was changed, by the clock of its file system; 0 if it is gone."""
    try:
        return artefacts.now(path.parent) - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _renewed(path: Path) -> bool:
    """Whether the time of a file changes, or it goes, within `WATCHED` seconds."""
    until = time.monotonic() + WATCHED
    try:
        before = path.stat().st_mtime_ns
        while time.monotonic() < until:
            time.sleep(min(WATCHED, 1.0))
            if path.stat().st_mtime_ns != before:
                return True
    except FileNotFoundError:
        return True
    return False
