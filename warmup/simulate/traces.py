"""Arrivals from files: a trace's CSV, hourly counts, or a plain column of seconds."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from warmup.costs import LONGEST_S
from warmup.errors import InvalidTrace

if TYPE_CHECKING:
    from warmup.history import Floats

_MOMENTS = ("timestamp", "time", "arrival", "arrival_s", "seconds", "at")
_SERVICES = ("service_s", "service_seconds", "duration_s")
_HOUR_S = 3600.0
_HEAD = 1 << 16
_FURTHEST_S = 5e10
"""The year 3554. Milliseconds since 1970 have been beyond it since 1971."""

_MOST_REQUESTS = 100_000_000


def read_trace(path: Path, seed: int = 0) -> tuple[Floats, Floats | None]:
    """Arrivals in seconds, ascending, and each one's service seconds where the file has them.

    Three forms are read: columns with a header, of which one is TIMESTAMP (a moment, UTC unless it says otherwise,
    or seconds) and one may be service_s; columns hour_start_s and requests, whose arrivals are drawn evenly within
    each hour; and one number a line without a header.

    Raises:
        InvalidTrace: a line cannot be read, times go backwards, or there are none; the message names the line.
    """
    import numpy as np

    lines = _text(path).splitlines()
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not rows:
        raise InvalidTrace(f"{path} has no arrivals")
    header = [name.strip().lower() for name in rows[0][1].split(",")]
    if {"hour_start_s", "requests"} <= set(header):
        return _spread(path, rows, header, seed), None
    moment = next((header.index(name) for name in _MOMENTS if name in header), None)
    if moment is None:
        if _number(header[0]) is None and _moment(header[0]) is None:
            raise InvalidTrace(f"{path}, line {rows[0][0]}: no column TIMESTAMP, none hour_start_s, and no number")
        return np.array(_ascending(path, rows, 0)), None
    if len(rows) == 1:
        raise InvalidTrace(f"{path} has a header and no arrivals")
    service = next((header.index(name) for name in _SERVICES if name in header), None)
    took = None if service is None else np.array([_service(path, row, service) for row in rows[1:]])
    return np.array(_ascending(path, rows[1:], moment)), took


def _text(path: Path) -> str:
    """What a file has; what is no text is known by its beginning, so that a device is not read for ever."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            head = file.read(_HEAD)
            if "\0" in head:
                raise InvalidTrace(f"{path} is no text")
            return head + file.read()
    except UnicodeDecodeError:
        raise InvalidTrace(f"{path} is no text") from None


def _ascending(path: Path, rows: Sequence[tuple[int, str]], column: int) -> list[float]:
    found, last = [], -math.inf
    for number, line in rows:
        text = _cell(path, number, line, column)
        at = _number(text)
        at = _moment(text) if at is None else at
        if at is None or not math.isfinite(at):
            raise InvalidTrace(f"{path}, line {number}: {text or 'nothing'} is no moment and no number of seconds")
        if abs(at) > _FURTHEST_S:
            raise InvalidTrace(f"{path}, line {number}: {text} s are over a thousand years: are they milliseconds?")
        if at < last:
            raise InvalidTrace(f"{path}, line {number}: {text} is earlier than the line before it; sort the trace")
        found.append(at)
        last = at
    return found


def _service(path: Path, row: tuple[int, str], column: int) -> float:
    text = _cell(path, *row, column)
    value = _number(text)
    if value is None or not 0 <= value <= LONGEST_S:
        raise InvalidTrace(f"{path}, line {row[0]}: {text or 'nothing'} is no service time in seconds")
    return value


def _spread(path: Path, rows: Sequence[tuple[int, str]], header: Sequence[str], seed: int) -> Floats:
    """Hourly counts as arrivals, evenly drawn within their hours."""
    import numpy as np

    begins, counts = [], []
    for number, line in rows[1:]:
        begin = _number(_cell(path, number, line, header.index("hour_start_s")))
        count = _number(_cell(path, number, line, header.index("requests")))
        if begin is None or not abs(begin) <= _FURTHEST_S or count is None or not 0 <= count < math.inf or count % 1:
            raise InvalidTrace(f"{path}, line {number}: no start of an hour and number of requests")
        begins.append(begin)
        counts.append(int(count))
    if not sum(counts):
        raise InvalidTrace(f"{path} has no arrivals")
    if sum(counts) > _MOST_REQUESTS:
        raise InvalidTrace(f"{path} has {sum(counts):,} requests; at most {_MOST_REQUESTS:,} are replayed")
    hours = np.repeat(np.array(begins), counts)
    return np.sort(hours + np.random.default_rng(seed).random(hours.size) * _HOUR_S)


def _cell(path: Path, number: int, line: str, column: int) -> str:
    try:
        cells = next(_cells(line))
    except csv.Error as error:
        raise InvalidTrace(f"{path}, line {number}: {error}") from None
    if column >= len(cells):
        raise InvalidTrace(f"{path}, line {number}: {len(cells)} columns, where column {column + 1} is needed")
    return cells[column].strip()


def _cells(line: str) -> Iterator[list[str]]:
    return iter([line.split(",")]) if '"' not in line else csv.reader([line])


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _moment(text: str) -> float | None:
    """Azure's traces have seven decimals of a second."""
    head, point, tail = text.partition(".")
    digits = tail.rstrip("Zz")
    whole = f"{head}.{digits[:6]}" if point and digits.isdecimal() else text
    try:
        moment = datetime.fromisoformat(whole)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
