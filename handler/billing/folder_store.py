"""A folder that stands in for a bucket."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from handler.billing.store import StoredObject, StoreTrouble, same_content

_NEEDS_SOMEBODY = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.ENOENT,
}
_NO_HARD_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK}


class FolderStore:
    """Objects as files, each there whole or not at all, and on the disk once `put` has returned.

    Args:
        folder: is made when the first object is written. `~` is the home folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self._root = Path(os.path.abspath(Path(folder).expanduser()))  # noqa: PTH100 (`resolve` would follow links)
        self.place = f"file://{self._root}"

    def put(self, key: str, body: bytes) -> bool:
        """Write an object. True: it is written; False: it was there, the same.

        Raises:
            StoreTrouble: the disk's fault, or something else lies under this key.
        """
        target = self._path(key)
        with self._in_words("written"):
            _make_folder(target.parent)
            if _create(target, body):
                return True
            if same_content(target.read_bytes(), body):
                return False
        raise StoreTrouble(f"{self.place}: {key} holds something else; it is left as it is", refused=True)

    def keys(self, under: str = "") -> Iterator[StoredObject]:
        """Every object whose key begins with `under`, in the order of their keys.

        Raises:
            StoreTrouble: there is no such folder, or it cannot be read.
        """
        with self._in_words("read"):
            yield from _walk(self._root, "", under)

    def get(self, key: str) -> bytes:
        """An object's bytes.

        Raises:
            StoreTrouble: it is not there, or cannot be read.
        """
        with self._in_words("read"):
            return self._path(key).read_bytes()

    def renew(self) -> None:
        """Nothing is held that could be stale."""

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if not all(parts) or "\0" in key or any(part.startswith(".") for part in parts):
            raise StoreTrouble(f"{self.place}: not a key: {key!r}", refused=True)
        return self._root.joinpath(*parts)

    @contextlib.contextmanager
    def _in_words(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
            where = f" ({error.filename})" if error.filename else ""
            message = f"{self.place} cannot be {done}: {reason}{where}"
            raise StoreTrouble(message, refused=error.errno in _NEEDS_SOMEBODY) from error


def _create(target: Path, body: bytes) -> bool:
    """Whether the file was made; a file that is there already stays."""
    if target.exists():
        return False
    partial = target.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        if not _appear(partial, target):
            return False
        _sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)
    return True


def _appear(partial: Path, target: Path) -> bool:
    """Give the file its name, unless another has it."""
    try:
        target.hardlink_to(partial)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        partial.replace(target)  # Who comes in between writes the same: the key settles the content.
    return True


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that a loss of power does not take them away."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):  # Another has just made it; or it is a file, and writing will say so.
        folder.mkdir()
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _walk(folder: Path, above: str, under: str) -> Iterator[StoredObject]:
    """The folder's objects in the order in which S3 lists them; only where keys can begin with `under`."""
    with os.scandir(folder) as found:
        entries = sorted(((f"{above}{entry.name}{'/' * entry.is_dir()}", entry) for entry in found), key=_in_bytes)
    for key, entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if key.startswith(under) or under.startswith(key):
                yield from _walk(folder / entry.name, key, under)
        elif key.startswith(under):
            yield StoredObject(key, entry.stat().st_size)


def _in_bytes(entry: tuple[str, object]) -> bytes:
    return os.fsencode(entry[0])
