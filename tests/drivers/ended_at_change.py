"""train.py that kills itself at a change of files where no process of the same walk was killed before.

    WALK_TOP=/tmp/x WALK_SEEN=/tmp/seen python tests/drivers/ended_at_change.py --deepspeed_config ...

WALK_TOP: only changes below this directory count; WALK_SEEN: file of the changes where processes have
been killed, one a line. WALK_POWER: kill at the flushing of files too, and cut off what a loss of power
may take from files that have not been flushed (one rank only). WALK_FAULT: number of an error that the
disk reports at each such change, instead of the kill. WALK_SIGNAL: number of a signal that the process
sends itself where a directory is made or gets its name, instead of the kill.
"""

import builtins
import io
import os
import re
import runpy
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
TOP, SEEN = os.environ["WALK_TOP"], os.environ["WALK_SEEN"]
RANK, POWER = os.environ.get("RANK", "0"), "WALK_POWER" in os.environ
FAULT, SIGNAL = (int(os.environ.get(name, "0")) for name in ("WALK_FAULT", "WALK_SIGNAL"))
OWNER = re.compile(r"\.[A-Za-z0-9-]*_[0-9a-f]{8}\.\d+\.\d+\.\d+\.tmp")
EVENTS = re.compile(r"(events\.out\.tfevents)\.\d+\.[^/]*\.\d+\.\d+")
_real = {name: getattr(os, name) for name in ("open", "write", "fsync", "close", "kill", "truncate")}
_opened, _seen = builtins.open, set(Path(SEEN).read_text().splitlines())
_signalled: list[str] = []
_flushed: dict[int, tuple[int, int]] = {}
_began = Path(SEEN).stat().st_mtime_ns


def place(path) -> str | None:
    """A path below the top without what differs from process to process; None elsewhere."""
    try:
        text = os.fsdecode(path)
    except TypeError:
        return None
    if not text.startswith(TOP + "/"):
        return None
    text = EVENTS.sub(r"\1", OWNER.sub(".tmp", text[len(TOP) + 1 :]))
    text = re.sub(r"damaged-\d+-\d+", "damaged", text)
    text = re.sub(r"(?<=\.model\.onnx)\.[a-z0-9_]{8}\b", "", text)
    return re.sub(r"\b[0-9a-f]{16}\b|(?<=csv_monitor/)[^/]*(?=\.csv)", "#", text)


def stages() -> str:
    """The functions of stages that are at work."""
    frame, names = sys._getframe(2), []
    while frame is not None:
        file = frame.f_code.co_filename
        if "/compress/stages/" in file or file.endswith("compress/run.py"):
            names.append(f"{Path(file).stem}.{frame.f_code.co_name}")
        frame = frame.f_back
    return ">".join(dict.fromkeys(reversed(names)))


def hit(kind: str, path, when: str) -> None:
    """Kill this process if nobody was killed here before."""
    named = place(path)
    if named is None:
        return
    if ".lock" in named:
        named = named.split("/")[-1]
    elif named.endswith(".tmp") and kind in ("open", "unlink") and "/." in named:
        return  # a file that gets its name later, and none that was named
    line = f"rank {RANK} {when} {kind} {named}" + ("" if ".lock" in named else f" [{stages()}]")
    full = kind == "open" or (when == "before" and kind in ("rename", "replace", "link", "fsync"))
    if line in _seen or (FAULT and not full and kind != "mkdir"):
        return
    if SIGNAL and (kind not in ("mkdir", "rename") or _signalled):
        return
    handle = _real["open"](SEEN, os.O_WRONLY | os.O_APPEND)
    _real["write"](handle, (line + "\n").encode())
    if FAULT:
        _real["close"](handle)
        _seen.add(line)
        raise OSError(FAULT, os.strerror(FAULT), os.fspath(path))
    if POWER:
        lose()
    _signalled.append(line)
    _real["kill"](os.getpid(), SIGNAL or signal.SIGKILL)
    time.sleep(0.5)  # for the thread that waits for signals


def lose() -> None:
    """Cut off what has not been flushed."""
    for file in Path(TOP).rglob("*"):
        about = file.lstat()
        if file.is_dir() or about.st_mtime_ns < _began or ".lock" in file.name:
            continue
        changed, size = _flushed.get(about.st_ino, (0, 0))
        if changed != about.st_mtime_ns:
            _real["truncate"](file, min(size, about.st_size))


def changing(name: str, before: bool, after: bool, which: int = 0):
    real = getattr(os, name)

    def called(*arguments, **named):
        if before and "dir_fd" not in named:
            hit(name, arguments[which], "before")
        made = real(*arguments, **named)
        if after and "dir_fd" not in named:
            hit(name, arguments[which], "after")
        return made

    setattr(os, name, called)


def opening(path, mode="r", *arguments, **named):
    made = _opened(path, mode, *arguments, **named)
    if set(mode) & set("wxa+"):
        try:
            hit("open", path, "after")
        except OSError:
            made.close()
            raise
    return made


def flushing(handle):
    path = str(Path(f"/proc/self/fd/{handle}").readlink())
    if POWER or (FAULT and not path.endswith(".tmp")):
        hit("fsync", path, "before")
    _real["fsync"](handle)
    about = os.fstat(handle)
    _flushed[about.st_ino] = (about.st_mtime_ns, about.st_size)


for _name, _which in (("rename", 1), ("link", 1)):
    changing(_name, True, True, _which)
for _name in ("unlink", "remove", "rmdir"):
    changing(_name, True, False)
changing("replace", True, False, 1)
for _name in ("mkdir", "truncate"):
    changing(_name, False, True)
builtins.open = io.open = opening
os.fsync = flushing

if __name__ == "__main__":
    sys.argv[0] = str(ROOT / "train.py")
    runpy.run_path(sys.argv[0], run_name="__main__")
