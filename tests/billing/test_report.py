"""What the report says: every second and every cent of the ledger, once, whatever it is divided by."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from engine.percentiles import percentiles
from handler.billing.identity import Identity
from handler.billing.lines import Asked, Line, Lines, Outcome, Spent
from handler.billing.meter import Amount
from handler.billing.price import Price
from handler.billing.reading.contract import as_fields
from handler.billing.reading.figures import exact_json
from handler.billing.reading.ledger import open_ledger
from handler.billing.reading.report import make_report, weighted_percentiles
from handler.billing.reading.summary import KEYS
from handler.billing.segment import encode
from handler.epochs import Epoch, Moment
from tests.billing.ledgers import BEGAN_S, Shape, Truth, make_ledger, write_object

SHAPE = Shape(requests=600, per_object=30, repeated=0.5)
PRICED = Price(Decimal("0.00031"), "flex", "2026-06-08")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("ledger")
    return folder, make_ledger(folder, SHAPE)


def told(place: Path, by: Sequence[str] = (), **period: Any) -> dict[str, Any]:
    """The report as whoever parses its JSON has it, with exact numbers."""
    with open_ledger(str(place), **period) as ledger:
        fields: dict[str, Any] = json.loads(exact_json(as_fields(make_report(ledger, by))), parse_float=Decimal)
    return fields


class Life:
    """Lines of an epoch, written by hand."""

    def __init__(self, boot: str = "boot", price: Price = PRICED, tenant: str | None = "t") -> None:
        self._lines = Lines(Identity("e", "w", boot), Epoch(0, "fresh", Moment(BEGAN_S, 0.0)), "demo", price)
        self._boot = boot
        self._tenant = tenant
        self._now = 0
        self._written: list[Line] = [self._lines.open(self._stamp(), 0, 0, [])]

    def _stamp(self) -> str:
        return self._lines.stamp(self._now)

    def phase(self, phase: Any, ms: int, warmup: bool | None = False) -> Life:
        self._written.append(self._lines.phase(self._stamp(), Amount(phase, warmup, self._now, ms)))
        self._now += ms
        return self

    def request(self, ms: int, start_kind: Any = "warm", warmup: bool = False, arrived: int = 0, **more: Any) -> Life:
        asked = Asked(f"r{len(self._written)}", start_kind, warmup, None, self._tenant)
        outcome, spent = Outcome("stop", 5, 50, 10, 0, 20), Spent(ms, ms)
        line = self._lines.request(self._stamp(), self._lines.stamp(arrived), asked, outcome, spent)
        self._written.append(line | more)
        return self

    def write(self, folder: Path) -> Path:
        lines = [encode(line, f"{self._boot}-0.abcd-{number}") for number, line in enumerate(self._written, 1)]
        write_object(folder, lines)
        return folder


def seconds(ms: Counter[str], warmup: Counter[str]) -> dict[str, Decimal]:
    amounts = {phase: Decimal(ms[phase]) / 1000 for phase in ("boot", "execution", "idle", "drain", "rounding")}
    return {"total": Decimal(ms.total()) / 1000, **amounts, "warmup": Decimal(warmup.total()) / 1000}


def summed(parts: Iterable[dict[str, Any]]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for part in parts:
        sums.update(part)
    return sums


def test_it_has_every_millisecond_of_the_ledger_and_its_price(made: tuple[Path, Truth]) -> None:
    folder, truth = made
    fields = told(folder)
    assert fields["seconds"] == seconds(truth.ms, truth.warmup_ms)
    assert fields["cost"] == truth.ms.total() * Decimal("0.00031") / 1000
    assert fields["warmup_cost"] == truth.warmup_ms.total() * Decimal("0.00031") / 1000
    assert fields["cold_start_cost"] == truth.ms["boot"] * Decimal("0.00031") / 1000
    assert fields["cold_start_warmup_cost"] == truth.warmup_ms["boot"] * Decimal("0.00031") / 1000
    assert (fields["requests"], fields["warmups"]) == (truth.requests, truth.warmups)
    assert fields["output_tokens"] == truth.output_tokens
    assert (fields["cold_starts"], fields["restores"], fields["unclosed_epochs"]) == (SHAPE.workers, 0, SHAPE.unclosed)
    assert fields["objects"] == truth.objects + truth.repeated


@pytest.mark.parametrize("by", [(key,) for key in KEYS] + list(combinations(KEYS, 2)) + [tuple(KEYS)], ids=",".join)
def test_groups_sum_to_the_whole(made: tuple[Path, Truth], by: tuple[str, ...]) -> None:
    fields = told(made[0], by)
    groups = fields["groups"]
    assert summed(group["seconds"] for group in groups) == Counter(fields["seconds"])
    for name in ("cost", "warmup_cost", "requests", "warmups", "output_tokens", "prompt_tokens", "unpriced_seconds"):
        assert sum(group[name] for group in groups) == fields[name], name
    keys = [tuple(group[key] for key in by) for group in groups]
    assert len(set(keys)) == len(keys)


def test_requests_are_counted_by_the_day_they_came_and_their_tenant(made: tuple[Path, Truth]) -> None:
    fields = told(made[0], ["day", "tenant"])
    counts = {(group["day"], group["tenant"]): group["requests"] for group in fields["groups"] if group["requests"]}
    assert counts == {(day, tenant or ""): count for (day, tenant), count in made[1].by_day_and_tenant.items()}


def test_time_of_no_request_is_a_group_of_its_own(tmp_path: Path) -> None:
    life = Life().phase("boot", 4000).phase("execution", 1000).request(700, arrived=4000).phase("idle", 2000)
    a, nobody = sorted(told(life.write(tmp_path), ["tenant"])["groups"], key=lambda group: group["tenant"] is None)
    assert (a["tenant"], a["seconds"]["execution"], a["seconds"]["total"]) == ("t", Decimal("0.7"), Decimal("0.7"))
    assert (nobody["tenant"], nobody["no_request"], nobody["requests"]) == (None, True, 0)
    assert nobody["seconds"]["execution"] == Decimal("0.3"), "a request that has not ended has its share there"
    assert nobody["seconds"]["total"] == Decimal("6.3")


def test_a_request_without_a_tenant_is_not_the_time_without_a_request(tmp_path: Path) -> None:
    life = Life(tenant=None).phase("idle", 1000).phase("execution", 1000).request(1000, arrived=1000)
    groups = told(life.write(tmp_path), ["tenant"])["groups"]
    assert {group["tenant"]: group["seconds"]["total"] for group in groups} == {"": Decimal(1), None: Decimal(1)}


def test_warm_ups_are_nobodys_requests_and_nobody_waited_for_them(tmp_path: Path) -> None:
    life = Life().phase("boot", 1000, None).phase("execution", 500, True).request(500, "fresh", warmup=True)
    fields = told(life.write(tmp_path))
    assert (fields["requests"], fields["warmups"], fields["output_tokens"]) == (0, 1, 0)
    assert fields["seconds"]["warmup"] == Decimal("1.5")
    assert fields["first_token_ms"]["fresh"] == {"p50": None, "p95": None, "p99": None}
    assert fields["cost_per_1000_output_tokens"] is None


def test_lost_requests_are_told_and_those_without_a_name_are_not_counted(tmp_path: Path) -> None:
    life = Life().phase("execution", 1000).request(400, finish_reason="lost")
    fields = told(life.request(600, finish_reason="lost", request=None).write(tmp_path))
    assert (fields["requests"], fields["lost_requests"]) == (1, 1)
    assert fields["seconds"]["execution"] == 1


def test_seconds_without_a_price_have_no_cost(tmp_path: Path) -> None:
    life = Life(price=Price()).phase("boot", 1500).phase("execution", 250).request(250, arrived=1500)
    fields = told(life.write(tmp_path), ["tenant"])
    assert (fields["cost"], fields["unpriced_seconds"]) == (None, Decimal("1.75"))
    assert fields["cost_per_1000_output_tokens"] is fields["cold_start_cost"] is fields["warmup_cost"] is None
    assert [group["cost"] for group in fields["groups"]] == [None, None]


def test_what_has_a_price_is_summed_though_some_has_none(tmp_path: Path) -> None:
    Life("b1", Price()).phase("idle", 1000).write(tmp_path)
    Life("b2").phase("idle", 2000).write(tmp_path)
    fields = told(tmp_path)
    assert (fields["cost"], fields["unpriced_seconds"]) == (Decimal("0.00062"), Decimal(1))


def test_cost_in_json_is_a_number_with_exactly_its_digits(tmp_path: Path) -> None:
    price = Price(Decimal("0.000310000000007"))
    life = Life(price=price)
    for _ in range(101):
        life.phase("idle", 1)
    with open_ledger(str(life.write(tmp_path))) as ledger:
        text = exact_json(as_fields(make_report(ledger)))
    assert '"cost": 0.000031310000000707,' in text
    assert '"total": 0.101,' in text
    assert isinstance(json.loads(text)["cost"], float)


def test_an_empty_ledger_is_all_zeros(tmp_path: Path) -> None:
    fields = told(tmp_path, ["day", "tenant"])
    assert (fields["seconds"]["total"], fields["cost"], fields["requests"], fields["groups"]) == (0, 0, 0, [])
    assert fields["boots"] == []


def test_hours_and_days_are_told_in_utc_and_in_order(made: tuple[Path, Truth]) -> None:
    days = [group["day"] for group in told(made[0], ["day"])["groups"]]
    hours = [group["hour"] for group in told(made[0], ["hour"])["groups"]]
    assert days == ["2026-11-21", "2026-11-22", "2026-11-23"]
    assert hours[0] == "2026-11-21T00:00:00Z"
    assert hours == sorted(hours)


def test_an_epoch_that_goes_on_after_the_period_is_not_unclosed(tmp_path: Path) -> None:
    shape = replace(SHAPE, unclosed=0, days=6.0)
    make_ledger(tmp_path, shape)
    from datetime import date

    assert told(tmp_path)["unclosed_epochs"] == 0
    assert told(tmp_path, until=date(2026, 11, 22))["unclosed_epochs"] == 0


def test_time_before_a_period_s_first_request_has_the_mark_of_a_request_after_it(tmp_path: Path) -> None:
    from datetime import datetime

    life = Life().phase("boot", 3000, None).phase("idle", 3600_000, None).phase("execution", 10, True)
    place = life.request(10, "fresh", warmup=True, arrived=3_603_000).write(tmp_path)
    fields = told(place, until=datetime.fromisoformat("2026-11-21T01:00:00Z"))
    assert fields["warmups"] == 0
    assert fields["seconds"]["warmup"] == fields["seconds"]["total"] == 3603


def test_cold_starts_are_told_with_what_took_longest(made: tuple[Path, Truth]) -> None:
    newest = told(made[0])["boots"][0]
    assert (newest["worker"], newest["at"]) == ("worker0003", "2026-11-21T00:03:00.000Z")
    assert (newest["ready_s"], newest["cost"]) == (Decimal("4.321"), Decimal("0.00133951"))
    assert newest["spans"][0] == {"name": "weights", "start_s": Decimal("0.4"), "end_s": Decimal("3.1")}


def test_delays_are_users_by_what_they_found(made: tuple[Path, Truth]) -> None:
    first = told(made[0])["first_token_ms"]
    assert 12 <= first["warm"]["p50"] < first["warm"]["p95"] < first["warm"]["p99"] < 252
    assert first["fresh"]["p50"] is not None
    assert first["restored"]["p50"] is None


@pytest.mark.parametrize("values", [[7], [1, 1, 9], [3, 1, 4, 1, 5, 9, 2, 6], list(range(1000)), [0] * 99 + [10**6]])
def test_percentiles_of_counts_are_those_of_the_values(values: list[int]) -> None:
    assert weighted_percentiles(sorted(Counter(values).items())) == percentiles(values)
    assert weighted_percentiles([]) == percentiles([])
