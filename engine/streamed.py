"""Weights on a device: several threads read them into pinned memory, from where they are copied beside the reading.

A copy from memory that is not pinned goes through the driver's own small buffer, at a tenth of the link's rate; pinning
the whole model would cost more than it gains, so a ring of small buffers is used again and again (ServerlessLLM,
OSDI 2024, does the same).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from queue import SimpleQueue
from threading import Thread

import torch
from torch import Tensor

from engine.errors import InvalidModel
from engine.residency import resident_fraction
from engine.tensor_file import TensorFile
from engine.timeline import Timeline
from engine.weights import Stored

READERS = 4
"""Threads: one reads the page cache at some 6 GB/s, a PCIe 5 link takes 50."""

BUFFER = 16 << 20
"""Bytes of one pinned buffer, of which a reader has two."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes of a file, and the numbers that they become."""

    file: TensorFile
    offset: int
    dtype: torch.dtype
    target: Tensor


class _Buffer:
    """Memory that is read into and copied from in turns."""

    def __init__(self, size: int, device: torch.device) -> None:
        on_device = device.type == "cuda"
        self._memory = torch.empty(size, dtype=torch.uint8, pin_memory=on_device)
        self._view = memoryview((ctypes.c_char * size).from_address(self._memory.data_ptr())).cast("B")
        self._copied = torch.cuda.Event() if on_device else None

    def fill(self, number: int, offset: int, count: int) -> None:
        """Read `count` bytes of the open file `number`, once the copy out of this buffer is done."""
        if self._copied is not None:
            self._copied.synchronize()
        done = 0
        while done < count:
            got = os.preadv(number, [self._view[done:count]], offset + done)
            if not got:
                raise OSError(f"it ends at byte {offset + done}")
            done += got

    def copy_to(self, target: Tensor, dtype: torch.dtype) -> None:
        """Begin to copy what was read, taken as numbers of `dtype`, to the device."""
        target.copy_(self._memory[: target.numel() * dtype.itemsize].view(dtype), non_blocking=True)
        if self._copied is not None:
            self._copied.record()


class Streamed:
    """See `Placement`. Tensors are given out before their numbers are there.

    Args:
        timeline: told how long each file took.
        settled: wait for each tensor, for a caller that looks at numbers at once.
        buffer: bytes of one pinned buffer.
    """

    def __init__(
        self, device: torch.device, timeline: Timeline, settled: bool = False, readers: int = READERS,
        buffer: int = BUFFER,
    ) -> None:
        self._device = device
        self._timeline = timeline
        self._settled = settled
        self._buffer = buffer
        self._readers = readers
        self._pieces: SimpleQueue[_Piece | None] = SimpleQueue()
        self._begun: dict[TensorFile, tuple[float, float]] = {}
        self._threads: list[Thread] = []
        self._errors: list[str] = []

    def place(self, parts: Sequence[Stored], dtype: torch.dtype) -> Tensor:
        """The parts joined along their first dimension, their numbers on the way."""
        rows = [part.entry.shape[0] for part in parts]
        whole = torch.empty((sum(rows), *parts[0].entry.shape[1:]), dtype=dtype, device=self._device)
        for part, target in zip(parts, whole.split(rows), strict=True):
            self._add(part, target.view(-1))
        if self._settled:
            self.finish()
        return whole

    def finish(self) -> None:
        """Wait until all that was placed has arrived.

        Raises:
            InvalidModel: a file could not be read to its end.
        """
        for _ in self._threads:
            self._pieces.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        if self._errors:
            raise InvalidModel(self._errors[0])
        for file, (start, fraction) in self._begun.items():
            self._tell(file, start, fraction)
        self._begun.clear()

    def _add(self, part: Stored, target: Tensor) -> None:
        if part.file not in self._begun:
            self._begun[part.file] = self._timeline.now(), resident_fraction(part.file.path) or 0.0
        step = self._buffer // part.dtype.itemsize
        for first, piece in zip(range(0, len(target), step), target.split(step), strict=True):
            offset = part.entry.begin + first * part.dtype.itemsize
            self._pieces.put(_Piece(part.file, offset, part.dtype, piece))
        if not self._threads:
            self._start()

    def _start(self) -> None:
        self._threads = [
            Thread(target=self._read, name=f"weights reader {number}", daemon=True) for number in range(self._readers)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        """A reader's life; what ends it early is told by `finish`, since its pieces are then not there."""
        try:
            self._bring_pieces()
        except Exception as error:
            self._errors.append(f"the weights cannot be read: {error}")

    def _bring_pieces(self) -> None:
        """Pieces in the order they were asked for, until there are no more."""
        stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        with torch.cuda.stream(stream), torch.inference_mode(), ExitStack() as files:
            opened: dict[TensorFile, int] = {}
            buffers = cycle([_Buffer(self._buffer, self._device) for _ in range(2)])
            while (piece := self._pieces.get()) is not None:
                try:
                    if piece.file not in opened:
                        opened[piece.file] = files.enter_context(piece.file.path.open("rb", buffering=0)).fileno()
                    _bring(piece, opened[piece.file], next(buffers))
                except Exception as error:
                    self._errors.append(f"{piece.file.path} cannot be read: {error}")
        if stream is not None:
            stream.synchronize()

    def _tell(self, file: TensorFile, start: float, fraction: float) -> None:
        end = self._timeline.now()
        rate = file.size / max(end - start, 1e-9) / 1e9
        self._timeline.add(
            f"weights {file.path.name}", start, end, bytes=file.size, gb_per_s=rate, resident_fraction=fraction,
        )


def _bring(piece: _Piece, number: int, buffer: _Buffer) -> None:
    buffer.fill(number, piece.offset, piece.target.numel() * piece.dtype.itemsize)
    buffer.copy_to(piece.target, piece.dtype)
