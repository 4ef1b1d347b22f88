"""Live tensor bytes of this process on the CPU, their peak in each part of a run, and bytes sent.

Every operation of torch in the thread that enters `LiveBytes` is seen (a `TorchDispatchMode`), with the
storages of its inputs and outputs. A storage counts from then on until it is freed. What a mapped file
backs (safetensors, numpy.memmap) is not allocated and does not count. Not seen: memory inside one
operation, numpy arrays that no operation reads, buffers of gloo.
"""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SMALL = 1 << 16
"""Bytes below which a storage counts without a look at the mapped files."""
EVERY = 0.02
"""Seconds between two looks at the memory of the process."""


class LiveBytes(TorchDispatchMode):
    """Context that counts; parts are named by `part`, and the innermost one gets the peak.

    current: bytes now; peaks: bytes by part; resident: largest anonymous memory of the process by part.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = 0
        self.peaks: dict[str, int] = {}
        self.resident: dict[str, int] = {}
        self.name = ""
        self._sizes: dict[int, tuple[weakref.ref, int]] = {}
        self._lock = threading.RLock()
        self._resize = torch.UntypedStorage.resize_
        self._stop = threading.Event()

    def __enter__(self) -> "LiveBytes":
        original = self._resize

        def resize(storage: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
            result = original(storage, size)
            self._add(storage, fresh=True)
            return result

        torch.UntypedStorage.resize_ = resize
        threading.Thread(target=self._watch, daemon=True, name="resident").start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stop.set()
        torch.UntypedStorage.resize_ = self._resize

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for leaf in tree_leaves((args, kwargs or {})):
            self._see(leaf, fresh=False)
        result = func(*args, **(kwargs or {}))
        fresh = all(value.alias_info is None for value in func._schema.returns)
        for leaf in tree_leaves(result):
            self._see(leaf, fresh)
        return result

    def _see(self, leaf: Any, fresh: bool) -> None:
        if (
            isinstance(leaf, torch.Tensor)
            and leaf.device.type == "cpu"
            and leaf.layout == torch.strided
        ):
            self._add(leaf.untyped_storage(), fresh)

    def _add(self, storage: torch.UntypedStorage, fresh: bool) -> None:
        """Count a storage, or what its size has changed by; fresh: certainly allocated by torch."""
        key, size = storage._cdata, storage.nbytes()
        with self._lock:
            known = self._sizes.get(key)
            if known is None:
                if not fresh and size >= SMALL and _mapped(storage.data_ptr()):
                    size = 0
                reference = weakref.ref(storage, lambda _, key=key: self._gone(key))
                self._sizes[key] = (reference, size)
                self._change(size)
            elif fresh and known[1] != size:
                self._sizes[key] = (known[0], size)
                self._change(size - known[1])

    def _gone(self, key: int) -> None:
        with self._lock:
            _, size = self._sizes.pop(key)
            self.current -= size

    def _change(self, size: int) -> None:
        self.current += size
        self.peaks[self.name] = max(self.peaks.get(self.name, 0), self.current)

    def _watch(self) -> None:
        while not self._stop.wait(EVERY):
            name, now = self.name, anonymous()
            self.resident[name] = max(self.resident.get(name, 0), now)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Context: what follows is this part of the run."""
        outer, self.name = self.name, name
        self._change(0)
        try:
            yield
        finally:
            self.name = outer
            self._change(0)

    def largest(self, count: int) -> list[int]:
        """Sizes of the largest live storages."""
        return sorted((size for _, size in self._sizes.values()), reverse=True)[:count]


def anonymous() -> int:
    """Bytes of anonymous memory of this process."""
    text = Path("/proc/self/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def _mapped(address: int) -> bool:
    """Whether an address lies in a mapped file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        places, *_, inode = line.split(maxsplit=5)[:5]
        first, last = (int(place, 16) for place in places.split("-"))
        if first <= address < last:
            return inode != "0"
    return False
