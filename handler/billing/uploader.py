"""Brings sealed segments to the ledger, in the background and for as long as it takes."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from handler.billing.segment import compress, ledger_key
from handler.billing.store import Store, StoreTrouble

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 60.0
"""Bounds of the back-off. It doubles, and each pause is drawn from nothing up to it, so that workers which failed
together do not come back together ("full jitter": Brooker, Exponential Backoff And Jitter, AWS blog, 2015)."""

HURRIED_PAUSE_S: Final = 0.5
"""The longest pause while somebody waits."""

LOOK_S: Final = 30.0
"""How often to look for segments that nobody told of."""

REMIND_S: Final = 60.0
"""Between two log lines about trouble that lasts."""

BACKLOG: Final = 8
LANES: Final = 4
"""When more segments than that wait, so many go at once; a lane holds one segment in memory."""

_log = logging.getLogger("pilotlight.ledger")


class Journal(Protocol):
    """What the uploader asks of the journal."""

    def sealed(self) -> Sequence[Path]:
        """The segments that are not confirmed, oldest first."""

    def confirm(self, segment: Path) -> None:
        """The segment is in the ledger."""


@dataclass(frozen=True, slots=True)
class UploaderStatus:
    """How the way to the ledger stands.

    Attributes:
        trouble: why nothing gets through, None where it does.
        refused: the store says no, and waiting will not help.
        since: when the trouble began, in seconds of the monotonic clock.
        waiting: segments that are sealed and not in the ledger.
        uploaded: segments brought there; `bytes` is their size as stored.
        attempts_failed: since the process began.
    """

    trouble: str | None = None
    refused: bool = False
    since: float | None = None
    waiting: int = 0
    uploaded: int = 0
    bytes: int = 0
    attempts_failed: int = 0


@dataclass(slots=True)
class _Calls:
    """What the uploader's thread was asked for: how often, and until when it is to hurry (monotonic seconds)."""

    wakes: int = 0
    hurries: int = 0
    hurried_until: float = 0.0


@dataclass(slots=True)
class _Bringing:
    """One segment on its way, and how that ended: in trouble, skipped, or else in the ledger."""

    segment: Path
    size: int = 0
    trouble: StoreTrouble | None = None
    skipped: bool = False


class Uploader:
    """Uploads what the journal has sealed, by a thread. Any thread may call; none but `flush` waits.

    Nothing is confirmed to the journal before the store has it.
    """

    def __init__(self, store: Store, journal: Journal) -> None:
        self._store = store
        self._journal = journal
        self._status = UploaderStatus()
        self._failures = 0
        self._told_at = 0.0
        self._skipped: set[Path] = set()
        self._is_counting = False
        self._changed = threading.Condition()
        self._calls = _Calls()
        self._thread: threading.Thread | None = None

    def status(self) -> UploaderStatus:
        """How it stands now."""
        return replace(self._status, waiting=len(self._journal.sealed()))

    def start(self) -> None:
        """Begin to upload, which is when the store's libraries are imported. A second call does nothing."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="uploader", daemon=True)
                self._thread.start()

    def wake(self) -> None:
        """There is a new segment. A pause after a failure goes on."""
        with self._changed:
            self._calls.wakes += 1
            self._changed.notify_all()

    def renew(self) -> None:
        """Connect anew and try at once: the process was frozen."""
        self._store.renew()
        self._hurry(0.0)

    def flush(self, within_s: float) -> bool:
        """Wait until all that is sealed is in the ledger, or so many seconds. Retries follow quickly meanwhile.

        Returns:
            Whether all of it is.
        """
        self.start()
        self._hurry(within_s)
        with self._changed:
            self._changed.wait_for(lambda: not self._to_do() and not self._is_counting, within_s)
        return not self._journal.sealed()

    def _hurry(self, for_s: float) -> None:
        with self._changed:
            self._calls.hurries += 1
            self._calls.hurried_until = max(self._calls.hurried_until, time.monotonic() + for_s)
            self._changed.notify_all()

    def _to_do(self) -> list[Path]:
        return [segment for segment in self._journal.sealed() if segment not in self._skipped]

    def _run(self) -> None:
        while True:
            with self._changed:
                seen = replace(self._calls)
            done = self._pass()
            with self._changed:
                self._changed.notify_all()
            self._wait(seen, LOOK_S if done else self._pause(), retry=not done)

    def _wait(self, seen: _Calls, seconds: float, retry: bool) -> None:
        def called() -> bool:
            return self._calls.hurries != seen.hurries or (not retry and self._calls.wakes != seen.wakes)

        with self._changed:
            self._changed.wait_for(called, seconds)

    def _pause(self) -> float:
        hurried = time.monotonic() < self._calls.hurried_until
        longest = HURRIED_PAUSE_S if hurried else min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._failures, 10))
        self._failures += 1
        return random.uniform(0, longest)

    def _pass(self) -> bool:
        """Bring everything that waits. Whether nothing went wrong."""
        try:
            return self._bring_all()
        except Exception:  # A journal that cannot be read, say. What is not confirmed stays, and is tried again.
            _log.exception("the uploader stumbled")
            return False

    def _bring_all(self) -> bool:
        segments = self._journal.sealed()
        self._skipped &= set(segments)
        while segments:
            lanes = LANES if len(segments) > BACKLOG and self._status.trouble is None else 1
            for bringing in self._bring(segments[:lanes]):
                if bringing.trouble:
                    self._failed(bringing.trouble, len(segments))
                    return False
                if not bringing.skipped:
                    self._arrived(bringing)
            segments = segments[lanes:]
        return True

    def _bring(self, segments: Sequence[Path]) -> list[_Bringing]:
        under_way = [_Bringing(segment) for segment in segments]
        # Threads of our own: those of an executor would hold up the process's end.
        helpers = [threading.Thread(target=self._bring_one, args=[each], daemon=True) for each in under_way[1:]]
        for helper in helpers:
            helper.start()
        self._bring_one(under_way[0])
        for helper in helpers:
            helper.join()
        return under_way

    def _bring_one(self, bringing: _Bringing) -> None:
        try:
            content = bringing.segment.read_bytes()
            key, body = ledger_key(content), compress(content)
        except Exception as error:
            self._skip(bringing, error)
            return
        try:
            self._store.put(key, body)
            bringing.size = len(body)
        except StoreTrouble as trouble:
            bringing.trouble = trouble
        except Exception as error:  # Its text may hold anything.
            bringing.trouble = StoreTrouble(f"{self._store.place}: {type(error).__name__}", refused=True)

    def _skip(self, bringing: _Bringing, error: Exception) -> None:
        bringing.skipped = True
        if bringing.segment not in self._skipped:
            self._skipped.add(bringing.segment)
            reason = getattr(error, "strerror", None) or type(error).__name__
            _log.error("%s cannot be read and is not in the ledger: %s", bringing.segment, reason)

    def _failed(self, trouble: StoreTrouble, waiting: int) -> None:
        before, now = self._status, time.monotonic()
        self._status = replace(
            before, trouble=str(trouble), refused=trouble.refused, attempts_failed=before.attempts_failed + 1,
            since=now if before.since is None else before.since,
        )
        worse = before.trouble is None or (trouble.refused and not before.refused)
        if worse or now - self._told_at >= REMIND_S:
            self._told_at = now
            level = logging.ERROR if trouble.refused else logging.WARNING
            _log.log(level, "%s; segments that wait in the journal: %d; it is tried again", trouble, waiting)

    def _arrived(self, bringing: _Bringing) -> None:
        """Tell the journal and count it; who sees that the journal has nothing left waits for the count."""
        self._is_counting = True
        try:
            self._journal.confirm(bringing.segment)
            self._count(bringing)
        finally:
            self._is_counting = False

    def _count(self, bringing: _Bringing) -> None:
        before = self._status
        if before.since is not None:
            seconds = time.monotonic() - before.since
            _log.warning("%s works again after %.0f s", self._store.place, seconds)
        self._failures = 0
        self._status = UploaderStatus(
            uploaded=before.uploaded + 1, bytes=before.bytes + bringing.size, attempts_failed=before.attempts_failed
        )
