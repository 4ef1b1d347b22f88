"""Standard output and error on a terminal that may go away before the program has ended."""

import errno
import io
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Terminal(io.FileIO):
    """A terminal; what is written to it after it has gone is dropped."""

    def write(self, data: "ReadableBuffer", /) -> int | None:  # type: ignore[override]  # like FileIO's own
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return memoryview(data).nbytes


def outlive() -> None:
    """Let writing to standard output and error go on without an error after their terminal is gone.

    The signal of its end (SIGHUP) comes later than the first error of a write may. Streams that are no
    terminals stay as they are.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream.isatty():
            stream.flush()
            raw = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
            text = io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True)
            setattr(sys, name, text)
