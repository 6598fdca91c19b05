"""The bill as RunPod's billing API tells it: sums of whole hours, days, weeks, months or years, in UTC."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, get_args

from handler.local.bill import Charge
from handler.local.contracts import ENDPOINT_ID

Bucket = Literal["hour", "day", "week", "month", "year"]
BUCKETS: Final[tuple[Bucket, ...]] = get_args(Bucket)


def records(charges: Iterable[Charge], bucket: Bucket, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """A record for each bucket that begins in [since, until) and cost anything, the earliest first."""
    sums: defaultdict[datetime, Decimal] = defaultdict(Decimal)
    for charge in charges:
        for start, amount in _shares(charge, bucket):
            if since <= start < until:
                sums[start] += amount
    return [_record(start, bucket, sums[start]) for start in sorted(sums)]


def totals(found: Iterable[dict[str, Any]]) -> dict[str, float]:
    """The sum of each kind of amount."""
    sums = dict.fromkeys(("totalAmount", "gpuAmount", "cpuAmount", "diskAmount", "feeAmount"), Decimal(0))
    for record in found:
        for name in sums:
            sums[name] += Decimal(str(record[name]))
    return {name: float(amount) for name, amount in sums.items()}


def beginning(moment: datetime, bucket: Bucket) -> datetime:
    """When the bucket of this moment began; weeks begin on Monday."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    match bucket:
        case "hour":
            return moment.replace(minute=0, second=0, microsecond=0)
        case "day":
            return midnight
        case "week":
            return midnight - timedelta(days=midnight.weekday())
        case "month":
            return midnight.replace(day=1)
        case "year":
            return midnight.replace(month=1, day=1)


def ending(start: datetime, bucket: Bucket) -> datetime:
    """When the bucket that begins at `start` ends."""
    longest = {"hour": 1 / 24, "day": 1, "week": 7, "month": 31, "year": 366}[bucket]
    return beginning(start + timedelta(days=longest), bucket)


def _shares(charge: Charge, bucket: Bucket) -> Iterator[tuple[datetime, Decimal]]:
    """The charge over its buckets by the time in each; what was rounded up is in the last."""
    price = Decimal(charge.price or 0)
    at, end = (datetime.fromtimestamp(moment, UTC) for moment in (charge.started, charge.ended))
    left = charge.cost
    start = beginning(at, bucket)
    while (following := ending(start, bucket)) < end:
        amount = price * round((following - at) / timedelta(milliseconds=1)) / 1000
        yield start, amount
        left -= amount
        at = start = following
    yield start, left


def _record(start: datetime, bucket: Bucket, amount: Decimal) -> dict[str, Any]:
    return {
        "startTime": iso(start), "endTime": iso(ending(start, bucket)), "serverlessId": ENDPOINT_ID,
        "totalAmount": float(amount), "gpuAmount": float(amount), "cpuAmount": 0.0, "diskAmount": 0.0, "feeAmount": 0.0,
    }


def iso(moment: datetime) -> str:
    """As RunPod writes moments."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
