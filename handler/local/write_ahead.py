"""The queue's record on the disk: an append-only file, in which each entry is checksummed."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from engine.errors import InvalidConfig
from handler.billing.open_segment import sync_folder
from handler.billing.segment import decode, encode, split
from handler.local.job import Bell
from handler.local.record import Entry, RecordFailed

RETRY_S: Final = 1.0
"""After a failure: how soon the disk is tried again."""
SLACK: Final = 64 << 20
"""Bytes of entries that are of no use any more, beside as many as are of use, before the file is written anew."""

_log = logging.getLogger("pilotlight.local")


@contextmanager
def sole_use(path: Path) -> Iterator[None]:
    """Have the file, and what is written beside it, to oneself.

    Raises:
        InvalidConfig: another process has it, or it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidConfig(f"the endpoint cannot keep its jobs in {path.parent}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InvalidConfig(f"another endpoint keeps its jobs in {path.parent}") from None
    finally:
        os.close(lock)


def read(path: Path) -> list[Entry]:
    """The entries of a file but those that are torn or damaged; none where there is no file.

    Each entry stands for itself: what follows a damaged one is as good as what is before it.

    Raises:
        InvalidConfig: it cannot be read.
    """
    try:
        lines = list(split(path.read_bytes()))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InvalidConfig(f"the endpoint's jobs cannot be read from {path}: {error.strerror}") from error
    entries: list[Entry] = [entry for line in lines if line.endswith(b"\n") and (entry := decode(line)) is not None]
    if lost := len(lines) - len(entries):
        _log.warning("%s: %d of %d entries are torn or damaged, and are dropped", path, lost, len(lines))
    return entries


class WriteAhead:
    """Writes entries in groups: while one group goes to the disk, the next one gathers.

    It begins with `rewrite`. It belongs to one event loop, and does its writing on another thread.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._size = self._needed = 0
        self._pending: list[bytes] = []
        self._anew = False
        self._count = self._safe = self._tries = 0
        self._trouble: OSError | None = None
        self._tried = Bell()
        self._writing: asyncio.Task[None] | None = None

    def write(self, entry: Entry) -> None:
        """Add an entry; it is on the disk once `written` says so."""
        self._add(encode(entry, str(self._count)))

    async def written(self) -> None:
        """Wait until every entry so far is on the disk.

        Raises:
            RecordFailed: the disk does not take them. They are tried again.
        """
        wanted, tries = self._count, self._tries
        while self._safe < wanted:
            if self._trouble is not None and self._tries > tries:
                raise RecordFailed(f"jobs cannot be kept in {self._path}: {self._trouble.strerror}")
            await self._tried.wait()

    def wants_rewriting(self) -> bool:
        """Whether most of the file is of no use any more."""
        return not self._anew and self._size > 2 * self._needed + SLACK

    def rewrite(self, entries: Iterable[Entry]) -> None:
        """Replace the file by one that holds these. Until that is done the old one is whole."""
        self._pending.clear()
        self._anew = True
        self._add(b"".join(encode(entry, str(number)) for number, entry in enumerate(entries)))

    async def close(self) -> None:
        """Write what there is to be written, and close the file."""
        with suppress(RecordFailed):
            await self.written()
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _add(self, data: bytes) -> None:
        self._count += 1
        self._pending.append(data)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_pending())

    async def _write_pending(self) -> None:
        while self._pending:
            lines, count, anew = self._pending, self._count, self._anew
            self._pending, self._anew = [], False
            try:
                await asyncio.to_thread(self._replace if anew else self._append, b"".join(lines))
            except OSError as error:
                self._fail(error, lines, anew)
                await asyncio.sleep(RETRY_S)
            else:
                self._succeed(count)
        self._writing = None

    def _succeed(self, count: int) -> None:
        if self._trouble is not None:
            _log.warning("%s: jobs are kept again", self._path)
        self._safe, self._trouble = count, None
        self._tell()

    def _fail(self, error: OSError, lines: list[bytes], anew: bool) -> None:
        if self._trouble is None:
            _log.error("%s: jobs cannot be kept: %s", self._path, error.strerror)
        self._trouble = error
        if not self._anew:  # Otherwise what failed is not wanted any more.
            self._pending[:0] = lines
            self._anew = anew
        self._tell()

    def _tell(self) -> None:
        self._tries += 1
        self._tried.ring()

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        os.ftruncate(self._file, self._size)  # A failed try may have left a part.
        _write(self._file, data, self._size)
        os.fdatasync(self._file)
        self._size += len(data)

    def _replace(self, data: bytes) -> None:
        fresh = self._path.with_suffix(".new")
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write(file, data, 0)
            os.fsync(file)
            fresh.rename(self._path)
            sync_folder(self._path.parent)
        except OSError:
            os.close(file)
            fresh.unlink(missing_ok=True)
            raise
        if self._file is not None:
            os.close(self._file)
        self._file, self._size, self._needed = file, len(data), len(data)


def _write(file: int, data: bytes, offset: int) -> None:
    """All of the bytes: a disk that fills up takes a part first."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
