"""Ranges of flattened tensors that are divided among the ranks, and how a state is written with them.

A state is a tree of dictionaries and lists with numbers, texts, tensors and pieces as leaves. Each rank
writes its own: `rank-00003.safetensors` for tensors and pieces, `rank-00003.json` for the tree. A piece
is read back by its range, whichever ranks wrote it, so that a state fits another number of ranks or
another ZeRO stage; nothing but the wanted range is held in memory.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from compress.errors import UserError

TENSOR, PIECE = "$tensor", "$piece"


@dataclass(frozen=True)
class Piece:
    """A range of a flattened tensor; values: [length]; start: its first entry; total: of the whole."""

    values: Tensor
    start: int
    total: int

    def read(self, start: int, length: int) -> Tensor:
        """A range within this one, [length]."""
        return self.values.narrow(0, start - self.start, length)


class Readable(Protocol):
    """A flattened tensor that is read by ranges."""

    def read(self, start: int, length: int) -> Tensor:
        """A range, [length]."""


def names(rank: int) -> tuple[str, str]:
    """File names of a rank: tensors, tree."""
    return f"rank-{rank:05}.safetensors", f"rank-{rank:05}.json"


@dataclass(frozen=True)
class Packed:
    """A state as it is written; tree: JSON; tensors: on the CPU, by their paths."""

    tree: str
    tensors: dict[str, Tensor]


def pack(state: Mapping[str, Any], copied: bool = False) -> Packed:
    """The state of a rank, ready to be written; copied: in memory of its own, which stays as it is."""
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_packed(state, "", tensors))
    return Packed(tree, {key: _plain(value.detach(), copied) for key, value in tensors.items()})


def write(folder: Path, rank: int, packed: Packed) -> list[str]:
    """Write the state of a rank; the names of its files."""
    values, tree = names(rank)
    save_file(packed.tensors, folder / values)
    (folder / tree).write_text(packed.tree, encoding="utf-8")
    return [values, tree]


def _plain(value: Tensor, copied: bool) -> Tensor:
    """On the CPU, contiguous, and with a storage of its own if it is a view or `copied`."""
    plain = value.cpu().contiguous()
    own = plain.untyped_storage().data_ptr() != value.untyped_storage().data_ptr()
    part = plain.untyped_storage().nbytes() != plain.nbytes
    return plain.clone() if part or (copied and not own) else plain


def _packed(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:  # noqa: ANN401  a tree
    """The tree as JSON; tensors go into `tensors` by their path."""
    if isinstance(value, Piece):
        tensors[path] = value.values
        return {PIECE: path, "start": value.start, "length": len(value.values), "total": value.total}
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        tensors[path] = value
        return {TENSOR: path}
    if isinstance(value, Mapping):
        return {str(key): _packed(v, f"{path}/{key}", tensors) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(v, f"{path}/{n}", tensors) for n, v in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value


@dataclass
class Saved:
    """A written state as a rank of today reads it.

    folder: with the files of all ranks that wrote it, `world` of them; rank: whose tree is read.
    """

    folder: Path
    world: int
    rank: int
    _trees: dict[int, dict[str, Any]] = field(default_factory=dict)
    _pieces: dict[int, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """The tree of the rank, or of the main rank if there was none; pieces as `Pieces`."""
        rank = self.rank if self.rank < self.world else 0
        found: dict[str, Any] = self._unpacked(self.tree(rank), rank)
        return found

    def of_all(self, key: str) -> Iterator[Any]:
        """What each rank that wrote it has under a key of its tree."""
        for rank in range(self.world):
            yield self._unpacked(self.tree(rank)[key], rank)

    def tree(self, rank: int) -> dict[str, Any]:
        """The tree of a rank as it is written."""
        if rank not in self._trees:
            text = (self.folder / names(rank)[1]).read_text(encoding="utf-8")
            self._trees[rank] = json.loads(text)
        return self._trees[rank]

    def tensor(self, rank: int, path: str) -> Tensor:
        """A whole tensor of a rank."""
        with safe_open(self.folder / names(rank)[0], framework="pt") as file:
            return file.get_tensor(path)

    def part(self, rank: int, path: str, start: int, length: int) -> Tensor:
        """Entries `start` to `start + length` of a tensor [n] of a rank."""
        with safe_open(self.folder / names(rank)[0], framework="pt") as file:
            return file.get_slice(path)[start : start + length]

    def pieces(self, rank: int) -> dict[str, dict[str, Any]]:
        """Start and length of the pieces of a rank, by their paths."""
        if rank not in self._pieces:
            self._pieces[rank] = {about[PIECE]: about for about in _found(self.tree(rank))}
        return self._pieces[rank]

    def _unpacked(self, value: Any, rank: int) -> Any:  # noqa: ANN401  a tree
        if isinstance(value, list):
            return [self._unpacked(v, rank) for v in value]
        if not isinstance(value, dict):
            return value
        if TENSOR in value:
            return self.tensor(rank, value[TENSOR])
        if PIECE in value:
            return Pieces(self, value[PIECE])
        return {key: self._unpacked(v, rank) for key, v in value.items()}


@dataclass(frozen=True)
class Pieces:
    """A flattened tensor whose pieces several ranks wrote; path: its place in the tree."""

    saved: Saved
    path: str

    def read(self, start: int, length: int) -> Tensor:
        """A range, [length]. The rank's own file is looked at first, the others' only if needed.

        Raises UserError if a part of it was not written.
        """
        parts: dict[int, Tensor] = {}
        for rank in sorted(range(self.saved.world), key=lambda rank: rank != self.saved.rank):
            about = self.saved.pieces(rank).get(self.path)
            if about is None:
                continue
            first = max(start, about["start"])
            last = min(start + length, about["start"] + about["length"])
            if first < last or not (length or parts):
                offset = max(0, first - about["start"])
                parts[first] = self.saved.part(rank, self.path, offset, max(0, last - first))
            if sum(map(len, parts.values())) >= length and parts:
                break
        if sum(map(len, parts.values())) != length or not parts:
            raise UserError(
                f"{self.saved.folder}: entries {start} to {start + length} of '{self.path}' are not "
                "all there; delete this checkpoint."
            )
        return torch.cat([parts[first] for first in sorted(parts)])


def _found(tree: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401  a tree
    """The entries of pieces in a tree."""
    if isinstance(tree, dict) and PIECE in tree:
        yield tree
        return
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    for value in values:
        yield from _found(value)
