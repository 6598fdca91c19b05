"""The export in FOCUS 1.2 keeps the specification's rules, and has every second and every cent once."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from handler.billing.price import Price
from handler.billing.reading.focus import Account, NoPrice, write_focus
from handler.billing.reading.ledger import open_ledger
from tests.billing.focus_rules import MANDATORY, OPTIONAL, Row, violations
from tests.billing.lives import PRICE, Worker, ledger_of, random_life, short_life

LATER = datetime(2026, 12, 24, tzinfo=UTC)


def exported(tmp_path: Path, *workers: Worker, account: Account = Account(), now: datetime = LATER) -> str:  # noqa: B008
    out = io.StringIO(newline="")
    rows = write_focus(ledger_of(tmp_path, *workers), out, account, now=now)
    assert rows == len(list(csv.reader(io.StringIO(out.getvalue())))) - 1
    return out.getvalue()


def rows_of(text: str) -> list[Row]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture(scope="module")
def workers() -> list[Worker]:
    return [short_life(), random_life(6), random_life(7)]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, workers: list[Worker]) -> str:
    return exported(tmp_path_factory.mktemp("several"), *workers)


@pytest.fixture(scope="module")
def good(text: str) -> list[Row]:
    return rows_of(text)


def test_an_export_keeps_every_rule(text: str) -> None:
    assert violations(io.StringIO(text)) == []
    assert set(MANDATORY + OPTIONAL) <= set(rows_of(text)[0])


def test_every_millisecond_and_its_cost_stand_once(workers: list[Worker], good: list[Row]) -> None:
    lines = [line for worker in workers for segment in worker.segments for line in segment.lines]
    ms, got = Counter[str](), Counter[str]()
    for line in lines:
        if line["kind"] == "phase":
            ms[line["phase"]] += line["ms"]
    for row in good:
        got[row["x_Phase"]] += int(row["x_Milliseconds"])
    assert got == ms
    assert PRICE.per_second is not None
    assert sum(Decimal(row["BilledCost"]) for row in good) == PRICE.per_second * sum(ms.values()) / 1000
    assert sum(Decimal(row["PricingQuantity"]) for row in good) == Decimal(sum(ms.values())) / 1000
    assert len({row["x_RecordId"] for row in good}) == len(good)


def test_a_request_is_a_row_with_all_that_is_known_of_it(good: list[Row]) -> None:
    [row] = [row for row in good if row["x_JobId"] == "job-1"]
    expected = {
        "BilledCost": "0.0006045", "PricingQuantity": "1.950", "ListUnitPrice": "0.00031",
        "ChargePeriodStart": "2026-11-20T22:00:06Z", "ChargePeriodEnd": "2026-11-20T22:00:09Z",
        "BillingPeriodStart": "2026-11-01T00:00:00Z", "BillingPeriodEnd": "2026-12-01T00:00:00Z",
        "SkuId": "runpod-serverless:ADA_24:flex", "SkuPriceDetails": '{"GpuCount": 1, "InstanceType": '
        '"NVIDIA GeForce RTX 4090"}', "ResourceId": "worker1", "SubAccountId": "ep1", "RegionId": "EU-RO-1",
        "Tags": '{"model": "demo", "tenant": "acme"}', "x_StartKind": "warm", "x_CompletionTokens": "30",
        "x_StartTime": "2026-11-20T22:00:06.000Z", "x_PriceDate": "2026-06-08", "x_Warmup": "false",
    }
    assert {name: row[name] for name in expected} == expected


def test_commas_quotes_and_accents_come_through(good: list[Row]) -> None:
    tenants = {json.loads(row["Tags"]).get("tenant") for row in good}
    assert tenants == {None, "a", "b", "acme", "Zoë, & Söhne"}


def test_phases_are_summed_by_the_hour_and_split_where_the_month_ends(tmp_path: Path) -> None:
    worker = Worker(began="2026-11-30T22:59:58Z")
    worker.ready(1)
    for second in range(8, 7_300, 8):
        worker.flush(second)
    worker.close(7_300)
    text = exported(tmp_path, worker)
    idle = {row["ChargePeriodStart"]: row for row in rows_of(text) if row["x_Phase"] == "idle"}
    assert list(idle) == [
        "2026-11-30T22:00:00Z", "2026-11-30T23:00:00Z", "2026-12-01T00:00:00Z", "2026-12-01T01:00:00Z",
    ]
    assert [row["PricingQuantity"] for row in idle.values()] == ["1.000", "3600.000", "3600.000", "97.750"]
    assert idle["2026-12-01T00:00:00Z"]["BillingPeriodStart"] == "2026-12-01T00:00:00Z"
    assert violations(io.StringIO(text)) == []


def test_a_request_over_the_end_of_a_month_is_billed_in_the_month_of_its_end(tmp_path: Path) -> None:
    worker = Worker(began="2026-12-31T23:59:50Z")
    worker.ready(1)
    worker.leave(worker.enter(8), 12.5)
    worker.close(20)
    text = exported(tmp_path, worker)
    [row] = [row for row in rows_of(text) if row["x_RequestId"]]
    assert row["ChargePeriodStart"] == row["BillingPeriodStart"] == "2027-01-01T00:00:00Z"
    assert row["ChargePeriodEnd"] == "2027-01-01T00:00:03Z"
    assert violations(io.StringIO(text)) == []


def test_seconds_without_a_price_are_refused_until_somebody_says_what_they_cost(tmp_path: Path) -> None:
    worker = short_life(Worker(price=Price(), gpu=None))
    with pytest.raises(NoPrice, match=r"21\.000 s have no price"):
        exported(tmp_path, worker)
    for price, total in (("0", "0"), ("0.002", "0.042")):
        text = exported(tmp_path, worker, account=Account(price=Decimal(price)))
        assert sum(Decimal(row["ListCost"]) for row in rows_of(text)) == Decimal(total)
        assert violations(io.StringIO(text)) == []


def test_the_account_is_whose_the_user_says(tmp_path: Path) -> None:
    [row, *_] = rows_of(exported(tmp_path, short_life(), account=Account("acct-7", "Research")))
    assert (row["BillingAccountId"], row["BillingAccountName"]) == ("acct-7", "Research")


def killed(began: str = "2026-11-20T22:00:00Z") -> Worker:
    """Nobody has closed its epoch, and its request has no line."""
    worker = Worker("killed", began=began)
    worker.ready(4)
    worker.enter(5)
    worker.flush(7)
    worker.seal()
    return worker


def test_execution_of_a_killed_worker_that_no_request_has_is_a_row_once_it_has_ended(tmp_path: Path) -> None:
    text = exported(tmp_path, killed())
    [row] = [row for row in rows_of(text) if row["x_Phase"] == "execution"]
    assert (row["x_Milliseconds"], row["x_RequestId"]) == ("2000", "")
    assert violations(io.StringIO(text)) == []
    living = exported(tmp_path, killed(), now=datetime(2026, 11, 20, 22, 1, tzinfo=UTC))
    assert "execution" not in {row["x_Phase"] for row in rows_of(living)}


def test_a_day_without_lines_is_a_header(tmp_path: Path) -> None:
    place = ledger_of(tmp_path, short_life()).place
    out = io.StringIO(newline="")
    with open_ledger(place, date(2026, 1, 1), date(2026, 1, 1)) as ledger:
        assert write_focus(ledger, out, Account()) == 0
    assert violations(io.StringIO(out.getvalue())) == []


def test_exports_of_days_have_each_line_once(tmp_path: Path) -> None:
    worker = Worker(began="2026-11-20T23:59:50Z")
    worker.ready(4)
    entry = worker.enter(5)
    worker.flush(7)
    worker.seal()
    worker.leave(entry, 12)
    worker.flush(13)
    worker.seal()
    ended, whole = killed(began="2026-11-20T23:59:50Z"), io.StringIO(newline="")
    place = ledger_of(tmp_path, worker, ended).place
    parts = []
    for day in (20, 21):
        out = io.StringIO(newline="")
        with open_ledger(place, date(2026, 11, day), date(2026, 11, day)) as ledger:
            write_focus(ledger, out, Account(), now=LATER)
        parts += rows_of(out.getvalue())
    with open_ledger(place) as ledger:
        write_focus(ledger, whole, Account(), now=LATER)
    assert sum(int(row["x_Milliseconds"]) for row in parts) == 13_000 + 7_000
    assert sorted(row["x_RecordId"] for row in parts) == sorted(row["x_RecordId"] for row in rows_of(whole.getvalue()))


def text_of(rows: list[Row]) -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


BREAKS = [
    ({"BilledCost": ""}, "BilledCost is null"),
    ({"BilledCost": "1e-05"}, "BilledCost is '1e-05': no plain number"),
    ({"BilledCost": "$1"}, "no plain number"),
    ({"ListCost": "0.0006046"}, "ListUnitPrice x PricingQuantity is not ListCost"),
    ({"PricingQuantity": "1.951"}, "ContractedUnitPrice x PricingQuantity is not ContractedCost"),
    ({"ListUnitPrice": "-0.00031"}, "ListUnitPrice is '-0.00031': negative"),
    ({"ListUnitPrice": ""}, "ListUnitPrice is null"),
    ({"ConsumedQuantity": "0"}, "ConsumedQuantity is not positive"),
    ({"ConsumedUnit": "seconds"}, "ConsumedUnit is 'seconds': no unit"),
    ({"ConsumedUnit": ""}, "of ConsumedQuantity and ConsumedUnit one alone is null"),
    ({"PricingUnit": "1000 tokens"}, "no unit"),
    ({"ChargePeriodStart": "2026-11-20T22:00:06.000Z"}, "no YYYY-MM-DDTHH:mm:ssZ"),
    ({"ChargePeriodStart": "2026-11-31T22:00:06Z"}, "no YYYY-MM-DDTHH:mm:ssZ"),
    ({"ChargePeriodEnd": "2026-11-20T22:00:06Z"}, "ChargePeriodEnd is not after its start"),
    ({"ChargePeriodEnd": "2026-12-01T00:00:01Z"}, "reaches out of the billing period"),
    ({"BillingPeriodStart": "2026-11-02T00:00:00Z"}, "no calendar month"),
    ({"BillingPeriodEnd": "2026-11-30T00:00:00Z"}, "not the next month's beginning"),
    ({"ChargeCategory": "usage"}, "not an allowed value"),
    ({"ChargeClass": "Normal"}, "not an allowed value"),
    ({"ChargeFrequency": "Hourly"}, "not an allowed value"),
    ({"PricingCategory": "Flex"}, "not an allowed value"),
    ({"PricingCategory": "Committed"}, "Committed without a commitment discount"),
    ({"ServiceCategory": "AI"}, "not an allowed value"),
    ({"ServiceSubcategory": "Serverless Compute"}, "of another ServiceCategory"),
    ({"BillingCurrency": "usd"}, "no currency"),
    ({"PricingCurrencyEffectiveCost": "7"}, "differs from EffectiveCost"),
    ({"CommitmentDiscountStatus": "Used"}, "CommitmentDiscountStatus stands without CommitmentDiscountId"),
    ({"CommitmentDiscountId": "d1"}, "CommitmentDiscountStatus is null"),
    ({"CapacityReservationStatus": "Used"}, "one alone is null"),
    ({"RegionName": ""}, "of RegionId and RegionName one alone is null"),
    ({"ResourceType": ""}, "of ResourceId and ResourceType one alone is null"),
    ({"ResourceName": "worker1"}, "ResourceName repeats ResourceId"),
    ({"SubAccountType": ""}, "one alone is null"),
    ({"SkuPriceId": ""}, "SkuPriceDetails stands without SkuPriceId"),
    ({"SkuId": "other"}, "SkuPriceId has two SkuIds"),
    ({"SkuPriceDetails": '{"gpuCount": 1}'}, "gpuCount is neither defined"),
    ({"SkuPriceDetails": '{"GpuCount": "1"}'}, "GpuCount is of the wrong type"),
    ({"Tags": '{"a": {}}'}, "a value is no number"),
    ({"Tags": '{"a": 1, "a": 2}'}, "a key stands twice"),
    ({"Tags": "[1]"}, "no JSON object"),
    ({"Tags": "tenant=acme"}, "no JSON"),
    ({"InvoiceId": "N/A"}, "a placeholder for null"),
    ({"AvailabilityZone": " "}, "a placeholder for null"),
]


@pytest.mark.parametrize(("change", "fault"), BREAKS)
def test_the_rules_catch_a_row_that_breaks_them(good: list[Row], change: Row, fault: str) -> None:
    place = next(place for place, row in enumerate(good) if row["x_JobId"] == "job-1")
    rows = [*good[:place], good[place] | change, *good[place + 1 :]]
    found = violations(io.StringIO(text_of(rows)))
    assert any(line.startswith(f"row {place + 1}: ") and fault in line for line in found), found


def test_the_rules_catch_a_header_that_breaks_them(good: list[Row]) -> None:
    without = [{name: value for name, value in row.items() if name != "ListCost"} for row in good]
    assert "row 0: ListCost is missing" in violations(io.StringIO(text_of(without)))
    added = [{"Colour": "red"} | row for row in good]
    assert "row 0: Colour is no FOCUS column and has no x_" in violations(io.StringIO(text_of(added)))
    mixed = [{"x_Colour": "red"} | row for row in good]
    assert "row 0: columns of one's own stand among those of FOCUS" in violations(io.StringIO(text_of(mixed)))
    assert len(violations(io.StringIO("a,a\n1,2\n"))) > len(MANDATORY)


def test_the_rules_catch_a_row_of_another_length(good: list[Row]) -> None:
    assert violations(io.StringIO(text_of(good) + "1,2,3\n"))[-1].endswith(f"3 values for {len(good[0])} columns")
