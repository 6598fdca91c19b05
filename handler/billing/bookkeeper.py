"""Keeps a worker's books beside its work: the clocks, a thread that writes, and who else is told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from handler.billing.books import Books, Entry
from handler.billing.lines import Asked, Line, Lines, Outcome
from handler.billing.recorder import RecordStatus
from handler.epochs import Epoch, Epochs

if TYPE_CHECKING:
    from handler.billing.journal import Journal
    from handler.billing.uploader import Uploader

FLUSHES: Final = 10
"""To an open interval; the journal is never flushed more seldom than once a second."""

SEGMENT_BYTES: Final = 1 << 20
"""A segment of this size is sealed before its time."""

_log = logging.getLogger("pilotlight.billing")


@dataclass(frozen=True, slots=True)
class Pace:
    """How often what is known is written.

    Attributes:
        open_interval_s: the most that may be lost when the worker is killed and its disk goes with it.
    """

    open_interval_s: float = 10.0

    @property
    def flush_s(self) -> float:
        """From flush to flush."""
        return min(1.0, self.open_interval_s / FLUSHES)

    def segment_s(self, draining: bool) -> float:
        """The age at which a segment is sealed. The rest of the interval is for its way to the ledger.

        A worker that drains may be killed any moment.
        """
        return self.flush_s if draining else 0.8 * self.open_interval_s


class Bookkeeper:
    """Writes down one worker's life. Any thread may call; `enter` and `leave` never wait for a disk or a network.

    Args:
        lines_of: makes the lines of an epoch.
        facts: what every start line says of the worker.
        settled: whether every freeze up to now is an epoch already; waits a moment to find out.
    """

    def __init__(
        self, journal: Journal, uploader: Uploader, epochs: Epochs, lines_of: Callable[[Epoch], Lines], pace: Pace,
        facts: Mapping[str, Any], settled: Callable[[], bool],
    ) -> None:
        self._journal = journal
        self._uploader = uploader
        self._pace = pace
        self._facts = facts
        self._settled = settled
        self._epochs = epochs
        self._metering = threading.Lock()
        self._writing = threading.RLock()
        self._books = Books(epochs.current, lines_of)
        self._draining = False
        self._closed = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bookkeeper", daemon=True)
        journal.begin_chain(epochs.current.number)
        self._sealed_at = epochs.current.began.monotonic_s
        epochs.on_begin(self._turn)

    @property
    def status(self) -> RecordStatus:
        """How the record stands."""
        with self._metering:
            totals = self._books.totals.copy()
        uploads, journal = self._uploader.status(), self._journal
        return RecordStatus(
            totals, uploads.waiting, uploads.uploaded, uploads.attempts_failed, uploads.trouble, uploads.refused,
            journal.trouble, journal.lost_lines, journal.losses,
        )

    def start(self) -> None:
        """Begin to write. Call it once."""
        self._thread.start()

    def ready(self, ready_ms: int, spans: Sequence[Mapping[str, Any]]) -> None:
        """The worker can serve, so many milliseconds after it began; `spans` are its boot's timeline.

        All of the boot goes to the ledger at once: a short life is to leave it there too.
        """
        now = time.monotonic()
        with self._writing:
            if self._closed:  # The worker was told to end just as its boot was over.
                return
            with self._metering:
                self._books.ready(now)
            self._write(now, lambda: [self._start(now, ready_ms, spans), *self._books.cut(now)])
            self._seal(now)
        self._uploader.start()

    def enter(self, asked: Asked) -> Entry:
        """A request is taken in."""
        self._settled()
        with self._metering:
            return self._books.enter(asked, time.monotonic())

    def leave(self, entry: Entry, outcome: Outcome) -> None:
        """A request has ended; a second end is no error and changes nothing."""
        self._settled()
        with self._metering:
            self._books.leave(entry, outcome, time.monotonic())

    def drain(self) -> None:
        """The worker is told to end; from now on as little as can be is left unwritten."""
        self._settled()
        with self._metering:
            if not self._draining:
                self._draining = True
                self._books.enter_state("drain", time.monotonic())

    def close(self, within_s: float) -> bool:
        """Write the end of the worker's life; whether all of it has reached the ledger in so many seconds.

        What has not stays in the journal, for whoever recovers it. A second call is no error.
        """
        if self._stopped.is_set():
            return True
        self._settled()
        self._stopped.set()
        with self._writing:
            now = time.monotonic()
            self._write(now, lambda: self._books.close(now))
            self._journal.seal()
            self._closed = True
        delivered = self._uploader.flush(within_s) and not self._journal.waiting_bytes
        self._journal.close()
        if not delivered:
            _log.warning("not all is in the ledger; `pilotlight bill recover %s` brings the rest", self._journal.folder)
        return delivered

    def _run(self) -> None:
        while not self._stopped.wait(self._pace.flush_s):
            try:
                self._flush()
            except Exception:  # What is not written now is written with the next flush.
                _log.exception("the books could not be written")

    def _flush(self) -> None:
        """Write if there is something to write, and hand the segment on if it is time."""
        # A freeze that is not known as such would be billed as the worker's time.
        if not self._settled():
            return
        with self._writing:
            now = time.monotonic()
            is_due = now - self._sealed_at >= self._pace.segment_s(self._draining)
            if self._stopped.is_set() or not (is_due or self._books.has_ended_requests):
                return
            self._write(now, lambda: self._books.cut(now))
            if is_due or self._journal.segment_bytes >= SEGMENT_BYTES:
                self._seal(now)

    def _write(self, now: float, made: Callable[[], list[Line]]) -> None:
        """Append what the books make, behind an `open` line where it begins a segment.

        Where the journal was taken away it stands in an epoch of its own. If a freeze is just opening one, that closes
        this one, too. Requests wait for the books, so the disk is asked before.
        """
        first: list[Line] = []
        if not self._journal.intact:
            if (epoch := self._divided()) is None:
                return
            first = self._begin_anew(epoch, now)
        begins_segment = not first and not self._journal.segment_bytes
        with self._metering:
            opening = [self._books.opening(now, time.time())] if begins_segment else first
            lines = [*opening, *made()]
        self._journal.append(lines)
        if not self._journal.waiting_bytes:
            with self._metering:
                self._books.settle()

    def _divided(self) -> Epoch | None:
        """Another epoch, or the same if nothing of it was ever written; None where a freeze is just opening one."""
        epoch = self._books.epoch
        if self._journal.has_written:
            return self._epochs.divide(epoch, self._books.settled_to)
        return epoch if self._epochs.current is epoch else None

    def _begin_anew(self, epoch: Epoch, now: float) -> list[Line]:
        """Go on in a folder that is not there yet, and give the first lines."""
        unsettled = self._journal.give_up()
        with self._metering:
            first = self._books.go_on(epoch, now, time.time(), unsettled)
        self._journal.begin_anew(epoch.number)
        return first

    def _turn(self, epoch: Epoch) -> None:
        """Close the epoch that ended with a freeze, and open the one after it."""
        assert epoch.left is not None
        with self._writing, self._metering:
            if self._closed:
                return
            was_recovered = not self._journal.intact
            if not was_recovered:
                left = epoch.left.monotonic_s
                self._journal.append(self._opening(left) + self._books.close(left))
                self._journal.seal()
            self._journal.begin_chain(epoch.number)
            self._books.turn(epoch, was_recovered)
            now = self._sealed_at = epoch.began.monotonic_s
            # An epoch that begins amid the boot has its start line when that is over.
            start = [] if self._books.boots else [self._start(now, 0, [])]
            self._journal.append(self._opening(now) + start)
        self._uploader.renew()

    def _start(self, now: float, ready_ms: int, spans: Sequence[Mapping[str, Any]]) -> Line:
        return self._books.start(now, ready_ms=ready_ms, spans=spans, **self._facts)

    def _opening(self, now: float) -> list[Line]:
        """The first line of a segment, when this is to be one."""
        return [] if self._journal.segment_bytes else [self._books.opening(now, time.time())]

    def _seal(self, now: float) -> None:
        self._journal.seal()
        self._sealed_at = now
        self._uploader.wake()
