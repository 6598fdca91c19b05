"""What is in memory before a boot: the lanes of a measurement, prepared and then proved by probing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from engine.errors import PilotlightError
from engine.residency import resident_fraction
from engine.tensor_file import weight_files

Lane = Literal["weights-cold", "host-cold", "resident"]

COLD = 0.02
"""Share of the weights that may still be resident in a cold lane: what the probing itself brings in, and rounding."""

_BLOCK = 16 << 20
"""Bytes of one read; `dd bs=16M` is what the rate compares with."""
_MOST_MEASURED = 2 << 30
"""Bytes that are read at most to measure a rate."""


class LaneNotReached(PilotlightError):
    """The machine could not be brought into the state that was asked for."""


@dataclass(frozen=True, slots=True)
class Residency:
    """Shares of bytes in the page cache, as probed just before a run; None where the file system does not tell.

    Attributes:
        weights: of the model's safetensors files.
        libraries: of the packages' shared libraries and byte-code, where the lane is about them.
    """

    weights: float | None
    libraries: float | None = None

    def describe(self) -> str:
        """For a person."""
        parts = [f"{_percent(self.weights)} of the weights resident"]
        if self.libraries is not None:
            parts.append(f"{_percent(self.libraries)} of the libraries")
        return ", ".join(parts)


def prepare(lane: Lane | None, folder: Path) -> Residency:
    """Bring the machine into a lane, or leave it as it is, and say what is resident.

    Raises:
        InvalidModel: the folder holds no weights.
        LaneNotReached: weights stay that should go, or go that should stay.
    """
    weights = weight_files(folder)
    if lane == "resident":
        for path in weights:
            read(path)
    elif lane is not None:
        evict(path for path in folder.rglob("*") if path.is_file())
    libraries = library_files() if lane == "host-cold" else []
    if libraries:
        evict(libraries)
    found = Residency(residency(weights), residency(libraries) if libraries else None)
    _check(lane, found.weights)
    return found


def library_files() -> list[Path]:
    """Shared libraries and byte-code of everything that is installed beside torch."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return []
    installed = Path(spec.origin).parent.parent
    found = (path for path in installed.rglob("*") if path.suffix == ".pyc" or ".so" in path.suffixes)
    return [path for path in found if path.is_file()]


def evict(paths: Iterable[Path]) -> None:
    """Take files out of the page cache; pages that a process has mapped stay."""
    os.sync()  # What is not yet written could not be dropped; file by file it takes minutes for thousands.
    for path in paths:
        with suppress(OSError), _opened(path) as file:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def read(path: Path, most: int | None = None) -> int:
    """Read a file front to back as `dd` does, or its first bytes; gives how many were read."""
    buffer, done = bytearray(_BLOCK), 0
    with _opened(path) as file:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while (most is None or done < most) and (count := os.readv(file, [buffer])):
            done += count
    return done


def read_rate(paths: Sequence[Path], *, cold: bool) -> float:
    """Bytes a second of one sequential reader, from storage or from the page cache."""
    if cold:
        evict(paths)
    started, done = time.monotonic(), 0
    for path in paths:
        done += read(path, _MOST_MEASURED - done)
        if done >= _MOST_MEASURED:
            break
    return done / (time.monotonic() - started)


def residency(paths: Sequence[Path]) -> float | None:
    """Share of the files' bytes that is in the page cache, from samples; None where that cannot be told."""
    total, resident = 0, 0.0
    for path in paths:
        size = path.stat().st_size
        share = resident_fraction(path)
        if share is None:
            return None
        total, resident = total + size, resident + share * size
    return resident / total if total else None


def _check(lane: Lane | None, weights: float | None) -> None:
    if weights is None or lane is None:
        return
    if lane == "resident" and weights < 1 - COLD:
        raise LaneNotReached(f"lane resident: only {_percent(weights)} of the weights stay in memory after reading all")
    if lane != "resident" and weights > COLD:
        raise LaneNotReached(
            f"lane {lane}: {_percent(weights)} of the weights cannot be evicted; another process has them mapped"
        )


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{share:.0%}"


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)
