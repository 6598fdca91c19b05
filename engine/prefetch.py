"""Brings a model's weights into the page cache while the interpreter is still importing: standard library only.

What a boot waits for longest is the import of torch, in which the storage would stand idle. The bytes are read here in
the order the engine will ask for them; whoever maps the files afterwards finds them in memory. A boot is right without
it, so nothing that goes wrong here is an error.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread

from engine.residency import medium, resident_fraction
from engine.tensor_file import read_header, reading_order, weight_files
from engine.timeline import Timeline, Value

WINDOW = 4 << 20
"""Bytes a reader asks for at once, and all the memory of its own that it takes: large enough for the storage to be
read in sequence, small enough to stay in the processor's cache (`benchmarks/cold_start.py`)."""

READERS = {"local": 2, "overlay": 2, "network": 8}
"""Threads by storage: a local disk is busy with two, a network answers more at once."""

_RESIDENT = 0.99

_GAP = 4096
"""Bytes; a baked file's tensors are so far apart at most."""


@dataclass(frozen=True, slots=True)
class Read:
    """What was done about one file; seconds on the monotonic clock.

    Attributes:
        resident_fraction: how much of it was in memory before; 0 where that cannot be told.
    """

    file: Path
    bytes: int
    resident_fraction: float
    medium: str
    started: float
    ended: float


def prefetch(folder: Path, timeline: Timeline) -> Prefetch:
    """Begin to read a folder's weights; the timeline is told of each file."""

    def tell(read: Read) -> None:
        start, end = read.started - timeline.origin, read.ended - timeline.origin
        about: dict[str, Value] = {"bytes": read.bytes, "resident_fraction": read.resident_fraction}
        timeline.add(f"prefetch {read.file.name}", start, end, medium=read.medium, **about)

    return Prefetch(folder, tell)


class Prefetch:
    """Reads a folder's weights in threads of its own, from its making on.

    Args:
        on_read: told of each file when it is done with, from one of the threads.
    """

    def __init__(self, folder: Path, on_read: Callable[[Read], object]) -> None:
        self._on_read = on_read
        self._stopped = False
        self._thread = Thread(target=self._run, args=(folder,), name="prefetch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read no further."""
        self._stopped = True

    def wait(self, timeout: float | None = None) -> bool:
        """Whether all is read, within so many seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self, folder: Path) -> None:
        try:
            for file in weight_files(folder):
                self._on_read(self._read(file))
        except Exception:  # A boot that finds the same will say it better.
            return

    def _read(self, file: Path) -> Read:
        started = time.monotonic()
        header = read_header(file)
        spans = _windows([(entry.begin, entry.end) for entry in reading_order(header)])
        kind, fraction = medium(file), resident_fraction(file) or 0.0
        if fraction < _RESIDENT:
            self._read_in_parallel(file, spans, READERS[kind])
        return Read(file, header.size, fraction, kind, started, time.monotonic())

    def _read_in_parallel(self, file: Path, spans: Iterator[tuple[int, int]], readers: int) -> None:
        lock = Lock()

        def take() -> tuple[int, int] | None:
            with lock:
                return None if self._stopped else next(spans, None)

        threads = [
            Thread(target=_read_spans, args=(file, take), name="prefetch reader", daemon=True) for _ in range(readers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _read_spans(file: Path, take: Callable[[], tuple[int, int] | None]) -> None:
    """Read spans until there is none left, into memory that is used again for each."""
    try:
        with file.open("rb", buffering=0) as opened, mmap.mmap(-1, WINDOW) as buffer, memoryview(buffer) as window:
            while (span := take()) is not None:
                begin, end = span
                os.preadv(opened.fileno(), [window[: end - begin]], begin)
    except (OSError, ValueError):
        return


def _windows(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same bytes in the same order, neighbours joined over small gaps, in pieces of a window at most."""
    joined: list[list[int]] = []
    for begin, end in spans:
        if joined and 0 <= begin - joined[-1][1] <= _GAP:
            joined[-1][1] = end
        else:
            joined.append([begin, end])
    for begin, end in joined:
        for at in range(begin, end, WINDOW):
            yield at, min(at + WINDOW, end)
