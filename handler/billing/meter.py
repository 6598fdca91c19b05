"""The arithmetic of billed time: a worker's epoch in integer milliseconds by phase, and each request's share.

While a request is in flight the time is execution, whatever else is going on. Otherwise it is what the worker is at:
booting, idle or draining.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Phase = Literal["boot", "execution", "idle", "drain", "rounding"]
State = Literal["boot", "idle", "drain"]
"""What a worker is at while no request is in flight."""


class Amount(NamedTuple):
    """Milliseconds of one phase, for the user or for a warm-up; `warmup` is None before an epoch's first request."""

    phase: Phase
    warmup: bool | None
    start_ms: int
    ms: int


@dataclass(frozen=True, slots=True)
class Cut:
    """What a stretch of an epoch held, from the cut before it to this one.

    Attributes:
        amounts: they add up to the stretch, exactly.
        shares: each request's milliseconds of the stretch's execution, to which they add up exactly.
    """

    amounts: tuple[Amount, ...]
    shares: dict[str, int]


@dataclass(slots=True)
class _Flight:
    """A request in flight, and how much of the stretch's execution is its own.

    Attributes:
        joined: the common clock's reading when it came in, or at the last cut.
        entitled: milliseconds, with their fraction, once it has ended.
    """

    warmup: bool
    joined: float
    entitled: float | None = None


@dataclass(slots=True)
class _Stretch:
    """The time since the last cut. `start` holds when each kind of time in it began."""

    ms: dict[tuple[Phase, bool | None], int] = field(default_factory=dict)
    start: dict[tuple[Phase, bool | None], int] = field(default_factory=dict)


class Meter:
    """Meters one epoch. Times are milliseconds since it began; one that runs backwards counts as no time at all.

    Execution is shared as processor time is: of each moment every request in flight has an equal part. A common clock
    that runs the slower the more requests share it gives each one's part by two readings (the virtual time of fair
    queueing: Demers, Keshav and Shenker 1989), and every cut rounds the parts to whole milliseconds by largest
    remainder, so that they add up.

    Args:
        state: what the epoch begins with.
    """

    def __init__(self, state: State) -> None:
        self._state: State = state
        self._now = 0
        self._mark: bool | None = None
        self._clock = 0.0
        self._flights: dict[str, _Flight] = {}
        self._in_flight = 0
        self._stretch = _Stretch()

    @property
    def now(self) -> int:
        """How far the epoch is metered."""
        return self._now

    def enter(self, state: State, at: int) -> None:
        """The worker turns to something else."""
        self._advance(at)
        self._state = state

    def begin(self, request: str, warmup: bool, at: int) -> None:
        """A request comes in."""
        assert request not in self._flights
        self._advance(at)
        self._mark = warmup
        self._flights[request] = _Flight(warmup, self._clock)
        self._in_flight += 1

    def end(self, request: str, at: int) -> None:
        """A request has ended; its last share comes with the next cut."""
        self._advance(at)
        flight = self._flights[request]
        assert flight.entitled is None
        flight.entitled = self._clock - flight.joined
        self._in_flight -= 1

    def cut(self, at: int) -> Cut:
        """Close the stretch that ends now, and begin the next."""
        self._advance(at)
        stretch, self._stretch = self._stretch, _Stretch()
        execution = sum(ms for (phase, _), ms in stretch.ms.items() if phase == "execution")
        shares = self._share_out(execution)
        amounts = [Amount(*key, stretch.start[key], ms) for key, ms in stretch.ms.items() if key[0] != "execution"]
        amounts += self._execution(shares, stretch)
        self._clock = 0.0
        self._flights = {
            name: _Flight(flight.warmup, 0.0) for name, flight in self._flights.items() if flight.entitled is None
        }
        return Cut(tuple(amounts), shares)

    def rebase(self, ms: int) -> None:
        """Count from so many milliseconds on, at which the last cut was."""
        self._now -= ms
        self._stretch.start = {key: start - ms for key, start in self._stretch.start.items()}

    def round_up(self) -> Amount:
        """What fills the epoch up to a whole second."""
        return Amount("rounding", self._mark, self._now, -self._now % 1000)

    def _advance(self, at: int) -> None:
        elapsed = at - self._now
        if elapsed <= 0:
            return
        if self._in_flight:
            self._clock += elapsed / self._in_flight
        key: tuple[Phase, bool | None] = ("execution", None) if self._in_flight else (self._state, self._mark)
        self._stretch.start.setdefault(key, self._now)
        self._stretch.ms[key] = self._stretch.ms.get(key, 0) + elapsed
        self._now = at

    def _share_out(self, execution: int) -> dict[str, int]:
        entitled = [
            self._clock - flight.joined if flight.entitled is None else flight.entitled
            for flight in self._flights.values()
        ]
        return dict(zip(self._flights, largest_remainder(entitled, execution), strict=True))

    def _execution(self, shares: dict[str, int], stretch: _Stretch) -> list[Amount]:
        """The stretch's execution by who it was for."""
        sums: dict[bool, int] = {}
        for name, share in shares.items():
            warmup = self._flights[name].warmup
            sums[warmup] = sums.get(warmup, 0) + share
        start = stretch.start.get(("execution", None), 0)
        return [Amount("execution", warmup, start, ms) for warmup, ms in sums.items() if ms]


def largest_remainder(entitled: Sequence[float], total: int) -> list[int]:
    """Whole numbers that add up to `total`, each less than 1 from what it is entitled to (Hamilton's method).

    Args:
        entitled: 0 or more each; they add up to `total` but for floating-point error.
    """
    shares = [int(part) for part in entitled]
    missing = total - sum(shares)
    assert 0 <= missing <= len(shares)
    by_remainder = sorted(range(len(shares)), key=lambda position: shares[position] - entitled[position])
    for position in by_remainder[:missing]:
        shares[position] += 1
    return shares
