"""Arrays in files that are larger than what a process should hold."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from compress.files import disk


def new(file: Path, shape: tuple[int, ...]) -> "np.memmap[Any, np.dtype[np.float32]]":
    """A new .npy file of an array, mapped to be written to; UserError if the disk does not hold it.

    Its space is reserved: a full disk would end the program at a write to mapped memory.
    """
    with disk.writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(file, "w+", np.float32, shape)
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, max(1, file.stat().st_size))
    return array
