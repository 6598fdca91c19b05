"""The baked weights onto the disk, front to back, with a digest of each tensor on the way."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, NamedTuple

from torch import Tensor

from engine.manifest import FileRecord, TensorRecord
from image.layout import Piece, Slot, group_size, header
from image.progress import Advance
from image.tensors import Tensors

_WINDOW = 16 << 20
"""Bytes between two reports of progress; above what one write costs, below what anyone would wait for."""

_READ = 1 << 20
"""Bytes read at once: what a core's second-level cache holds."""


class Written(NamedTuple):
    """What was written: the table, the digests of the first bytes and of all tensors, and the file's own record."""

    tensors: tuple[TensorRecord, ...]
    header_sha256: str
    weights_sha256: str
    file: FileRecord


def write_weights(
    path: Path, slots: Sequence[Slot], pieces: Sequence[Piece], source: Tensors, quantize: str, advance: Advance
) -> Written:
    """Write a safetensors file of the pieces, one in memory at a time, and bring it to the disk.

    The header names the digest of what it heads, so it is put in front when that is known; then the file is read once
    more for its own digest, so `advance` hears of every byte twice.

    Raises:
        OSError: the disk is full or fails.
    """
    contents = (content for piece in pieces for content in _contents(piece, source, quantize))
    start = len(header(slots, "0" * 64))
    with path.open("wb") as file:
        file.seek(start)
        digests = [
            _write(file, start + slot.offset, content, advance) for slot, content in zip(slots, contents, strict=True)
        ]
        weights_sha256 = sha256(b"".join(digests)).hexdigest()
        first = header(slots, weights_sha256)
        file.seek(0)
        file.write(first)
        file.flush()
        os.fsync(file.fileno())
    table = tuple(
        TensorRecord(slot.name, slot.dtype, slot.shape, start + slot.offset, slot.bytes, digest.hex())
        for slot, digest in zip(slots, digests, strict=True)
    )
    return Written(table, sha256(first).hexdigest(), weights_sha256, record(path, advance))


def record(path: Path, advance: Advance = lambda count: None) -> FileRecord:
    """A file's length and digest."""
    digest, size = sha256(), path.stat().st_size
    for part in read_windows(path, 0, size):
        digest.update(part)
        advance(len(part))
    return FileRecord(size, digest.hexdigest())


def read_windows(path: Path, begin: int, end: int) -> Iterator[memoryview]:
    """A file's bytes from `begin` to `end` or to where it ends, in pieces; each is gone when the next is asked for."""
    buffer = memoryview(bytearray(min(_READ, end - begin)))
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        while begin < end and (count := file.readinto(buffer[: end - begin])):
            yield buffer[:count]
            begin += count


def _write(file: BinaryIO, offset: int, content: Iterable[memoryview], advance: Advance) -> bytes:
    """Write a tensor's bytes behind zeros up to its place; gives their digest."""
    file.write(bytes(offset - file.tell()))
    digest = sha256()
    for part in content:
        for begin in range(0, len(part), _WINDOW):
            window = part[begin : begin + _WINDOW]
            file.write(window)
            digest.update(window)
            advance(len(window))
    return digest.digest()


def _contents(piece: Piece, source: Tensors, quantize: str) -> Iterator[Iterable[memoryview]]:
    """The bytes of each tensor that a piece is stored as."""
    if quantize == "none" or not piece.rounds:
        yield source.bytes_of(piece)
        return
    from kernels.quantize import quantize_int4, quantize_int8

    weight = source.joined(piece)
    rounded = quantize_int8(weight) if quantize == "int8" else quantize_int4(weight, group_size(piece.shape[1]))
    for tensor in (rounded.values, rounded.scales):
        yield [_bytes(tensor)]


def _bytes(tensor: Tensor) -> memoryview:
    """A tensor's memory; valid while the tensor is. torch's own way to it needs numpy."""
    assert tensor.is_contiguous()
    return memoryview((ctypes.c_ubyte * tensor.nbytes).from_address(tensor.data_ptr())).cast("B")
