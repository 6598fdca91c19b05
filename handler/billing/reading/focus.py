"""The ledger as FOCUS 1.2: a row for each request, and for each worker's hour of every phase that no request has.

Execution stands in the requests' rows alone, so that no second is counted twice.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, TextIO

from engine.errors import PilotlightError
from handler.billing.lines import stamp
from handler.billing.price import plain
from handler.billing.price_list import SHIPPED, PriceList, read_prices
from handler.billing.reading.audit import SILENCE
from handler.billing.reading.focus_columns import COLUMNS, CONSTANTS
from handler.billing.reading.ledger import Ledger
from handler.billing.reading.views import HOUR_MS, by_hours

_DAY_S = 86_400
_AT_ONCE = 10_000

_WORKER = "endpoint, worker, boot, model, gpu, gpu_count, price, price_kind, price_date"

_REGIONS = "regions AS (SELECT boot, any_value(region) AS region FROM lines WHERE kind = 'start' GROUP BY boot)"

_STRETCHES = f"""
SELECT {_WORKER}, epoch, phase, warmup, epoch_ms("at") AS start, ms FROM phases WHERE ms > 0 AND phase <> 'execution'
"""

_PHASES = f"""
WITH {_REGIONS}
SELECT {_WORKER}, epoch, phase, warmup, hour * {HOUR_MS} AS start, {HOUR_MS} AS span,
    any_value(regions.region) AS region, sum(ms)::BIGINT AS ms
FROM ({by_hours(_STRETCHES)}) LEFT JOIN regions USING (boot)
GROUP BY {_WORKER}, epoch, phase, warmup, hour ORDER BY hour, endpoint, worker, boot, epoch, phase, warmup
"""

_REQUESTS = f"""
WITH {_REGIONS}
SELECT {_WORKER}, epoch, 'execution' AS phase, warmup, epoch_ms("at") AS start, duration_ms AS span,
    regions.region, execution_ms AS ms, id, request, job, tenant, start_kind, finish_reason, queue_ms, first_token_ms,
    prompt_tokens, cached_tokens, output_tokens
FROM requests LEFT JOIN regions USING (boot) WHERE execution_ms > 0 ORDER BY start, id
"""

# A killed worker that nobody recovered: requests that were in flight have time and no line.
_UNCLAIMED = f"""
WITH {_REGIONS},
epochs AS (
    SELECT boot, epoch, bool_or(phase = 'rounding') AS closed, max("at" + to_milliseconds(ms)) AS newest
    FROM lines WHERE kind = 'phase' GROUP BY ALL
), ended AS (
    SELECT boot FROM epochs GROUP BY boot
    HAVING NOT bool_and(closed) AND max(newest) >= $since AND max(newest) < $until AND max(newest) < $before
), shares AS (SELECT boot, sum(execution_ms) AS ms FROM lines WHERE kind = 'request' GROUP BY boot),
execution AS (SELECT * FROM lines WHERE kind = 'phase' AND phase = 'execution')
SELECT {_WORKER}, max(epoch) AS epoch, 'execution' AS phase, false AS warmup,
    max(epoch_ms("at")) // {HOUR_MS} * {HOUR_MS} AS start, {HOUR_MS} AS span, any_value(regions.region) AS region,
    (sum(execution.ms) - coalesce(any_value(shares.ms), 0))::BIGINT AS ms
FROM execution SEMI JOIN ended USING (boot) LEFT JOIN shares USING (boot) LEFT JOIN regions USING (boot)
GROUP BY {_WORKER} HAVING sum(execution.ms) > coalesce(any_value(shares.ms), 0) ORDER BY start, boot
"""

_UNPRICED = """
SELECT coalesce(sum(ms), 0)::BIGINT FROM (
    SELECT ms, price FROM phases WHERE phase <> 'execution' UNION ALL SELECT execution_ms, price FROM requests
) WHERE price IS NULL
"""


class NoPrice(PilotlightError):
    """Some seconds have no price, and FOCUS knows no charge without a cost."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who pays, which the ledger does not know.

    Attributes:
        price: US dollars per second of a worker, for the seconds without a price; None where there must be none.
    """

    id: str = "runpod"
    name: str = "RunPod account"
    price: Decimal | None = None


def write_focus(
    ledger: Ledger, out: TextIO, account: Account, advance: Callable[[int], object] = lambda rows: None,
    now: datetime | None = None,
) -> int:
    """Write the ledger as CSV, and say how many rows.

    Args:
        out: opened with `newline=""`.
        advance: is told of rows as they are written.
        now: a life without an end of which nothing was heard for two minutes has ended.

    Raises:
        NoPrice: seconds without a price, and none given for them.
        LedgerUnreadable: it cannot be read.
    """
    _check_prices(ledger, account)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    rows = _Rows(account, read_prices(SHIPPED))
    bounds = _bounds(ledger, now or datetime.now(UTC))
    written = 0
    for query, parameters in ((_PHASES, None), (_UNCLAIMED, bounds), (_REQUESTS, None)):
        for charges in _chunks(ledger, query, parameters):
            writer.writerows(rows.row(charge) for charge in charges)
            written += len(charges)
            advance(len(charges))
    return written


def _bounds(ledger: Ledger, now: datetime) -> dict[str, datetime]:
    before = now.astimezone(UTC).replace(tzinfo=None) - SILENCE
    since, until = ledger.period.since, ledger.period.until
    return {"since": since or datetime.min, "until": until or datetime.max, "before": before}  # noqa: DTZ901 - DuckDB's.


def _check_prices(ledger: Ledger, account: Account) -> None:
    [unpriced] = ledger.execute(_UNPRICED).fetchone() or (0,)
    if unpriced and account.price is None:
        raise NoPrice(
            f"{unpriced / 1000:.3f} s have no price, and FOCUS knows no charge without a cost: "
            "--price sets US dollars per second of a worker for them (0: they were free)"
        )


def _chunks(ledger: Ledger, query: str, parameters: object) -> Iterator[list[dict[str, Any]]]:
    result = ledger.execute(query, parameters)
    names = [column[0] for column in result.description]
    while found := result.fetchmany(_AT_ONCE):
        yield [dict(zip(names, values, strict=True)) for values in found]


class _Month(NamedTuple):
    """A billing period: its beginning in seconds since 1970, and as it is written with the next one's."""

    start: int
    first: str
    next: str


class _Rows:
    """Makes rows of charges. Much is the same for all of a worker's, and for all of a day's: it is made once."""

    def __init__(self, account: Account, prices: PriceList) -> None:
        self._account = account
        self._prices = prices
        self._alike: dict[tuple[Any, ...], dict[str, object]] = {}
        self._months: dict[int, _Month] = {}

    def row(self, charge: Mapping[str, Any]) -> Iterable[object]:
        """A charge's values, in the order of the columns; None is empty in the file."""
        fields = self._worker(charge).copy()
        fields.update(self._money(charge))
        fields.update(self._period(charge))
        fields.update(_description(charge))
        return fields.values()

    def _worker(self, charge: Mapping[str, Any]) -> dict[str, object]:
        named = ("endpoint", "worker", "boot", "epoch", "region", "gpu", "gpu_count", "price_kind", "price_date")
        key = tuple(charge[name] for name in named)
        if key not in self._alike:
            self._alike[key] = dict.fromkeys(COLUMNS) | self._describe(charge)
        return self._alike[key]

    def _describe(self, charge: Mapping[str, Any]) -> dict[str, object]:
        gpu, count = charge["gpu"], charge["gpu_count"]
        found = self._prices.find(gpu) if gpu else None
        sku = f"runpod-serverless:{(found and found.pool) or gpu or 'unknown'}:{charge['price_kind']}"
        details = {"GpuCount": count} | ({"InstanceType": gpu} if gpu else {})
        return CONSTANTS | {
            "BillingAccountId": self._account.id, "BillingAccountName": self._account.name,
            "BillingAccountType": "RunPod account",
            "RegionId": charge["region"], "RegionName": charge["region"], "ResourceId": charge["worker"],
            "SkuId": sku, "SkuPriceId": f"{sku}:{count}", "SkuPriceDetails": _json(details),
            "SubAccountId": charge["endpoint"], "SubAccountName": charge["endpoint"],
            "x_BootId": charge["boot"], "x_Epoch": charge["epoch"], "x_PriceDate": charge["price_date"],
        }

    def _period(self, charge: Mapping[str, Any]) -> dict[str, object]:
        """Whole seconds around the charge, in the month in which it ends: FOCUS knows no fractions of seconds."""
        end = -(-(charge["start"] + max(1, charge["span"])) // 1000)
        day = (end - 1) // _DAY_S
        month = self._months.get(day) or self._months.setdefault(day, _month(day))
        start = max(charge["start"] // 1000, month.start)
        return {
            "BillingPeriodStart": month.first, "BillingPeriodEnd": month.next,
            "ChargePeriodStart": _time(datetime.fromtimestamp(start, UTC)),
            "ChargePeriodEnd": _time(datetime.fromtimestamp(end, UTC)), "x_StartTime": stamp(charge["start"] / 1000),
        }

    def _money(self, charge: Mapping[str, Any]) -> dict[str, object]:
        price = self._account.price if charge["price"] is None else Decimal(charge["price"])
        assert price is not None
        cost, unit_price, seconds = plain(price * charge["ms"] / 1000), plain(price), f"{charge['ms'] / 1000:.3f}"
        costs = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost", "PricingCurrencyEffectiveCost")
        prices = ("ContractedUnitPrice", "ListUnitPrice", "PricingCurrencyContractedUnitPrice",
                  "PricingCurrencyListUnitPrice")
        return (
            dict.fromkeys(costs, cost) | dict.fromkeys(prices, unit_price)
            | {"ConsumedQuantity": seconds, "PricingQuantity": seconds, "x_Milliseconds": charge["ms"]}
        )


def _month(day: int) -> _Month:
    """The month of a day, which is counted from 1970."""
    first = datetime.fromtimestamp(day * _DAY_S, UTC).replace(day=1)
    return _Month(int(first.timestamp()), _time(first), _time((first + timedelta(days=31)).replace(day=1)))


def _description(charge: Mapping[str, Any]) -> dict[str, object]:
    phase, tenant = charge["phase"], charge.get("tenant")
    tags = {"model": charge["model"]} | ({"tenant": tenant} if tenant is not None else {})
    record = charge.get("id")
    return {
        "ChargeDescription": f"{phase} of {charge['model']} on {charge['gpu'] or 'an unknown GPU'}",
        "Tags": _json(tags), "x_Phase": phase, "x_Warmup": "true" if charge["warmup"] else "false",
        "x_RecordId": record or _record(charge),
        "x_Sequence": record and record.rpartition("-")[2],
        "x_RequestId": charge.get("request"), "x_JobId": charge.get("job"), "x_StartKind": charge.get("start_kind"),
        "x_FinishReason": charge.get("finish_reason"), "x_QueueMilliseconds": charge.get("queue_ms"),
        "x_FirstTokenMilliseconds": charge.get("first_token_ms"), "x_PromptTokens": charge.get("prompt_tokens"),
        "x_CachedTokens": charge.get("cached_tokens"), "x_CompletionTokens": charge.get("output_tokens"),
    }


def _record(charge: Mapping[str, Any]) -> str:
    """The name of a sum of lines: there is one of an epoch's phase, hour and mark."""
    hour = f"{datetime.fromtimestamp(charge['start'] // 1000, UTC):%Y%m%dT%H}"
    kind = "-warmup" if charge["warmup"] else ""
    return f"{charge['boot']}-{charge['epoch']}-{charge['phase']}{kind}-{hour}"


def _time(moment: datetime) -> str:
    return f"{moment.replace(tzinfo=None).isoformat()}Z"


def _json(fields: Mapping[str, object]) -> str:
    return json.dumps(fields, ensure_ascii=False)
