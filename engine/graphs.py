"""Decode steps recorded once and replayed: the host then starts one graph a step in place of hundreds of kernels.

A recording is of one batch size, so there are a few sizes, the buckets, and a smaller batch is filled up with lines of
a row that is nobody's. Sizes double: at most half the lines are filling, and while a step waits for weights to be read,
up to about 200 lines on the cards that serve, those cost next to nothing. All recordings share one pool of memory and
are replayed one at a time; since sizes double, whatever the order they are made in, together they take less than
twice what the largest takes alone. So the most used comes first, not the largest.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from engine.rows import staged
from engine.sampler import Drawn

_log = logging.getLogger("pilotlight.graphs")

Replay = Callable[[], Drawn]
"""Computes what was recorded, from what its inputs hold by then; the tensors it gives may be the same each time."""

Decode = Callable[[Tensor, Tensor], Drawn]
"""Computes one token a line, from rows and positions, [lines] int64 each, and writes down which was drawn."""


class Recorder(Protocol):
    """Makes recordings of what is launched on a device."""

    @property
    def bytes_used(self) -> int:
        """Device memory in use, by anyone."""

    def capture(self, function: Callable[[], Drawn]) -> Replay:
        """Record a function that reads and writes tensors which stay in place and never asks the host; it may be run.

        Raises:
            Exception: whatever keeps the device from recording it.
        """


class Rerun:
    """For a device without graphs: runs the function again each time, by which all but the capture can be tested."""

    bytes_used = 0

    def capture(self, function: Callable[[], Drawn]) -> Replay:
        """The function itself."""
        return function


class CudaRecorder:
    """CUDA graphs, in one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    @property
    def bytes_used(self) -> int:
        """See `Recorder.bytes_used`."""
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free

    def capture(self, function: Callable[[], Drawn]) -> Replay:
        """See `Recorder.capture`; waits for the device."""
        # Modules cannot be loaded nor cuBLAS's workspace be made during a capture, so the function runs once before:
        # the same kernels, for what is launched follows from the batch's size alone.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            function()
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile; only this one's calls are to be recorded.
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            drawn = function()

        def replay() -> Drawn:
            graph.replay()
            return drawn

        return replay


def open_recorder(device: torch.device) -> Recorder:
    """What records on a device."""
    return CudaRecorder(device) if device.type == "cuda" else Rerun()


class _Bucket:
    """The inputs of one batch size, which stay where they are, and its recording."""

    def __init__(self, size: int, padding_row: int, device: torch.device) -> None:
        self._size = size
        self._padding_row = padding_row
        # An even width, so that positions start on 16 bytes as kernels want it.
        self._inputs = torch.zeros((2, size + size % 2), dtype=torch.int64, device=device)
        self._inputs[0] = padding_row
        self.rows, self.positions = self._inputs[0, :size], self._inputs[1, :size]

    def fill(self, rows: Sequence[int], positions: Sequence[int]) -> None:
        """Send a step's inputs, on the device's own time."""
        missing = self._inputs.shape[1] - len(rows)
        filled = [[*rows, *[self._padding_row] * missing], [*positions, *[0] * missing]]
        self._inputs.copy_(staged(filled, self._inputs.device), non_blocking=True)


class DecodeGraphs:
    """The recorded decodes by batch size.

    Args:
        sizes: the buckets, rising; none for a device that has nothing to gain.
        decode: what is recorded.
        padding_row: a row that is nobody's.
    """

    def __init__(
        self, sizes: Sequence[int], recorder: Recorder, decode: Decode, padding_row: int, device: torch.device
    ) -> None:
        self._sizes = tuple(sizes)
        self._recorder = recorder
        self._decode = decode
        self._padding_row = padding_row
        self._device = device
        self._used = Counter[int]()
        self._recorded: dict[int, tuple[_Bucket, Replay]] = {}

    @property
    def recorded(self) -> tuple[int, ...]:
        """Batch sizes that are replayed, rising."""
        return tuple(sorted(self._recorded))

    def run(self, rows: Sequence[int], positions: Sequence[int]) -> tuple[Tensor, Tensor, Drawn] | None:
        """Start to compute one token for each row; None where no recording is made for so many.

        Returns:
            Rows and positions as tensors, [lines] each, and what was drawn. All may change at the next call.
        """
        size = next((size for size in self._sizes if size >= len(rows)), None)
        if size is None:
            return None
        self._used[size] += 1
        if size not in self._recorded:
            return None
        bucket, replay = self._recorded[size]
        bucket.fill(rows, positions)
        lines = len(rows)
        return bucket.rows[:lines], bucket.positions[:lines], replay().first(lines)

    def capture(self, idle: bool) -> bool:
        """Record the most used size that is not recorded yet.

        Args:
            idle: nobody waits for a token; else only a size that has been used is worth the wait.

        Returns:
            False when nothing was left to do, or is not worth it now.
        """
        missing = [size for size in self._sizes if size not in self._recorded]
        size = max(missing, key=self._used.__getitem__, default=None)
        if size is None or not (idle or self._used[size]):
            return False
        try:
            self._capture(size)
        except Exception as error:
            _log.warning("no graph for a batch of %d, nor for others; decoding goes on without: %s", size, error)
            self._sizes = self.recorded
        return True

    def _capture(self, size: int) -> None:
        started, bytes_before = time.monotonic(), self._recorder.bytes_used
        bucket = _Bucket(size, self._padding_row, self._device)
        replay = self._recorder.capture(lambda: self._decode(bucket.rows, bucket.positions))
        self._recorded[size] = bucket, replay
        seconds, taken = time.monotonic() - started, self._recorder.bytes_used - bytes_before
        _log.info("graph for a batch of %d: %.0f ms, %.1f MiB", size, 1000 * seconds, taken / 2**20)
