"""The tensors of a model directory, read one at a time: safetensors, one file or several, or .bin.

Nobody needs the whole model for one of its tensors. Those of safetensors files are read, not mapped: a
disk that fails under a mapped file ends the process by a signal, without a word. .bin files of torch
1.6 or later are mapped.
"""

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from compress.errors import UserError, first_line

DAMAGED = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    UnpicklingError,
    SafetensorError,
)
LENGTH = 8
"""Bytes before the header of a safetensors file: its length."""
SHARD_BYTES = 2 << 30
"""Size from which a file of weights is closed and the next begun; one tensor is never divided."""


class WeightFiles:
    """The tensors of a directory by name. Raises UserError if it has no weights or they are damaged."""

    def __init__(self, path: Path) -> None:
        """Reads headers only."""
        self.path = path
        self._files = self._find()

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""
        return list(self._files)

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Shapes by name."""
        return {name: self._shape(name) for name in self._files}

    def read(self, name: str) -> Tensor:
        """A tensor on the CPU, in the type of the file; not to be written to."""
        file = self._files[name]
        try:
            if file.suffix == ".bin":
                return self._pickled(file)[name]
            return self._bytes(file, name)
        except DAMAGED as error:
            raise _damaged(file, error) from None

    def _bytes(self, file: Path, name: str) -> Tensor:
        """A tensor of a safetensors file, in memory of its own."""
        with safe_open(file, framework="pt") as weights:
            mapped = weights.get_tensor(name)  # its bytes are not touched
        flat = torch.empty(mapped.nbytes, dtype=torch.uint8)
        with file.open("rb") as source:
            source.seek(self._begin(file)[name])
            if source.readinto(flat.numpy().data) < len(flat):
                raise EOFError(f"it ends within '{name}'")
        return flat.view(mapped.dtype).view(mapped.shape)

    def _begin(self, file: Path) -> dict[str, int]:
        """Where each tensor of a safetensors file begins: after a length, and a header in JSON."""
        if file not in self._begins:
            with file.open("rb") as source:
                length = int.from_bytes(source.read(LENGTH), "little")
                header = json.loads(source.read(length))
            header.pop("__metadata__", None)
            places = {name: one["data_offsets"][0] for name, one in header.items()}
            self._begins[file] = {name: LENGTH + length + place for name, place in places.items()}
        return self._begins[file]

    @cached_property
    def _begins(self) -> dict[Path, dict[str, int]]:
        return {}

    def _shape(self, name: str) -> torch.Size:
        file = self._files[name]
        if file.suffix == ".bin":
            return self._pickled(file)[name].shape
        try:
            with safe_open(file, framework="pt") as weights:
                return torch.Size(weights.get_slice(name).get_shape())
        except DAMAGED as error:
            raise _damaged(file, error) from None

    def _pickled(self, file: Path) -> dict[str, Tensor]:
        if file not in self._loaded:
            try:
                found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # written before torch 1.6: it cannot be mapped
                found = torch.load(file, map_location="cpu", weights_only=True)
            every = {name: value for name, value in found.items() if isinstance(value, Tensor)}
            self._loaded[file] = every
        return self._loaded[file]

    @cached_property
    def _loaded(self) -> dict[Path, dict[str, Tensor]]:
        return {}

    def _find(self) -> dict[str, Path]:
        """The file of each tensor, as transformers looks for them."""
        one = self.path / SAFE_WEIGHTS_NAME
        try:
            if one.is_file():
                with safe_open(one, framework="pt") as weights:
                    return dict.fromkeys(weights.keys(), one)
            if (one := self.path / SAFE_WEIGHTS_INDEX_NAME).is_file():
                return self._indexed(one)
            if (one := self.path / WEIGHTS_NAME).is_file():
                return dict.fromkeys(self._pickled(one), one)
            if (one := self.path / WEIGHTS_INDEX_NAME).is_file():
                return self._indexed(one)
        except DAMAGED as error:
            raise _damaged(one, error) from None
        raise UserError(f"{self.path}: has no {SAFE_WEIGHTS_NAME}; the directory is incomplete.")

    def _indexed(self, index: Path) -> dict[str, Path]:
        table: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        for file in sorted(set(table.values())):
            if not (self.path / file).is_file():
                raise UserError(f"{self.path}: has no {file}, which {index.name} names.")
        return {name: self.path / file for name, file in table.items()}


def _damaged(file: Path, error: Exception) -> UserError:
    return UserError(f"{file}: is damaged or incomplete ({first_line(error)}).")


class WeightWriter:
    """Writes tensors one after another into safetensors files of limited size.

    Holds no more than one file's tensors. One file has the plain name; several have an index.
    """

    def __init__(self, folder: Path, limit: int = SHARD_BYTES) -> None:
        """folder: is there; limit: bytes of a file."""
        self.folder, self._limit = folder, limit
        self._open: dict[str, Tensor] = {}
        self._bytes = self._total = 0
        self._done: list[list[str]] = []

    def add(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take tensors on the CPU, which the caller leaves alone from then on."""
        for name, tensor in weights:
            size = tensor.numel() * tensor.element_size()
            if self._open and self._bytes + size > self._limit:
                self._flush()
            self._open[name] = tensor.contiguous()
            self._bytes, self._total = self._bytes + size, self._total + size

    def _flush(self) -> None:
        save_file(self._open, self.folder / _part(len(self._done)), metadata={"format": "pt"})
        self._done.append(list(self._open))
        self._open, self._bytes = {}, 0

    def close(self) -> None:
        """Write what is left, and name the files."""
        self._flush()
        if len(self._done) == 1:
            (self.folder / _part(0)).rename(self.folder / SAFE_WEIGHTS_NAME)
            return
        stem, suffix = SAFE_WEIGHTS_NAME.split(".")
        table: dict[str, str] = {}
        for number, names in enumerate(self._done):
            file = f"{stem}-{number + 1:05d}-of-{len(self._done):05d}.{suffix}"
            (self.folder / _part(number)).rename(self.folder / file)
            table |= dict.fromkeys(names, file)
        index: dict[str, Any] = {"metadata": {"total_size": self._total}, "weight_map": table}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (self.folder / SAFE_WEIGHTS_INDEX_NAME).write_text(text, encoding="utf-8")


def _part(number: int) -> str:
    return f"part-{number:05d}.safetensors"
