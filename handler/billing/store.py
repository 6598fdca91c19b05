"""Where the ledger lies: what a bucket and a folder have in common, and how either is named."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

from engine.errors import InvalidConfig, PilotlightError

FORMS = "s3://BUCKET/PREFIX, file://FOLDER or a folder's path"


class StoreTrouble(PilotlightError):
    """The store did not do what it was asked. The message holds no secret: no key, no signature, no password.

    Attributes:
        refused: it says no, and will until somebody changes something; otherwise a later attempt may well succeed.
    """

    def __init__(self, message: str, refused: bool) -> None:
        super().__init__(message)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a store.

    Attributes:
        key: its name below the store's prefix, in parts separated by `/`.
        size: bytes.
    """

    key: str
    size: int


class Store(Protocol):
    """Objects by key. Every method may raise StoreTrouble. Any thread may call.

    Attributes:
        place: the URL that names the store.
    """

    place: str

    def put(self, key: str, body: bytes) -> bool:
        """Write an object whose key settles its content. True: it is written; False: it was there, the same."""

    def keys(self, under: str = "") -> Iterator[StoredObject]:
        """Every object whose key begins with `under`, in the order of their keys."""

    def get(self, key: str) -> bytes:
        """An object's bytes."""

    def renew(self) -> None:
        """Let go of connections: after a freeze they may be dead."""


def open_store(url: str) -> Store:
    """The store that a URL names. Nothing is read, written or connected to before the store is used.

    Args:
        url: `s3://BUCKET/PREFIX`, `file://FOLDER`, or a path, with `~` for the home folder.

    Raises:
        InvalidConfig: it is none of these. What was given is not repeated: it may hold a password.
    """
    from handler.billing.bucket import BucketStore
    from handler.billing.folder_store import FolderStore

    scheme, separator, rest = url.strip().partition("://")
    if scheme == "s3" and separator:
        return BucketStore(*_bucket_and_prefix(rest))
    if scheme == "file" and rest:
        return FolderStore(unquote(rest.removeprefix("localhost") if rest.startswith("localhost/") else rest))
    if scheme and not separator and not scheme.startswith(("s3:", "file:")):
        return FolderStore(scheme)
    raise InvalidConfig(f"a ledger is {FORMS}")


def same_content(there: bytes, body: bytes) -> bool:
    """Whether two objects say the same; another zlib may have compressed the one differently."""
    if there == body:
        return True
    try:
        content = gzip.decompress(body)
        with gzip.GzipFile(fileobj=io.BytesIO(there)) as unpacked:
            return unpacked.read(len(content) + 1) == content
    except (OSError, EOFError, zlib.error):
        return False


def _bucket_and_prefix(rest: str) -> tuple[str, str]:
    bucket, _, prefix = rest.partition("/")
    # S3 allows letters, digits, dots and hyphens; servers of other makes underscores too.
    if not bucket or bucket.strip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"):
        raise InvalidConfig(f"s3://BUCKET/PREFIX needs the bucket's plain name, and no keys: a ledger is {FORMS}")
    return bucket, prefix.strip("/")
