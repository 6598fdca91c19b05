"""The ledger and RunPod's bill side by side: hours, sums, and what only one of them has."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from handler.billing.price import Price
from handler.billing.reading.reconcile import (
    Booked,
    Comparison,
    NothingToCompare,
    booked_hours,
    compare,
    show_comparison,
    total,
    whole_hours,
)
from handler.billing.runpod_api import Billed
from tests.billing.lives import PRICE, Worker, ledger_of, random_life, short_life

TEN, ELEVEN, NOON, ONE = (datetime(2026, 11, 20, hour, tzinfo=UTC) for hour in (10, 11, 12, 13))
CENT = Decimal("0.01")


def booked(start: datetime, ms: int, endpoint: str = "ep1", price: Decimal | None = CENT) -> Booked:
    return Booked(start, endpoint, price, ms)


def billed(start: datetime, gpu: str, endpoint: str = "ep1", more: str = "0") -> Billed:
    return Billed(start, endpoint, Decimal(gpu), Decimal(gpu) + Decimal(more))


def test_every_millisecond_is_in_an_hour(tmp_path: Path) -> None:
    workers = [random_life(seed) for seed in (6, 7)]
    lines = [line for worker in workers for segment in worker.segments for line in segment.lines]
    hours = booked_hours(ledger_of(tmp_path, *workers))
    assert sum(hour.ms for hour in hours) == sum(line["ms"] for line in lines if line["kind"] == "phase")
    assert {hour.price for hour in hours} == {PRICE.per_second}


def test_a_stretch_over_hours_is_split_to_the_millisecond(tmp_path: Path) -> None:
    worker = Worker(began="2026-11-20T10:59:58.250Z")
    worker.ready(1)
    worker.close(3_700)
    hours = booked_hours(ledger_of(tmp_path, worker))
    assert [(hour.start, hour.ms) for hour in hours] == [(TEN, 1_750), (ELEVEN, 3_600_000), (NOON, 98_250)]


def test_an_endpoint_can_be_looked_at_alone(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, short_life(), short_life(Worker("worker2", "ep2")))
    assert {hour.endpoint for hour in booked_hours(ledger)} == {"ep1", "ep2"}
    assert {hour.endpoint for hour in booked_hours(ledger, "ep2")} == {"ep2"}


def test_hours_are_compared_by_endpoint_and_summed() -> None:
    ledger = [booked(TEN, 60_000), booked(TEN, 30_000, "ep2"), booked(ELEVEN, 1_500)]
    runpod = [billed(TEN, "0.65", more="0.05"), billed(TEN, "0.3", "ep2"), billed(ELEVEN, "0.015")]
    hours = compare(ledger, runpod, TEN, NOON)
    assert hours == [
        Comparison(TEN, "ep1", 60_000, 0, Decimal("0.6"), Decimal("0.65"), Decimal("0.70")),
        Comparison(TEN, "ep2", 30_000, 0, Decimal("0.3"), Decimal("0.3"), Decimal("0.3")),
        Comparison(ELEVEN, "ep1", 1_500, 0, Decimal("0.015"), Decimal("0.015"), Decimal("0.015")),
    ]
    assert [hour.difference for hour in hours] == [Decimal("0.05"), 0, 0]
    sums = total(hours)
    assert (sums.ledger_ms, sums.ledger, sums.gpu, sums.total) == (91_500, *map(Decimal, ("0.915", "0.965", "1.015")))
    assert sums.difference == Decimal("0.05")


def test_an_hour_that_only_one_side_has_is_shown() -> None:
    hours = compare([booked(TEN, 60_000)], [billed(ELEVEN, "0.2")], TEN, NOON)
    assert [(hour.ledger, hour.gpu, hour.difference) for hour in hours] == [
        (Decimal("0.6"), None, Decimal("-0.6")), (None, Decimal("0.2"), Decimal("0.2")),
    ]
    assert hours[0].as_dict() == {
        "start": "2026-11-20T10:00:00Z", "endpoint": "ep1", "ledger_seconds": 60.0, "unpriced_seconds": 0.0,
        "ledger_cost": "0.6", "gpu_amount": None, "total_amount": None, "difference": "-0.6",
    }


def test_hours_outside_are_left_out() -> None:
    assert compare([booked(TEN, 1), booked(NOON, 1)], [billed(ONE, "1")], ELEVEN, NOON) == []


def test_seconds_without_a_price_are_told_and_cost_nothing() -> None:
    [hour] = compare([booked(TEN, 2_000), booked(TEN, 7_000, price=None)], [], TEN, ELEVEN)
    assert (hour.ledger_ms, hour.unpriced_ms, hour.ledger) == (9_000, 7_000, Decimal("0.02"))


def test_prices_may_change_within_an_hour() -> None:
    [hour] = compare([booked(TEN, 1_000), booked(TEN, 1_000, price=2 * CENT)], [], TEN, ELEVEN)
    assert hour.ledger == Decimal("0.03")


def test_whole_hours_are_compared() -> None:
    minute = datetime(2026, 11, 20, 10, 59, tzinfo=UTC)
    assert whole_hours(minute, datetime(2026, 11, 20, 12, 1, tzinfo=UTC), []) == (TEN, ONE)
    assert whole_hours(TEN, NOON, []) == (TEN, NOON)
    assert whole_hours(None, None, [booked(ELEVEN, 1), booked(TEN, 1)]) == (TEN, NOON)
    assert whole_hours(None, ONE, [booked(TEN, 1)]) == (TEN, ONE)


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(NothingToCompare, match="--since and --until"):
        whole_hours(None, None, [])
    with pytest.raises(NothingToCompare, match="no hour"):
        whole_hours(NOON, TEN, [])


def test_what_is_shown_names_hours_sums_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    ledger = [booked(TEN, 60_000), booked(TEN, 5_000, price=None)]
    show_comparison(compare(ledger, [billed(TEN, "0.66"), billed(ELEVEN, "0.1")], TEN, NOON), TEN, NOON)
    shown = capsys.readouterr().out
    [hour] = [line.split() for line in shown.splitlines() if line.startswith(" 11-20 10:00")]
    assert hour[2:] == ["ep1", "65.000", "0.6000", "0.6600", "0.6600", "+0.0600", "+10.0"]
    [sums] = [line.split() for line in shown.splitlines() if "total" in line]
    assert sums[1:] == ["65.000", "0.6000", "0.7600", "0.7600", "+0.1600", "+26.7"]
    assert "5.000 s have no price" in shown


def test_a_ledger_without_prices_can_be_compared(tmp_path: Path) -> None:
    hours = booked_hours(ledger_of(tmp_path, short_life(Worker(price=Price()))))
    assert [hour.price for hour in hours] == [None]
