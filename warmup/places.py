"""Where the warmer's memory lies. Two warmers never both write it: each write names the version that it replaces."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from handler.billing.replacing import replacing
from warmup.errors import InvalidSetting, WarmerError

if TYPE_CHECKING:
    from handler.billing.bucket import BucketStore

STATE: Final = "warmer.json"
STOP: Final = "STOP"
_PROBE: Final = "probe"


class PlaceTrouble(WarmerError):
    """The memory cannot be read or written now."""


class Unsafe(WarmerError):
    """Two warmers could both act on what is kept here."""


class Outrun(WarmerError):
    """Another has written since this one has read."""


class Kept(NamedTuple):
    """What is kept, and what names this version of it."""

    text: str
    tag: str


class Place(Protocol):
    """Every method may raise PlaceTrouble.

    Attributes:
        name: as its user would write it.
    """

    @property
    def name(self) -> str: ...

    def check(self) -> None:
        """Raise Unsafe if writes cannot be conditional here."""

    def read(self) -> Kept | None:
        """The memory; None before the first write."""

    def write(self, text: str, tag: str | None) -> str:
        """Replace the version of this tag (None: there was none), and give the new one's; raises Outrun."""

    def is_stopped(self) -> bool:
        """Whether somebody has put a STOP beside it."""

    def recall(self, name: str) -> bytes | None:
        """Something that is only kept to spare work."""

    def keep(self, name: str, body: bytes) -> None:
        """Keep such a thing; whoever comes last wins."""


def open_place(text: str, alone: bool = False) -> Place:
    """The place that a text names: a folder, `file://FOLDER` or `s3://BUCKET/PREFIX`.

    Args:
        alone: no other warmer writes there.

    Raises:
        InvalidSetting: it is none of these.
    """
    if text.startswith("s3://"):
        from handler.billing.bucket import BucketStore

        bucket, _, prefix = text.removeprefix("s3://").partition("/")
        if not bucket:
            raise InvalidSetting("the state's place: write s3://BUCKET/PREFIX")
        return BucketPlace(BucketStore(bucket, prefix.strip("/")), alone)
    if "://" in text and not text.startswith("file:///"):
        raise InvalidSetting("the state's place: write a folder, file:///FOLDER or s3://BUCKET/PREFIX")
    return FolderPlace(Path(text.removeprefix("file://")).expanduser().absolute())


class FolderPlace:
    """A folder that one or more processes of a machine, or of several with a file system that locks, share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def name(self) -> str:
        return str(self._folder)

    def check(self) -> None:
        """Locks hold."""
        with _in_words(self.name):
            self._folder.mkdir(parents=True, exist_ok=True)

    def read(self) -> Kept | None:
        body = self.recall(STATE)
        return None if body is None else Kept(body.decode("utf-8", "replace"), _digest(body))

    def write(self, text: str, tag: str | None) -> str:
        body = text.encode()
        with _in_words(self.name), self._locked():
            there = self.read()
            if (there and there.tag) != tag:
                raise Outrun(f"{self.name}: another warmer has written meanwhile")
            self.keep(STATE, body)
        return _digest(body)

    def is_stopped(self) -> bool:
        return (self._folder / STOP).exists()

    def recall(self, name: str) -> bytes | None:
        with _in_words(self.name), contextlib.suppress(FileNotFoundError):
            return (self._folder / name).read_bytes()
        return None

    def keep(self, name: str, body: bytes) -> None:
        """Whole or not at all, and on the disk once this has returned."""
        with _in_words(self.name):
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._folder / name) as draft, draft.open("wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        import fcntl

        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class BucketPlace:
    """Below a prefix of a bucket.

    S3 servers differ: AWS and others keep to `If-Match` and `If-None-Match`; some refuse the former (Swift), some
    overlook both (s3rver). On those two warmers could both write, so `check` refuses them unless the warmer is alone.
    """

    def __init__(self, store: BucketStore, alone: bool = False) -> None:
        self._store = store
        self._alone = alone

    @property
    def name(self) -> str:
        return self._store.place

    def check(self) -> None:
        """Try both conditions on an object made for it."""
        if self._alone:
            return
        with _in_words(self.name):
            self._store.overwrite(_PROBE, b"probe")
        if not (self._denies(None) and self._denies('"0123456789abcdef0123456789abcdef"')):
            raise Unsafe(
                f"{self.name}: the server does not keep to conditional writes (If-Match, If-None-Match), so two "
                "warmers could both ping; keep the state elsewhere, or say --alone if no other warmer shares it"
            )

    def read(self) -> Kept | None:
        with _in_words(self.name):
            found = self._store.read(STATE)
        return None if found is None else Kept(found[0].decode("utf-8", "replace"), found[1])

    def write(self, text: str, tag: str | None) -> str:
        with _in_words(self.name):
            if self._alone:
                return self._store.overwrite(STATE, text.encode())
            new = self._store.replace(STATE, text.encode(), tag)
        if new is None:
            raise Outrun(f"{self.name}: another warmer has written meanwhile")
        return new

    def is_stopped(self) -> bool:
        return self.recall(STOP) is not None

    def recall(self, name: str) -> bytes | None:
        with _in_words(self.name):
            found = self._store.read(name)
        return None if found is None else found[0]

    def keep(self, name: str, body: bytes) -> None:
        with _in_words(self.name):
            self._store.overwrite(name, body)

    def _denies(self, tag: str | None) -> bool:
        """Whether a write is refused whose condition does not hold."""
        from handler.billing.store import StoreTrouble

        try:
            return self._store.replace(_PROBE, b"probe", tag) is None
        except StoreTrouble as trouble:
            if trouble.refused:
                return False
            raise PlaceTrouble(str(trouble)) from None


@contextlib.contextmanager
def _in_words(name: str) -> Iterator[None]:
    from handler.billing.store import StoreTrouble

    try:
        yield
    except StoreTrouble as trouble:
        raise PlaceTrouble(str(trouble)) from None
    except OSError as error:
        raise PlaceTrouble(f"{name}: {error.strerror or type(error).__name__}") from None


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
