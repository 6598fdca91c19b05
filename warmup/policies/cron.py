"""`cron:...`: a worker is up by timetable."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import TYPE_CHECKING

from warmup.errors import InvalidPolicy
from warmup.plan import Plan

if TYPE_CHECKING:
    from warmup.costs import Costs
    from warmup.history import History

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_FORM = "write cron:Mon-Fri 08:00-18:00 Europe/Berlin, several separated by ;"
_WINDOW = re.compile(
    r"(?:(?P<days>[A-Za-z*][A-Za-z,*-]*) +)?(?P<start>\d\d:\d\d)-(?P<stop>\d\d:\d\d)(?: +(?P<zone>\S+))?"
)
_HORIZON_S = 7 * 86400.0
"""A plan is for a week: a change of the rules of a time zone is known long before."""


@dataclass(frozen=True, slots=True)
class Daily:
    """A stretch of certain days, by the clock on the wall there.

    Attributes:
        days: of the week, 0 is Monday; those on which it starts.
        start: the time at which it starts, and `stop` at which it is over: on the next day if that is no later.
        zone: where the clock hangs.
    """

    days: frozenset[int]
    start: time
    stop: time
    zone: tzinfo

    def within(self, now: float, until: float) -> Iterator[tuple[float, float]]:
        """The stretches that touch a time, in seconds since 1970."""
        day = datetime.fromtimestamp(now, self.zone).date() - timedelta(days=1)
        while (start := self._moment(day, self.start)) < until:
            stop = self._moment(day + timedelta(days=self.stop <= self.start), self.stop, fold=1)
            if day.weekday() in self.days and now < stop and start < stop:
                yield start, stop
            day += timedelta(days=1)

    def _moment(self, day: date, at: time, fold: int = 0) -> float:
        """Of a time that comes twice the first, or with `fold` the second; for one that is skipped, when it is."""
        wall = datetime.combine(day, at, self.zone)
        first, second = wall.timestamp(), wall.replace(fold=1).timestamp()
        if first <= second:
            return second if fold else first
        # Skipped: `second` lies before the jump, `first` at it or after, and the clock shows less only before it.
        around = range(int(second), int(first) + 1)
        return float(around[bisect_left(around, wall.replace(tzinfo=None), key=self._shown)])

    def _shown(self, moment: int) -> datetime:
        return datetime.fromtimestamp(moment, self.zone).replace(tzinfo=None)


@dataclass(frozen=True, slots=True)
class Cron:
    """Min workers 1 within the windows; outside them what the platform does itself."""

    windows: tuple[Daily, ...]
    text: str

    @property
    def name(self) -> str:
        return f"cron:{self.text}"

    @classmethod
    def parse(cls, text: str) -> Cron:
        """Windows from a text such as `Mon-Fri 08:00-18:00 Europe/Berlin; Sat 10:00-12:00`; UTC where no zone stands.

        Raises:
            InvalidPolicy: it is none.
        """
        return cls(tuple(_window(part.strip()) for part in text.split(";")), " ".join(text.split()))

    def plan(self, history: History, now: float, costs: Costs) -> Plan:
        until = now + _HORIZON_S
        stretches = (stretch for window in self.windows for stretch in window.within(now, until))
        return Plan(windows=_united(stretches), until=until)


def _united(stretches: Iterator[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Those that overlap or touch as one."""
    united: list[tuple[float, float]] = []
    for start, stop in sorted(stretches):
        if united and start <= united[-1][1]:
            united[-1] = (united[-1][0], max(united[-1][1], stop))
        else:
            united.append((start, stop))
    return tuple(united)


def _window(text: str) -> Daily:
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise InvalidPolicy(f"cron:{text}: {_FORM}")
    if match["start"] == "24:00":
        raise InvalidPolicy(f"cron:{text}: a window cannot start at 24:00: write 00:00 of the next day")
    start, stop = _time(match["start"]), _time(match["stop"])
    return Daily(_days(match["days"] or "*"), start, stop, _zone(match["zone"] or "UTC"))


def _days(text: str) -> frozenset[int]:
    if text == "*":
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        ends = [name.capitalize() for name in (first, last if dash else first)]
        if not set(ends) <= set(_DAYS):
            raise InvalidPolicy(f"cron: {part} is no day: write some of {', '.join(_DAYS)}, or Mon-Fri")
        start, stop = map(_DAYS.index, ends)
        found.update((start + step) % 7 for step in range((stop - start) % 7 + 1))
    return frozenset(found)


def _time(text: str) -> time:
    if text == "24:00":
        return time()
    try:
        return time.fromisoformat(text)
    except ValueError:
        raise InvalidPolicy(f"cron: {text} is no time of day: write 00:00 to 24:00") from None


def _zone(name: str) -> tzinfo:
    if name.upper() in ("UTC", "Z"):
        return UTC
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidPolicy(f"cron: no time zone {name} is known here: write one like Europe/Berlin") from None
