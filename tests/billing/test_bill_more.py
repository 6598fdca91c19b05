"""`pilotlight bill` export, verify, reconcile and prices, as a user types them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from handler.billing.command import app
from handler.billing.price_list import find_price, read_prices, refreshed_path
from handler.billing.store import open_store
from tests.billing.focus_rules import violations
from tests.billing.lives import short_life
from tests.billing.runpod_server import KEY, Api, api_server


@pytest.fixture
def place(tmp_path: Path) -> str:
    store = open_store(str(tmp_path / "ledger"))
    short_life().bring_to(store)
    return str(tmp_path / "ledger")


@pytest.fixture
def runpod(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with api_server() as api:
        monkeypatch.setenv("PILOTLIGHT_RUNPOD_API", api.url)
        monkeypatch.setenv("RUNPOD_API_KEY", KEY)
        yield api


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PILOTLIGHT_LEDGER", f"file://{tmp_path}/ledger")
    for name in ("PILOTLIGHT_PRICES", "RUNPOD_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def bill(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def bill_json(*arguments: str) -> dict[str, Any]:
    result = bill(*arguments, "--json")
    fields = json.loads(result.stdout)
    assert isinstance(fields, dict)
    return fields


def test_verify_says_that_a_ledger_is_whole(place: str) -> None:
    result = bill("verify")
    assert result.exit_code == 0
    assert "is whole: 4 objects, 19 lines, 3 requests" in result.stdout
    assert bill_json("verify", "--from", place)["ok"] is True


def test_verify_fails_with_what_is_wrong_and_where(place: str) -> None:
    next(Path(place).rglob("*-00000005-*.gz")).unlink()
    assert bill("verify").exit_code == 1
    found = bill_json("verify")
    assert found["ok"] is False
    assert [(problem["kind"], problem["detail"]) for problem in found["problems"]] == [
        ("gap", "missing lines: 5 to 10; with them 2000 ms")
    ]


def test_verify_of_nothing_is_no_success(place: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no ledger" in str(bill("verify", "--from", str(tmp_path / "empty")).exception)
    assert bill("verify", "--from", str(tmp_path / "typo")).exit_code == 1


def test_a_ledger_that_is_off_is_named_as_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOTLIGHT_LEDGER", "off")
    assert "PILOTLIGHT_LEDGER is off" in str(bill("verify").exception)


def test_focus_goes_to_a_file_or_to_standard_output(place: str, tmp_path: Path) -> None:
    file = tmp_path / "focus.csv"
    result = bill("export", "--format", "focus", "--out", str(file), "--account-id", "acct-7")
    assert (result.exit_code, result.stdout) == (0, "")
    text = file.read_text()
    assert violations(io.StringIO(text)) == []
    assert {row["BillingAccountId"] for row in csv.DictReader(io.StringIO(text))} == {"acct-7"}
    assert bill("export", "--format", "focus", "--out", "-", "--account-id", "acct-7").stdout == text


def test_an_export_that_fails_leaves_the_file_before_it(place: str, tmp_path: Path) -> None:
    file = tmp_path / "focus.csv"
    file.write_text("last month's")
    assert bill("export", "--format", "focus", "--out", str(file), "--from", str(tmp_path / "typo")).exit_code == 1
    assert file.read_text() == "last month's"
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    "wrong",
    [
        ("--format", "excel", "--out", "x"), ("--format", "focus"), ("--format", "focus", "--out", "s3://bucket/x"),
        ("--format", "focus", "--out", "x", "--price", "cheap"), ("--format", "focus", "--out", "x", "--price", "-1"),
        ("--format", "focus", "--out", "x", "--since", "yesterday"),
    ],
)
def test_bad_usage_is_told_as_such(wrong: tuple[str, ...]) -> None:
    assert bill("export", *wrong).exit_code == 2


def test_parquet_goes_to_a_folder_a_file_a_day(place: str, tmp_path: Path) -> None:
    result = bill("export", "--format", "parquet", "--out", str(tmp_path / "days"), "--until", "2026-11-20")
    assert result.exit_code == 0
    assert "dt=2026-11-20/2026-11-20.parquet: 19 lines" in result.stdout
    assert (tmp_path / "days" / "dt=2026-11-20" / "2026-11-20.parquet").is_file()


def test_reconcile_sets_the_ledger_beside_the_bill(place: str, runpod: Api) -> None:
    runpod.answers({"records": [{
        "startTime": "2026-11-20T22:00:00Z", "endTime": "2026-11-20T23:00:00Z", "serverlessId": "ep1",
        "totalAmount": 0.0071, "gpuAmount": 0.0068,
    }]})
    [hour] = bill_json("reconcile")["hours"]
    assert hour == {
        "start": "2026-11-20T22:00:00Z", "endpoint": "ep1", "ledger_seconds": 21.0, "unpriced_seconds": 0.0,
        "ledger_cost": "0.00651", "gpu_amount": "0.0068", "total_amount": "0.0071", "difference": "0.00029",
    }
    query = {"startTime": "2026-11-20T22:00:00Z", "endTime": "2026-11-20T23:00:00Z", "bucketSize": "hour"}
    assert runpod.asked[-1][1] == query
    shown = bill("reconcile", "--since", "2026-11-20", "--until", "2026-11-20", "--endpoint", "ep1")
    assert shown.exit_code == 0
    assert "+0.0003" in shown.stdout
    wider = {"startTime": "2026-11-20T00:00:00Z", "endTime": "2026-11-21T00:00:00Z", "serverlessId": "ep1"}
    assert runpod.asked[-1][1] == query | wider


def test_a_stretch_that_began_an_hour_before_is_in_its_first_hour(tmp_path: Path, runpod: Api) -> None:
    from tests.billing.lives import Worker

    worker = Worker(began="2026-11-20T21:30:00Z")
    worker.ready(2_000)
    worker.close(2_400)
    worker.bring_to(open_store(str(tmp_path / "ledger")))
    runpod.answers({"records": []})
    [hour] = bill_json("reconcile", "--since", "2026-11-20T22:00", "--until", "2026-11-20T23:00")["hours"]
    assert hour["ledger_seconds"] == 600.0


def test_reconcile_takes_the_widest_period_there_is(place: str, runpod: Api) -> None:
    runpod.answers({"records": []})
    [hour] = bill_json("reconcile", "--since", "1970-01-01", "--until", "2999-12-31")["hours"]
    assert hour["ledger_seconds"] == 21.0


def test_reconcile_without_a_key_says_so(place: str) -> None:
    assert "RUNPOD_API_KEY is not set" in str(bill("reconcile").exception)


CATALOGUE = {"gpus": [{"id": "NVIDIA L4", "name": "L4", "pool": "AMPERE_24", "price": {"serverless": 0.72}}]}


def test_prices_shows_the_list_in_use() -> None:
    assert bill_json("prices")["date"] == "2026-06-08"
    shown = bill("prices").stdout
    assert "ADA_24" in shown
    assert "0.00031" in shown


def test_prices_are_refreshed_where_workers_find_them(runpod: Api) -> None:
    runpod.answers(CATALOGUE)
    result = bill("prices", "--refresh")
    assert result.exit_code == 0
    assert KEY not in result.output
    price, _ = find_price("NVIDIA L4", 1, kind="flex", override=None, prices_file=None)
    assert str(price.per_second) == "0.0002"
    assert bill_json("prices")["file"] == str(refreshed_path())


def test_a_refreshed_list_can_go_elsewhere(runpod: Api, tmp_path: Path) -> None:
    runpod.answers(CATALOGUE)
    assert bill("prices", "--refresh", "--out", str(tmp_path / "mine.json")).exit_code == 0
    assert read_prices(tmp_path / "mine.json").rows[0].pool == "AMPERE_24"
    assert not refreshed_path().exists()


def test_a_refresh_that_fails_keeps_the_list_and_the_key_to_itself(runpod: Api) -> None:
    runpod.answers(CATALOGUE)
    bill("prices", "--refresh")
    before = refreshed_path().read_text()
    runpod.answers({"title": "Unauthorized", "detail": f"no key {KEY}"}, 401)
    result = bill("prices", "--refresh")
    assert result.exit_code == 1
    assert "HTTP 401" in str(result.exception)
    assert KEY not in str(result.exception) + result.output
    assert refreshed_path().read_text() == before
