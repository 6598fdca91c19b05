"""What the queue writes down, so that it can be told again after a restart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from engine.errors import PilotlightError

Entry = Mapping[str, Any]
"""One thing that has happened to a job; JSON."""


class RecordFailed(PilotlightError):
    """What was to be kept could not be written."""


class Record(Protocol):
    """Entries in their order."""

    def write(self, entry: Entry) -> None:
        """Add an entry; it may be on the disk only later."""

    async def written(self) -> None:
        """Wait until every entry so far is on the disk.

        Raises:
            RecordFailed: it could not be written, and will be tried again.
        """

    def wants_rewriting(self) -> bool:
        """Whether most of what it holds is of no use any more."""

    def rewrite(self, entries: Iterable[Entry]) -> None:
        """Replace all that was written so far."""


class Unrecorded:
    """A record for a queue that ends with its process."""

    def write(self, entry: Entry) -> None:
        """Forget it."""

    async def written(self) -> None:
        """There is nothing to wait for."""

    def wants_rewriting(self) -> bool:
        """Never."""
        return False

    def rewrite(self, entries: Iterable[Entry]) -> None:
        """Forget them."""
