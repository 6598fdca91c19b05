"""The ledger held against what RunPod billed, hour by hour and endpoint by endpoint."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from engine.errors import PilotlightError
from handler.billing.price import plain
from handler.billing.reading.ledger import Ledger
from handler.billing.reading.views import by_hours
from handler.billing.reading.words import printable
from handler.billing.runpod_api import Billed

HOUR = timedelta(hours=1)
"""RunPod's finest bucket."""

_STRETCHES = 'SELECT endpoint, price, epoch_ms("at") AS start, ms FROM phases WHERE ms > 0'
_HOURS = f"""
SELECT endpoint, hour, price, sum(ms)::BIGINT FROM ({by_hours(_STRETCHES)})
GROUP BY ALL ORDER BY hour, endpoint, price
"""


class NothingToCompare(PilotlightError):
    """There is no hour to look at."""


@dataclass(frozen=True, slots=True)
class Booked:
    """What the ledger has of an endpoint's hour, at one price.

    Attributes:
        price: US dollars per second and worker, None where it is not known.
    """

    start: datetime
    endpoint: str
    price: Decimal | None
    ms: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """An endpoint's hour, or a sum of such, by both sides. Money is in US dollars.

    Attributes:
        start: of the hour; None for a sum.
        ledger_ms: with those without a price.
        unpriced_ms: that part, for which `ledger` holds no money.
        ledger: None where the ledger has no such hour.
        gpu: what RunPod billed for GPUs; None where it has no such hour.
        total: what RunPod billed with disks and fees.
    """

    start: datetime | None
    endpoint: str | None
    ledger_ms: int = 0
    unpriced_ms: int = 0
    ledger: Decimal | None = None
    gpu: Decimal | None = None
    total: Decimal | None = None

    @property
    def difference(self) -> Decimal:
        """What RunPod billed for GPUs beyond what the ledger has."""
        return (self.gpu or Decimal(0)) - (self.ledger or Decimal(0))

    def as_dict(self) -> dict[str, Any]:
        """Times in UTC, money as decimal text."""
        return {
            "start": None if self.start is None else f"{self.start:%Y-%m-%dT%H:%M:%SZ}", "endpoint": self.endpoint,
            "ledger_seconds": self.ledger_ms / 1000, "unpriced_seconds": self.unpriced_ms / 1000,
            "ledger_cost": _text(self.ledger), "gpu_amount": _text(self.gpu), "total_amount": _text(self.total),
            "difference": plain(self.difference),
        }


def booked_hours(ledger: Ledger, endpoint: str | None = None) -> list[Booked]:
    """What stands in the ledger's phases, by hour and endpoint; a stretch over several hours is split by milliseconds.

    Args:
        endpoint: this one alone.

    Raises:
        LedgerUnreadable: it cannot be read.
    """
    return [
        Booked(datetime.fromtimestamp(hour * 3600, UTC), name, None if price is None else Decimal(price), ms)
        for name, hour, price, ms in ledger.execute(_HOURS).fetchall()
        if endpoint in (None, name)
    ]


def whole_hours(since: datetime | None, until: datetime | None, booked: Sequence[Booked]) -> tuple[datetime, datetime]:
    """The hours to compare: those asked for, whole ones; of what is not said, those that the ledger has.

    Raises:
        NothingToCompare: nothing says which, or there is none.
    """
    starts = [part.start for part in booked]
    first = since or min(starts, default=None)
    end = until or max((start + HOUR for start in starts), default=None)
    if first is None or end is None:
        raise NothingToCompare("the ledger has no time; say which with --since and --until")
    first, end = _floor(first), _floor(end - timedelta(microseconds=1)) + HOUR
    if end <= first:
        raise NothingToCompare(f"no hour lies between {first:%Y-%m-%dT%H:%MZ} and {end:%Y-%m-%dT%H:%MZ}")
    return first, end


def compare(booked: Iterable[Booked], billed: Iterable[Billed], since: datetime, until: datetime) -> list[Comparison]:
    """Every hour of either side from `since` to before `until`, in order."""
    hours: defaultdict[tuple[datetime, str], Comparison] = defaultdict(lambda: Comparison(None, None))
    for part in booked:
        hours[part.start, part.endpoint] = _with_booked(hours[part.start, part.endpoint], part)
    for record in billed:
        key = (_floor(record.start), record.endpoint)
        hours[key] = _with_billed(hours[key], record)
    return [
        replace(hours[start, endpoint], start=start, endpoint=endpoint)
        for start, endpoint in sorted(hours)
        if since <= start < until
    ]


def total(hours: Iterable[Comparison]) -> Comparison:
    """All hours together."""
    result = Comparison(None, None, ledger=Decimal(0), gpu=Decimal(0), total=Decimal(0))
    for hour in hours:
        result = replace(
            result, ledger_ms=result.ledger_ms + hour.ledger_ms, unpriced_ms=result.unpriced_ms + hour.unpriced_ms,
            ledger=_sum(result.ledger, hour.ledger), gpu=_sum(result.gpu, hour.gpu),
            total=_sum(result.total, hour.total),
        )
    return result


def show_comparison(hours: Sequence[Comparison], since: datetime, until: datetime) -> None:
    """A table on standard output, for a person."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    title = f"US dollars from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC"
    note = "GPU and all: what RunPod billed; difference: GPU less ledger"
    table = Table(title=title, title_justify="left", caption=note, caption_justify="left", box=None)
    table.add_column("hour", no_wrap=True)
    table.add_column("endpoint", overflow="fold")
    for heading in ("seconds", "ledger", "GPU", "all", "difference", "%"):
        table.add_column(heading, justify="right", no_wrap=True)
    for hour in hours:
        table.add_row(f"{hour.start:%m-%d %H:%M}", Text(printable(hour.endpoint or "")), *_cells(hour))
    table.add_section()
    table.add_row("total", "", *_cells(total(hours)), style="bold")
    console = Console(highlight=False)
    console.print(table)
    if unpriced := sum(hour.unpriced_ms for hour in hours):
        console.print(f"{unpriced / 1000:.3f} s have no price, and so no cost, in the ledger.")


def _with_booked(hour: Comparison, part: Booked) -> Comparison:
    unpriced = part.ms if part.price is None else 0
    cost = Decimal(0) if part.price is None else part.price * part.ms / 1000
    return replace(
        hour, ledger_ms=hour.ledger_ms + part.ms, unpriced_ms=hour.unpriced_ms + unpriced,
        ledger=_sum(hour.ledger, cost),
    )


def _with_billed(hour: Comparison, record: Billed) -> Comparison:
    return replace(hour, gpu=_sum(hour.gpu, record.gpu), total=_sum(hour.total, record.total))


def _sum(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return other if one is None else one if other is None else one + other


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else plain(amount)


def _cells(hour: Comparison) -> list[str]:
    share = f"{100 * hour.difference / hour.ledger:+.1f}" if hour.ledger and hour.gpu is not None else ""
    money = ["-" if amount is None else f"{amount:.4f}" for amount in (hour.ledger, hour.gpu, hour.total)]
    return [f"{hour.ledger_ms / 1000:.3f}", *money, f"{hour.difference:+.4f}", share]


def _floor(moment: datetime) -> datetime:
    """The hour's beginning; a moment without a zone is in UTC."""
    utc = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return utc.replace(minute=0, second=0, microsecond=0)
