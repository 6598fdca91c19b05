"""The keys that may call."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from engine.errors import InvalidConfig
from handler.rate_limits import Limits


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, known by its SHA-256 digest alone.

    Attributes:
        name: for logs and metrics.
    """

    name: str
    digest: bytes = field(repr=False)
    limits: Limits = field(default_factory=Limits)


def digest_of(key: str) -> bytes:
    """What a key is known by: of one length for all, so that comparing tells nothing of a key's."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def keys_of_setting(keys: Iterable[str]) -> tuple[ApiKey, ...]:
    """The keys of `PILOTLIGHT_API_KEY`, whose names no key of a file can have."""
    return tuple(ApiKey(f"setting:{number}", digest_of(key)) for number, key in enumerate(keys, 1))


def check_distinct(keys: Iterable[ApiKey]) -> None:
    """Two names of one key would share neither limits nor blame; raises `InvalidConfig`."""
    known = list(keys)
    counts = Counter(key.digest for key in known)
    if same := [key.name for key in known if counts[key.digest] > 1]:
        raise InvalidConfig(f"{' and '.join(same)} are the same key")
