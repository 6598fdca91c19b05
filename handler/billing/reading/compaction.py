"""A day of the ledger as one Parquet file: each line once, as any engine reads it. The objects stay what is true."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from engine.errors import PilotlightError
from handler.billing.reading.ledger import open_ledger
from handler.billing.replacing import replacing
from handler.billing.segment import UNDER, parse_key
from handler.billing.store import Store

_DAY = timedelta(days=1)

_COPY = """
COPY (
    SELECT * EXCLUDE (chain) FROM lines WHERE "written"::DATE = DATE '{day}' ORDER BY kind, endpoint, "at", id
) TO '{file}' (FORMAT parquet, COMPRESSION zstd)
"""


class DayNotOver(PilotlightError):
    """Lines of that day are still being written."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What was written.

    Attributes:
        skipped: names of objects that could not be unpacked, whose lines are not in it.
    """

    day: date
    path: Path
    lines: int
    bytes: int
    skipped: tuple[str, ...]


def choose_days(
    store: Store, since: date | None, until: date | None, *, unfinished: bool = False, today: date | None = None
) -> list[date]:
    """The days to compact: those of the ledger between two, both included.

    Args:
        until: default: yesterday.
        unfinished: whether also today, of which there will be more.
        today: in UTC; default: the present.

    Raises:
        DayNotOver: today, or a day to come, was asked for.
        StoreTrouble: the ledger cannot be listed.
    """
    today = today or datetime.now(UTC).date()
    if not unfinished and (until or since or date.min) >= today:
        raise DayNotOver(f"{today} is not over: its file would lack lines; --unfinished writes it all the same")
    last = until or (today if unfinished else today - _DAY)
    return sorted(day for day in _days(store) if (since or date.min) <= day <= last)


def compact(place: str, day: date, out: Path) -> Compacted | None:
    """Write a day's lines to `OUT/dt=DAY/DAY.parquet`, in place of what was there; None where it has none.

    A line is of the day on which it was written. The same lines make the same file.

    Raises:
        PilotlightError: the ledger cannot be read.
        OSError: the folder cannot be written.
    """
    file = out / f"dt={day}" / f"{day}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(file) as draft, open_ledger(place, day, day) as ledger:
            ledger.execute("SET preserve_insertion_order = true")
            [lines] = ledger.execute(_COPY.format(day=day, file=str(draft).replace("'", "''"))).fetchone() or (0,)
            skipped = tuple(path.name for path in ledger.skipped)
            if not lines:
                draft.unlink()
                file.unlink(missing_ok=True)
        return Compacted(day, file, lines, file.stat().st_size, skipped) if lines else None
    finally:
        _remove_empty(file.parent)


def compact_days(
    place: str, days: list[date], out: Path, advance: Callable[[int], object] = lambda days: None
) -> Iterator[Compacted]:
    """Compact one day after another, as they are asked for."""
    for day in days:
        done = compact(place, day, out)
        advance(1)
        if done is not None:
            yield done


def _days(store: Store) -> set[date]:
    """Every day that may have lines: an object has its first line's day for a name, and may reach into the next."""
    keys = (parse_key(found.key) for found in store.keys(UNDER))
    named = {date.fromisoformat(key.date) for key in keys if key is not None}
    return named | {day + _DAY for day in named}


def _remove_empty(folder: Path) -> None:
    """A day without a file has no folder, unless something else is in it."""
    if not any(folder.iterdir()):
        folder.rmdir()
