"""Which files of a ledger are to be read, and which of them may hold the same lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path

from engine.errors import InvalidConfig
from handler.billing.segment import UNDER, LedgerKey, parse_key

OBJECTS, PARQUET = ".jsonl.gz", ".parquet"
"""How the files are called that a worker writes, and those that `bill export --format parquet` does."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d")

EARLIEST = datetime(1970, 1, 1)  # noqa: DTZ001 (in UTC, as all of a period's bounds)
"""No line is older."""
_LATEST = 2999
"""A year."""

_MARGIN = timedelta(days=1)
"""A line is written at most a day after what it tells began, and an object is named by when its first was written."""


@dataclass(frozen=True, slots=True)
class Period:
    """From when until when, in UTC without a zone, the end not included; None where it has no bound."""

    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def of(cls, since: date | None, until: date | None) -> Period:
        """Of two moments. A day that ends a period is part of it, a moment that does is not.

        Raises:
            InvalidConfig: one is far from any ledger.
        """
        for given in (since, until):
            if given is not None and not EARLIEST.year <= given.year <= _LATEST:
                bounds = f"{EARLIEST.year} to {_LATEST}"
                raise InvalidConfig(f"{given} is not a time of a ledger, which lies from {bounds}")
        return cls(_moment(since, timedelta()), _moment(until, timedelta(days=1)))

    @property
    def is_empty(self) -> bool:
        """Whether it ends before it begins."""
        return self.since is not None and self.until is not None and self.until <= self.since

    def may_hold(self, day: date) -> bool:
        """Whether an object whose first line was written on this day may have lines of the period."""
        first, last = self._days()
        return first <= day <= last

    def days(self, today: date) -> Iterator[date] | None:
        """Every day up to tomorrow whose objects may have lines of the period; None where it has no beginning."""
        if self.since is None:
            return None
        first, last = self._days()
        return (first + timedelta(days=number) for number in range((min(last, today + _MARGIN) - first).days + 1))

    def _days(self) -> tuple[date, date]:
        """The first and the last."""
        first = date.min if self.since is None else (self.since - _MARGIN).date()
        last = date.max if self.until is None else (self.until + _MARGIN - timedelta.resolution).date()
        return first, last


@dataclass(frozen=True, slots=True)
class LedgerFile:
    """A file of the ledger on this machine.

    Attributes:
        key: what its name says; None where it is no object's, or its folders were left behind.
        day: the day it belongs to; None where its name does not tell.
    """

    path: Path
    key: LedgerKey | None
    day: date | None

    @classmethod
    def at(cls, path: Path) -> LedgerFile:
        """What a file is, by its path."""
        _, under, rest = path.as_posix().rpartition(f"/{UNDER}")
        key = parse_key(UNDER + rest) if under else None
        if key is not None:
            return cls(path, key, date.fromisoformat(key.date))
        days = _DATE.findall(path.name if path.name.endswith(PARQUET) else "")
        return cls(path, None, _day(days[0]) if days else None)


def find_files(place: Path) -> list[LedgerFile]:
    """All files of the ledger in a folder, or the file itself: objects, or Parquet files where there is no object."""
    if place.is_file():
        return [LedgerFile.at(place)]
    for ending in (OBJECTS, PARQUET):
        if found := sorted(path for path in place.rglob(f"*{ending}") if not path.name.startswith(".")):
            return [LedgerFile.at(path) for path in found]
    return []


def contested(files: Iterable[LedgerFile]) -> set[Path]:
    """The files whose lines may stand in another one as well, by their names.

    A chain's lines are numbered, and an object's name tells from which to which it has them. Of a day there is one
    Parquet file. Where names tell nothing, anything is possible.
    """
    files = list(files)
    shared = {file.path for file in files if file.key is None and file.day is None}
    objects = sorted((file for file in files if file.key), key=_place_in_chain)
    for _, chain in groupby(objects, key=lambda file: _place_in_chain(file)[0]):
        shared |= _overlapping(chain)
    days = sorted((file for file in files if not file.key and file.day), key=lambda file: str(file.day))
    for _, same_day in groupby(days, key=lambda file: file.day):
        shared |= _if_several([file.path for file in same_day])
    # A file that tells nothing may hold the lines of any other.
    return {file.path for file in files} if any(not file.key and not file.day for file in files) else shared


def _place_in_chain(file: LedgerFile) -> tuple[str, int, int]:
    assert file.key is not None
    return file.key.chain, file.key.name.first, file.key.name.last or 0


def _overlapping(chain: Iterable[LedgerFile]) -> set[Path]:
    """Of a chain's objects, ordered by their first lines, those that share a line's number with another."""
    shared: set[Path] = set()
    together: list[Path] = []
    end = 0
    for file in chain:
        _, first, last = _place_in_chain(file)
        if first > end:
            shared |= _if_several(together)
            together = []
        together.append(file.path)
        end = max(end, last)
    return shared | _if_several(together)


def _if_several(paths: list[Path]) -> set[Path]:
    return set(paths) if len(paths) > 1 else set()


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _moment(given: date | None, more: timedelta) -> datetime | None:
    if isinstance(given, datetime):
        return given.astimezone(UTC).replace(tzinfo=None) if given.tzinfo else given
    return None if given is None else datetime(given.year, given.month, given.day) + more  # noqa: DTZ001
