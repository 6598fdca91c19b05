"""The folder of one boot's journal: whose it is, and what is in it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
from pathlib import Path
from typing import Final

from handler.billing.open_segment import sync_folder
from handler.billing.segment import DONE, OPEN, SEALED, SegmentName

LOCK: Final = "lock"
"""Held by the process that writes the folder, for life, and by those who recover it. Its time is the last sign of a
worker whose lines cannot be written."""

_TAKEN: Final = ".taken-"

_log = logging.getLogger("pilotlight.journal")


class HeldElsewhere(Exception):
    """A process on this machine has the folder's lock: it lives, or it is frozen."""


class Folder:
    """A folder that this process holds.

    Raises:
        OSError: it cannot be made.
        HeldElsewhere: another process has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._identity = _identity(path)
        self._lock = hold(path)

    def is_ours(self) -> bool:
        """Whether the folder is still the one that this process made: nobody has recovered, removed or emptied it.

        Raises:
            OSError: it cannot be told.
        """
        try:
            lock = (self.path / LOCK).stat()
            return _identity(self.path) == self._identity and os.path.samestat(lock, os.fstat(self._lock))
        except FileNotFoundError:
            return False

    def give_sign(self) -> None:
        """Show to those who recover that the worker lives. Works on a full disk too."""
        with contextlib.suppress(OSError):
            os.utime(self._lock)

    def release(self) -> None:
        """Let go of it, whatever is in it."""
        os.close(self._lock)


def hold(folder: Path) -> int:
    """Take a folder's lock, and give its file, which is to be kept open.

    A file system without locks leaves it at that: lines that keep coming then say alone that their worker lives.

    Raises:
        HeldElsewhere: another process has it.
        OSError: the file cannot be made.
    """
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise HeldElsewhere from None
    except OSError:
        _log.debug("no locks on the file system of %s", folder)
    return lock


def segments(folder: Path, *suffixes: str) -> list[tuple[Path, SegmentName]]:
    """The segments with these ends to their names, each chain from its first to its last.

    Raises:
        OSError: the folder cannot be read.
    """
    found = [(path, SegmentName.parse(path.name)) for path in folder.iterdir() if path.suffix in suffixes]
    return sorted(((path, name) for path, name in found if name is not None), key=lambda segment: str(segment[1]))


def take(folder: Path) -> Path:
    """Take a folder from its worker, for good: it has another name now, under which its worker does not look for it.

    Raises:
        OSError: it cannot be renamed, or somebody else has just done so.
    """
    if is_taken(folder):
        return folder
    taken = folder.with_name(f"{folder.name}{_TAKEN}{secrets.token_hex(2)}")
    folder.rename(taken)
    sync_folder(taken.parent)
    return taken


def is_taken(folder: Path) -> bool:
    """Whether somebody has begun to recover the folder."""
    return _TAKEN in folder.name


def boot_of(folder: Path) -> str:
    """Whose journal it is."""
    return folder.name.partition(_TAKEN)[0]


def remove_empty(folder: Path) -> list[str]:
    """Remove a folder in which only the lock is left; otherwise what else there is.

    Raises:
        OSError: it cannot be removed.
    """
    others = sorted(path.name for path in folder.iterdir() if path.name != LOCK)
    if not others:
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()
    return others


def all_segments(folder: Path) -> list[tuple[Path, SegmentName]]:
    """The segments of whatever kind. Raises as `segments` does."""
    return segments(folder, OPEN, SEALED, DONE)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
