"""The books of one worker's life: what happened, and when, into lines. No clocks, no threads, no files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handler.billing.lines import Asked, Line, Lines, Outcome, Spent
from handler.billing.meter import Meter, Phase, State
from handler.epochs import Epoch, Moment


@dataclass(slots=True, eq=False)
class Entry:
    """A request in the books.

    Attributes:
        arrived: in UTC.
        since_s: when it arrived, on the monotonic clock.
        execution_ms: its share so far, as of the last cut.
        settled_ms: so much of it stands in lines that are on the disk.
        outcome: how it ended; None while it is in flight.
    """

    asked: Asked
    arrived: str
    since_s: float
    execution_ms: int = 0
    settled_ms: int = 0
    outcome: Outcome | None = None
    duration_ms: int = 0


class Books:
    """Every line is final: a later one adds to it and never takes its place.

    Times are monotonic seconds. Whoever calls sees to it that one thread at a time does.

    Args:
        lines_of: makes the lines of an epoch.

    Attributes:
        totals: milliseconds that stand in lines so far, by phase and mark.
    """

    def __init__(self, epoch: Epoch, lines_of: Callable[[Epoch], Lines]) -> None:
        self._lines_of = lines_of
        self._state: State = "boot"
        self._entries: dict[str, Entry] = {}
        self._ended_entries: list[tuple[Entry, Outcome]] = []
        self.totals: Counter[tuple[Phase, bool | None]] = Counter()
        self._open_epoch(epoch)

    def _open_epoch(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self._lines = self._lines_of(epoch)
        self._meter = Meter(self._state)
        self._written_ms = self._settled_ms = 0
        self._parted: dict[str, int] = {}

    @property
    def epoch(self) -> Epoch:
        """Whose lines are made."""
        return self._epoch

    @property
    def settled_to(self) -> Moment:
        """Until when what happened stands in lines that are on the disk."""
        return self._epoch.began.later(self._settled_ms / 1000)

    @property
    def has_ended_requests(self) -> bool:
        """Whether a cut would write of a request."""
        return bool(self._ended_entries)

    @property
    def boots(self) -> bool:
        """Whether the worker cannot serve yet."""
        return self._state == "boot"

    def ready(self, at_s: float) -> None:
        """The worker can serve, and all that its lines tell of it is known."""
        self._lines = self._lines_of(self._epoch)
        self.enter_state("idle", at_s)

    def enter_state(self, state: State, at_s: float) -> None:
        """The worker turns to something else."""
        self._state = state
        self._meter.enter(state, self._ms(at_s))

    def enter(self, asked: Asked, at_s: float) -> Entry:
        """A request is taken in."""
        at = self._ms(at_s)
        entry = self._entries[asked.request] = Entry(asked, self._lines.stamp(at), at_s)
        self._meter.begin(asked.request, asked.warmup, at)
        return entry

    def leave(self, entry: Entry, outcome: Outcome, at_s: float) -> None:
        """A request has ended; a second end is no error and changes nothing."""
        if entry.outcome is None:
            entry.outcome = outcome
            self._ended_entries.append((entry, outcome))
            entry.duration_ms = max(0, round(1000 * (at_s - entry.since_s)))
            self._meter.end(entry.asked.request, self._ms(at_s))

    def start(self, at_s: float, **facts: Any) -> Line:
        """The line that tells how the epoch began."""
        return self._lines.start(self._lines.stamp(self._ms(at_s)), **facts)

    def opening(self, at_s: float, wall_s: float) -> Line:
        """What a segment begins with: how things stood at the last cut, so that it alone tells how to close the epoch.

        Args:
            wall_s: what the wall clock says now, in seconds since 1970.
        """
        ahead_ms = round(1000 * (wall_s - self._epoch.began.wall_s)) - self._ms(at_s)
        so_far = [(entry.asked, entry.execution_ms) for entry in self._entries.values()]
        return self._lines.open(self._lines.stamp(self._ms(at_s)), self._written_ms, ahead_ms, so_far)

    def cut(self, at_s: float) -> list[Line]:
        """Everything since the last cut: time by phase, then the requests that have ended."""
        cut = self._meter.cut(self._ms(at_s))
        self._written_ms = self._meter.now
        written = self._lines.stamp(self._written_ms)
        for amount in cut.amounts:
            self.totals[amount.phase, amount.warmup] += amount.ms
        for request, share in cut.shares.items():
            self._entries[request].execution_ms += share
        return [self._lines.phase(written, amount) for amount in cut.amounts] + self._ended(written)

    def settle(self) -> None:
        """All that was cut is on the disk."""
        self._settled_ms = self._written_ms
        self._parted.clear()
        for entry in self._entries.values():
            entry.settled_ms = entry.execution_ms

    def close(self, at_s: float) -> list[Line]:
        """The epoch's last lines; it ends now, or with the last that was heard of it."""
        lines = self.cut(at_s)
        rounding = self._meter.round_up()
        self.totals[rounding.phase, rounding.warmup] += rounding.ms
        return [*lines, self._lines.phase(self._lines.stamp(self._meter.now), rounding)]

    def turn(self, epoch: Epoch, was_recovered: bool) -> None:
        """Open the next epoch, with the requests that are still in flight.

        Args:
            was_recovered: somebody has closed the epoch before in our place, and booked what was in flight as lost.
        """
        self._open_epoch(epoch)
        for name, entry in self._entries.items():
            if was_recovered:
                entry.execution_ms = 0
            entry.settled_ms = entry.execution_ms
            if entry.outcome is None:
                self._meter.begin(name, entry.asked.warmup, 0)

    def go_on(self, epoch: Epoch, at_s: float, wall_s: float, unsettled: Sequence[Line]) -> list[Line]:
        """Open an epoch that begins where what is on the disk ends, with all since; gives its first lines.

        What the lines on the disk tell is no longer these books' matter: whoever has them may have closed the epoch,
        and booked what was in flight as lost.

        Args:
            wall_s: what the wall clock says at `at_s`, in seconds since 1970.
            unsettled: lines of the epoch that were cut and never came to the disk.
        """
        began_ms, waited_ms = self._settled_ms, self._written_ms - self._settled_ms
        self._epoch, self._lines = epoch, self._lines_of(epoch)
        self._meter.rebase(began_ms)
        shares = {name: entry.execution_ms - entry.settled_ms for name, entry in self._entries.items()}
        self._begin_with(0, dict.fromkeys(shares, 0))
        opening = self.opening(at_s, wall_s)
        moved = [self._lines.moved(line, self._parted.get(line.get("request", ""), 0)) for line in unsettled]
        self._parted.clear()
        self._begin_with(waited_ms, shares)
        return [opening, *moved]

    def _begin_with(self, written_ms: int, shares: Mapping[str, int]) -> None:
        self._settled_ms, self._written_ms = 0, written_ms
        for name, share in shares.items():
            self._entries[name].settled_ms, self._entries[name].execution_ms = 0, share

    def _ended(self, written: str) -> list[Line]:
        ended, self._ended_entries = self._ended_entries, []
        lines = []
        for entry, outcome in ended:
            del self._entries[entry.asked.request]
            if entry.settled_ms:
                self._parted[entry.asked.request] = entry.settled_ms
            spent = Spent(entry.duration_ms, entry.execution_ms)
            lines.append(self._lines.request(written, entry.arrived, entry.asked, outcome, spent))
        return lines

    def _ms(self, at_s: float) -> int:
        return int(1000 * (at_s - self._epoch.began.monotonic_s))
