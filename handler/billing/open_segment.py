"""The segment that is being written: what it holds is always whole, also when the disk gives out."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from handler.billing.segment import OPEN, SEALED, SegmentName


class OpenSegment:
    """A file that lines are added to.

    Args:
        folder: where it is made.
        name: its chain and first line, no last.

    Attributes:
        size: bytes of whole lines, all of them on the disk.
        count: how many lines.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, folder: Path, name: SegmentName) -> None:
        self.name = name
        self.size = 0
        self.count = 0
        self._last = name.first
        self._torn = False
        self._path = folder / name.file(OPEN)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            sync_folder(folder)
        except OSError:
            os.close(self._file)
            raise

    def append(self, lines: list[bytes], last: int) -> None:
        """Write whole lines and have them on the disk.

        Args:
            last: the number of the last one.

        Raises:
            OSError: none of them is in the file.
        """
        if self._torn:
            os.ftruncate(self._file, self.size)
        data = b"".join(lines)
        try:
            _write(self._file, data, self.size)
            os.fsync(self._file)
        except OSError:
            self._torn = True
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self.size)
            raise
        self._torn = False
        self.size += len(data)
        self.count += len(lines)
        self._last = last

    def is_ours(self) -> bool:
        """Whether the file is still where it was made, and nobody else has written to it.

        Raises:
            OSError: it cannot be told.
        """
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        here = os.fstat(self._file)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino) and (self._torn or there.st_size == self.size)

    def seal(self) -> None:
        """Give it the name of a segment to which nothing more is added, and close it.

        Raises:
            OSError: it is open as before.
        """
        if self._torn:
            os.ftruncate(self._file, self.size)
            self._torn = False
        os.fsync(self._file)
        sealed = SegmentName(self.name.epoch, self.name.nonce, self.name.first, self._last)
        self._path.rename(self._path.with_name(sealed.file(SEALED)))
        with contextlib.suppress(OSError):  # It has the name; whether that outlives a power cut is all that is open.
            sync_folder(self._path.parent)
        self.close()

    def close(self) -> None:
        """Leave the file as it is."""
        os.close(self._file)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk.

    Raises:
        OSError: they may not be.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(file: int, data: bytes, offset: int) -> None:
    """All of the bytes: a disk that fills up takes a part first, and only then says no."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
