"""What the serving side asks of the books, and what there is when none are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from handler.billing.books import Entry
from handler.billing.lines import Asked, Outcome
from handler.billing.meter import Phase

Standing = Literal["off", "ok", "retrying", "refused", "journal failing"]


@dataclass(frozen=True, slots=True)
class RecordStatus:
    """How the record of billed time stands.

    Attributes:
        ms: milliseconds in the journal so far, by phase and mark.
        waiting: segments that are not in the ledger yet.
        uploaded: segments that this process has brought there.
        attempts_failed: uploads that failed.
        ledger_trouble: why nothing reaches the ledger; None where it does.
        refused: whether that will not mend by itself.
        journal_trouble: why the journal cannot be written; None where it can.
        lost_lines: given up because memory was full, too.
        journals_lost: how often the journal was removed, or recovered by others, while this process wrote it.
    """

    ms: Counter[tuple[Phase, bool | None]] = field(default_factory=Counter)
    waiting: int = 0
    uploaded: int = 0
    attempts_failed: int = 0
    ledger_trouble: str | None = None
    refused: bool = False
    journal_trouble: str | None = None
    lost_lines: int = 0
    journals_lost: int = 0
    is_kept: bool = True

    @property
    def standing(self) -> Standing:
        """All of it in one word or two."""
        if not self.is_kept:
            return "off"
        if self.journal_trouble:
            return "journal failing"
        if self.ledger_trouble:
            return "refused" if self.refused else "retrying"
        return "ok"


class Recorder(Protocol):
    """Takes down a worker's life. Any thread may call; `enter` and `leave` never wait for a disk or a network."""

    @property
    def status(self) -> RecordStatus:
        """How the record stands."""

    def ready(self, ready_ms: int, spans: Sequence[Mapping[str, Any]]) -> None:
        """The worker can serve, so many milliseconds after it began; `spans` are its boot's timeline."""

    def enter(self, asked: Asked) -> Entry | None:
        """A request is taken in; None where no books are kept."""

    def leave(self, entry: Entry, outcome: Outcome) -> None:
        """A request has ended; a second end is no error and changes nothing."""

    def drain(self) -> None:
        """The worker is told to end."""

    def close(self, within_s: float) -> bool:
        """Write the end of the worker's life; whether all of it has reached the ledger in so many seconds."""


class NoRecord:
    """Keeps no books."""

    status = RecordStatus(is_kept=False)

    def ready(self, ready_ms: int, spans: Sequence[Mapping[str, Any]]) -> None:
        """Nothing to do."""

    def enter(self, asked: Asked) -> None:
        """Nothing to do."""

    def leave(self, entry: Entry, outcome: Outcome) -> None:
        """Nothing to do."""

    def drain(self) -> None:
        """Nothing to do."""

    def close(self, within_s: float) -> bool:
        """Nothing to do."""
        return True
