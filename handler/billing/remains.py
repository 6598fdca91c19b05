"""What a killed worker left on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path

from handler.billing.journal_folder import LOCK, all_segments
from handler.billing.lines import Line
from handler.billing.segment import DONE, OPEN, SegmentName, decode, seq_of, split


@dataclass(frozen=True, slots=True)
class Remains:
    """A segment as it was read.

    Attributes:
        raw: its whole lines, as they stand in the file.
        damaged: how many lines it has besides. A last one without an end is none where the segment was open: whoever
            wrote it was told of nothing.
        version: tells whether the file has changed since.
    """

    path: Path
    name: SegmentName
    raw: bytes
    lines: list[Line]
    damaged: int
    version: tuple[int, int]

    @property
    def is_done(self) -> bool:
        return self.path.suffix == DONE

    @property
    def last(self) -> int:
        """The number of its last line, as far as it can be told."""
        last = seq_of(self.lines[-1]) if self.lines else self.name.first - 1 + self.damaged
        return max(last, self.name.last or 0)

    def has_changed(self) -> bool:
        """Whether somebody has written to the file since. Raises FileNotFoundError where somebody has removed it."""
        return _version(self.path) != self.version


def read(path: Path, name: SegmentName) -> Remains:
    """Read a segment, whatever has happened to it.

    Raises:
        OSError: it cannot be read.
    """
    version = _version(path)
    pieces = list(split(path.read_bytes()))
    if pieces and path.suffix == OPEN and not pieces[-1].endswith(b"\n"):
        pieces.pop()
    whole = [(raw, line) for raw in pieces if raw.endswith(b"\n") and (line := decode(raw)) is not None]
    lines = [line for _, line in whole]
    return Remains(path, name, b"".join(raw for raw, _ in whole), lines, len(pieces) - len(whole), version)


def last_sign(folder: Path) -> float:
    """When the folder's worker was last heard of, in seconds since 1970: by its newest lines, or by its lock's time.

    Raises:
        OSError: the folder cannot be read.
    """
    written = []
    for _, chain in groupby(all_segments(folder), lambda segment: segment[1].chain):
        newest = next(filter(None, (_last_line(path) for path, _ in reversed(list(chain)))), None)
        if newest is not None:
            written.append(datetime.fromisoformat(newest["written"]).timestamp())
    signs = [folder / LOCK] if written else [folder, *folder.iterdir()]
    return max([*written, *(path.stat().st_mtime for path in signs if path.exists())], default=0.0)


def _last_line(path: Path) -> Line | None:
    for raw in reversed(list(split(path.read_bytes()))):
        line = decode(raw)
        if line is not None:
            return line
    return None


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
