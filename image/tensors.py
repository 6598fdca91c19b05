"""The tensors of a source folder, memory-mapped: their bytes, and their numbers."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import InvalidModel
from engine.manifest import PADDING
from engine.tensor_file import Entry, TensorFile, read_header, weight_files
from image.layout import Piece

DTYPES = {
    "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "I8": torch.int8, "U8": torch.uint8,
}
"""By the names that safetensors gives them; the integers are those of quantised matrices."""

KEPT = ("BF16", "F16", "F32")
"""What weights may be stored in: they are baked as they are."""


class Tensors:
    """Everything that a folder's weights hold, by name. Mapped, so what is read takes no memory of its own."""

    def __init__(self, folder: Path) -> None:
        files = [read_header(path) for path in weight_files(folder)]
        self._maps = {file.path: _map(file) for file in files}
        self._entries = {
            name: (file.path, entry)
            for file in files for name, entry in file.entries.items() if not name.startswith(PADDING)
        }

    @property
    def names(self) -> set[str]:
        return set(self._entries)

    def resolve(self, piece: Piece) -> Piece:
        """The piece as this folder holds it: in parts, or joined already if the folder is baked; checked.

        Raises:
            InvalidModel: a part is missing, of another shape or dtype than is baked, or unlike the others.
        """
        if piece.name in self._entries:
            piece = Piece(piece.name, ((piece.name, piece.shape),), piece.rounds)
        for name, shape in piece.parts:
            self._check(name, shape)
        dtypes = {name: self._entries[name][1].dtype for name, _ in piece.parts}
        if len(set(dtypes.values())) > 1:
            raise InvalidModel(f"{', '.join(f'{name} is {dtype}' for name, dtype in dtypes.items())}: cannot be joined")
        return piece

    def dtype(self, piece: Piece) -> str:
        """Of a resolved piece, as safetensors names it."""
        return self._entries[piece.parts[0][0]][1].dtype

    def bytes_of(self, piece: Piece) -> Iterator[memoryview]:
        """A resolved piece's bytes: rows are stored one after the other, so to join is to append."""
        for name, _ in piece.parts:
            path, entry = self._entries[name]
            yield memoryview(self._maps[path])[entry.begin : entry.end]

    def tensor(self, name: str) -> Tensor:
        """One tensor, a view of the file."""
        path, entry = self._entries[name]
        count, dtype = entry.bytes // DTYPES[entry.dtype].itemsize, DTYPES[entry.dtype]
        return torch.frombuffer(self._maps[path], dtype=dtype, count=count, offset=entry.begin).view(entry.shape)

    def joined(self, piece: Piece) -> Tensor:
        """A resolved piece; a view of the file where it has a single part."""
        parts = [self.tensor(name) for name, _ in piece.parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        if name not in self._entries:
            raise InvalidModel(f"the weights hold no tensor {name}; {len(self._entries)} others are there")
        path, entry = self._entries[name]
        if entry.shape != shape:
            raise InvalidModel(f"{path}: {name} has the shape {entry.shape}; config.json asks for {shape}")
        _require_kept(path, entry)


def _require_kept(path: Path, entry: Entry) -> None:
    if entry.dtype not in KEPT:
        raise InvalidModel(f"{path}: {entry.name} is of the dtype {entry.dtype}; only {', '.join(KEPT)} are baked")


def _map(file: TensorFile) -> mmap.mmap:
    """Copied on write, which nobody does: torch wants memory that could be written to."""
    with file.path.open("rb") as opened:
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
