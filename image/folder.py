"""A folder that appears whole or not at all: filled under another name beside its place, and renamed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import InvalidModel, PilotlightError
from engine.manifest import MANIFEST, read_manifest

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class BakeFailed(PilotlightError):
    """A model that cannot be baked, or not to there."""


def require_free(out: Path, force: bool) -> None:
    """Refuse a place that holds something.

    Raises:
        BakeFailed: it is no empty folder, and not a baked one that may be replaced.
    """
    if out.is_mount():
        raise BakeFailed(f"{out} is a mount point, which cannot be put in place in one step; name a folder in it")
    if out.exists() and not out.is_dir():
        raise BakeFailed(f"{out} is a file; name a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / MANIFEST).is_file():
        raise BakeFailed(f"{out} is not empty and no baked folder; name another, or empty it")
    if not force:
        raise BakeFailed(f"{out} is a baked folder already; --force replaces it")
    strangers = sorted(_files(out) - _baked_files(out))
    if strangers:
        raise BakeFailed(f"{out} also holds {strangers[0]}, which no bake put there; move it away first")


def require_apart(out: Path, source: Path) -> None:
    """Refuse to put a model in the place of what it is made of.

    Raises:
        BakeFailed: one of the two folders is the other, or lies in it.
    """
    if out == source or out in source.parents or source in out.parents:
        raise BakeFailed(f"{out} and {source}, which it would be made of, lie in each other; name another folder")


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def _baked_files(folder: Path) -> set[str]:
    """The files that the folder's manifest accounts for; just itself where it cannot be read."""
    try:
        manifest = read_manifest(folder)
    except InvalidModel:
        manifest = None
    return {MANIFEST, *(manifest.files if manifest is not None else ())}


def require_room(out: Path, needed: int) -> None:
    """Refuse a disk that is too small, before hours of work.

    Raises:
        BakeFailed: fewer than `needed` bytes are free.
    """
    free = shutil.disk_usage(out.parent).free
    if needed > free:
        raise BakeFailed(f"{out}: no space left: {needed} bytes are to be written, {free} are free")


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A new folder to fill; it takes the place of `out` when the block ends, and is removed if that fails.

    What a killed process left there is removed first; one that is alive is left in peace.

    Raises:
        BakeFailed: another process fills it, or the disk is full.
    """
    draft = out.with_name(f".{out.name}.baking")
    descriptor = _claim(draft, out)
    try:
        _empty(draft)
        yield draft
        _publish(draft, out)
    except OSError as error:
        if error.errno in _FULL:
            raise BakeFailed(f"{out}: no space left ({error.strerror}): free some, or name another disk") from error
        raise
    finally:
        if _is_ours(draft, descriptor):
            shutil.rmtree(draft, ignore_errors=True)
        os.close(descriptor)


def _claim(draft: Path, out: Path) -> int:
    """Make the folder and lock it; where the file system knows no locks, two at once are not noticed."""
    draft.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = _is_ours(draft, descriptor)
    except BlockingIOError:
        held = False
    except OSError:
        held = True
    if not held:
        os.close(descriptor)
        raise BakeFailed(f"{out} is being baked by another process")
    return descriptor


def _is_ours(draft: Path, descriptor: int) -> bool:
    """Whether the name still means the folder that was opened."""
    try:
        return os.path.samestat(draft.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _publish(draft: Path, out: Path) -> None:
    """Bring all to the disk, then rename. A folder that is replaced is gone for the moment between two renames."""
    for path in [*draft.rglob("*"), draft]:
        _sync(path)
    replaced = out.with_name(f".{out.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if out.is_dir() and any(out.iterdir()):
        out.rename(replaced)
    draft.rename(out)
    _sync(out.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
