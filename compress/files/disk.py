"""Writing to a disk that may be full, read-only or failing: one sentence instead of a traceback.

`writing` turns what a disk refuses into a `UserError`, also where a library hides it in an error of its
own; `check` finds a path that cannot be written to before anything is computed; `flush` makes sure that
files are on the disk and not only in memory.
"""

import errno
import os
import re
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from compress.errors import UserError

FREE_SOME = "free some of it, or choose another directory"
ADVICE = {
    errno.ENOSPC: FREE_SOME,
    errno.EDQUOT: f"your share of the disk is used up: {FREE_SOME}",
    errno.EFBIG: "the file is larger than the disk or the limit (ulimit -f) allows; choose another",
    errno.EROFS: "choose a directory that can be written to",
    errno.EACCES: "choose a directory that you may write to",
    errno.EPERM: "choose a directory that you may write to",
    errno.EIO: "the disk reports an error: check it, or choose another directory",
    errno.ESTALE: "the network file system has lost the file; run again",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ENOTDIR: "a part of the path is a file; choose another directory",
    errno.EISDIR: "a directory has this name; choose another or remove it",
    errno.ENODEV: "the disk is gone; choose another directory",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine; try again later",
    errno.EMLINK: "the directory can hold no more entries; choose another",
}
"""What to do about each error of a disk; other errors are none of the user's."""
EVERYWHERE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}
"""Those that come from a disk even where nobody said what was being written."""
SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Those where it helps to know how much is free."""
WRAPPED = (OSError, RuntimeError, ValueError, SafetensorError)
"""Types in which libraries report a disk; tokenizers raises a plain Exception."""
PROBE = b"\0" * 65536


@contextmanager
def writing(path: Path, temporary: Path | None = None, codes: set[int] | None = None) -> Iterator[None]:
    """Context around writing `path`: what its disk refuses becomes a UserError.

    temporary: the name under which it is written, so that the sentence names the final one; codes: the
    errors of the system that count, default all of `ADVICE` and those that libraries wrap.
    """
    try:
        yield
    except UserError as error:
        if temporary is None:
            raise
        raise UserError(str(error).replace(str(temporary), str(path))) from None
    except Exception as error:
        if not isinstance(error, WRAPPED) and type(error) is not Exception:
            raise
        direct = error.errno if isinstance(error, OSError) else None
        code = _code(error, temporary or path) if codes is None else direct
        if code is None or code not in (codes or ADVICE):
            raise
        raise UserError(_sentence(error, code, path, temporary)) from None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Context around reading below `path`: a file that this user may not read is a UserError."""
    try:
        yield
    except PermissionError as error:
        named = path if error.filename is None else os.fsdecode(error.filename)
        raise UserError(
            f"{named}: may not be read ({error.strerror}); change its rights or choose another "
            "directory."
        ) from None


def _sentence(error: Exception, code: int, path: Path, temporary: Path | None) -> str:
    """What could not be written, why, what is free, what to do."""
    name = getattr(error, "filename", None)
    named = Path(os.fsdecode(name)) if isinstance(name, (str, bytes)) else path
    if temporary is not None and named.is_relative_to(temporary):
        named = path / named.relative_to(temporary)
    elif temporary is None and named.parent == path.parent and named.name.endswith(".tmp"):
        named = path
    left = _free(path) if code in SPACE else ""
    return f"{named}: cannot be written ({os.strerror(code)}{left}); {ADVICE[code]}."


def free(path: Path) -> int | None:
    """Bytes free on the disk of a path, there or not; None where it cannot be told."""
    with suppress(OSError):
        return shutil.disk_usage(_nearest(path)).free
    return None


def _free(path: Path) -> str:
    """`, 1.5 MB free` on the disk of a path; empty where it cannot be told."""
    count = free(path)
    return "" if count is None else f", {size(count)} free"


def size(count: float) -> str:
    """A number of bytes for people: `0 bytes`, `1.5 MB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} bytes"


def _code(error: BaseException, place: Path) -> int | None:
    """The error number of the disk behind an exception, None if there is none.

    Libraries wrap it: in their text, as a cause, or not at all; then a small file is tried.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno is not None:
            return link.errno
        if (match := re.search(r"\(os error (\d+)\)|\[[Ee]rrno (\d+)\]", str(link))) is not None:
            return int(match.group(1) or match.group(2))
        for code in ADVICE:
            if os.strerror(code) in str(link):
                return code
        link = link.__cause__ or link.__context__
    found = _probe(place)
    if found is None and " requested and " in str(error):  # how NumPy says that not all was written
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        return errno.ENOSPC if limit == resource.RLIM_INFINITY else errno.EFBIG
    return found


def _probe(place: Path) -> int | None:
    """The error number of writing a small file beside `place`, None if that works."""
    file = _nearest(place) / f".probe.{os.getpid()}.tmp"
    try:
        with file.open("wb") as target:
            target.write(PROBE)
            target.flush()
            os.fsync(target.fileno())
    except OSError as error:
        return error.errno
    finally:
        with suppress(OSError):
            file.unlink()
    return None


def _nearest(path: Path) -> Path:
    """The nearest directory above or at a path that is there."""
    for place in (path, *path.absolute().parents):
        with suppress(OSError):
            if place.is_dir():
                return place
    return Path("/")


def check(path: Path, name: str, writable: bool = True) -> None:
    """Raise UserError, by look alone, if a directory is not there and cannot be made or written to.

    name: what the user calls it, such as `--output_dir`; writable: False if it need not be written to.
    """
    text = f"{name} {path}"
    try:
        if b"\0" in os.fsencode(path):
            raise ValueError("a path cannot hold the character 0")
        there = next(p for p in (path, *path.absolute().parents) if p.exists() or p.is_symlink())
        usable = there.is_dir()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{text}: cannot be a directory ({reason}); choose another.") from None
    if not usable:
        what = "a link to nothing" if there.is_symlink() and not there.exists() else "a file"
        if there == path:
            raise UserError(f"{text}: is {what}; choose another directory.")
        raise UserError(f"{text}: '{there}' is {what}, not a directory; choose another.")
    if not writable or os.access(there, os.W_OK | os.X_OK):
        return
    where, why, advice = "" if there == path else f"'{there}' ", "", "change its rights"
    with suppress(OSError):
        if os.statvfs(there).f_flag & os.ST_RDONLY:
            why, advice = " (its disk is read-only)", "make it writable"
    raise UserError(f"{text}: {where}cannot be written to{why}; choose another directory or {advice}.")


def flush(folder: Path) -> None:
    """Wait until every file and directory below a directory, and its own entry, is on the disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            flush_entry(Path(place) / name)
        flush_entry(Path(place))
    flush_entry(folder.parent)


def flush_entry(path: Path) -> None:
    """Wait until a file, or the entries of a directory, is on the disk.

    File systems that cannot flush a directory are left alone.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)
