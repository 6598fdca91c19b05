"""What billing learns from RunPod's management API, and what a user reads when it does not answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from handler.billing.price_list import Row
from handler.billing.reading.prices import fetch_prices
from handler.billing.runpod_api import RunPodApi, RunPodTrouble
from tests.billing.runpod_server import KEY, Api, api_server

SINCE, UNTIL = datetime(2026, 11, 20, 22, tzinfo=UTC), datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture
def server() -> Iterator[Api]:
    with api_server() as api:
        yield api


def client(server: Api, timeout: float = 60.0) -> RunPodApi:
    return RunPodApi(KEY, server.url, timeout)


def test_the_catalogue_becomes_a_price_list(server: Api) -> None:
    server.answers(b"""{"gpus": [
        {"id": "NVIDIA L4", "name": "L4", "pool": "AMPERE_24", "price": {"secure": 0.39, "serverless": 0.69}},
        {"id": "NVIDIA RTX A5000", "name": "RTX A5000", "pool": "AMPERE_24", "price": {"serverless": 0.69}},
        {"id": "NVIDIA B200", "name": "B200", "pool": null, "price": {"serverless": 8.64}},
        {"id": "NVIDIA A30", "name": "A30", "pool": null, "price": {"secure": 0.2, "serverless": null}},
        {"id": "NVIDIA V100", "name": "V100", "pool": null}]}""")
    table = fetch_prices(client(server), "2026-11-21")
    assert table.date == "2026-11-21"
    assert table.rows == (
        Row("AMPERE_24", ("NVIDIA L4", "L4", "NVIDIA RTX A5000", "RTX A5000"), Decimal("0.000191666667")),
        Row(None, ("NVIDIA B200", "B200"), Decimal("0.0024")),
    )
    assert server.asked == [("/v2/catalog/gpus", {}, f"Bearer {KEY}")]


def test_a_catalogue_without_prices_is_an_error(server: Api) -> None:
    server.answers({"gpus": []})
    with pytest.raises(RunPodTrouble, match="no GPU with a serverless price"):
        fetch_prices(client(server))


def test_what_was_billed_is_asked_for_by_the_hour_and_read_to_the_last_digit(server: Api) -> None:
    server.answers(b"""{"records": [{"startTime": "2026-11-20T22:00:00Z", "endTime": "2026-11-20T23:00:00Z",
        "serverlessId": "ep1", "totalAmount": 0.1000000000000000055, "gpuAmount": 0.1, "cpuAmount": 0}],
        "metadata": {"recordCount": 1}}""")
    [billed] = client(server).billed(SINCE, UNTIL, "ep1")
    assert (billed.start, billed.endpoint, billed.gpu) == (SINCE, "ep1", Decimal("0.1"))
    assert billed.total == Decimal("0.1000000000000000055")
    query = {"startTime": "2026-11-20T22:00:00Z", "endTime": "2026-11-21T00:00:00Z", "bucketSize": "hour",
             "serverlessId": "ep1"}
    assert server.asked == [("/v2/billing/serverless", query, f"Bearer {KEY}")]


def test_times_are_utc_whatever_zone_either_side_writes(server: Api) -> None:
    server.answers({"records": [{"startTime": "2026-11-20T23:00:00+01:00", "serverlessId": "e"},
                                {"startTime": "2026-11-20T22:00:00", "serverlessId": "e"}]})
    records = client(server).billed(SINCE.astimezone(timezone(timedelta(hours=5))), UNTIL)
    assert [record.start for record in records] == [SINCE, SINCE]
    assert server.asked[0][1]["startTime"] == "2026-11-20T22:00:00Z"


PROBLEM = {"title": "Unauthorized", "status": 401, "detail": "no such key", "errors": []}


@pytest.mark.parametrize(
    ("status", "body", "headers", "said"),
    [
        (401, PROBLEM, {}, "HTTP 401, Unauthorized: no such key (is RUNPOD_API_KEY right?)"),
        (429, {"title": "Too Many Requests"}, {"RateLimit": '"minute";r=0;t=12, "hour";r=2000;t=1800'},
         "HTTP 429, Too Many Requests (try again in 12 s)"),
        (429, b"slow down", {"Retry_After": "7"}, "HTTP 429 (try again in 7 s)"),
        (429, b"", {}, "HTTP 429 (too many requests: try again later)"),
        (503, b"<html>\n<h1>down</h1>", {}, "HTTP 503"),
        (302, b"", {"Location": "http://127.0.0.1:1/"}, "HTTP 302"),
        (500, b"[" * 100_000, {}, "HTTP 500"),
        (404, {"title": "Not\nFound", "detail": "x" * 10_000}, {}, "HTTP 404, Not Found: xxx"),
        (200, b"<html>", {}, "the answer is not JSON"),
        (200, b"[" * 100_000, {}, "the answer is not JSON"),
        (200, b"\xff\xfe{", {}, "the answer is not JSON"),
        (200, [], {}, "the answer has no list of gpus"),
        (200, {"gpus": {"a": 1}}, {}, "the answer has no list of gpus"),
        (200, {"gpus": [1]}, {}, "the answer has no list of gpus"),
        (200, {"gpus": [{"id": "L4", "price": {"serverless": "low"}}]}, {}, "price of L4 is no amount of money: low"),
        (200, b'{"gpus": [{"id": "L4", "price": {"serverless": NaN}}]}', {}, "no amount of money: nan"),
    ],
)
def test_what_goes_wrong_is_one_line(
    server: Api, status: int, body: Any, headers: dict[str, str], said: str
) -> None:
    server.answers(body, status, **headers)
    text = trouble(client(server))
    assert said in text
    assert len(text) < 400


def test_a_record_without_an_hour_is_an_error(server: Api) -> None:
    server.answers({"records": [{"serverlessId": "e", "startTime": "yesterday"}]})
    with pytest.raises(RunPodTrouble, match="names no hour and endpoint"):
        client(server).billed(SINCE, UNTIL)


def test_a_server_that_does_not_answer_is_given_up(server: Api) -> None:
    server.answer.hang = True
    assert "no answer in time" in trouble(client(server, timeout=0.2))


def test_an_answer_that_is_cut_off_is_an_error(server: Api) -> None:
    server.answers({"gpus": []})
    server.answer.cut = True
    assert "GET /catalog/gpus at 127.0.0.1:" in trouble(client(server, timeout=0.5))


def test_nobody_listening_is_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert "refused" in trouble(RunPodApi(KEY, f"http://127.0.0.1:{free.getsockname()[1]}")).lower()


@pytest.mark.parametrize("url", ["nowhere", "ftp://host/v2", "http://[", "http://host:99999", "http://"])
def test_an_address_that_is_none_is_one_line(url: str) -> None:
    assert "GET /catalog/gpus" in trouble(RunPodApi(KEY, url))


@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_server_that_repeats_the_key_does_not_make_it_known(server: Api, status: int) -> None:
    said = {"title": "x" * 190 + KEY, "detail": KEY, "gpus": [{"id": KEY, "price": {"serverless": KEY}}]}
    server.answers(said, status)
    text = trouble(client(server))
    assert "[key]" in text or status != 200
    assert KEY[:8] not in text


def test_an_address_keeps_its_password_to_itself() -> None:
    assert "hunter2" not in trouble(RunPodApi(KEY, "http://me:hunter2@127.0.0.1:1/v2?token=hunter2"))


def test_the_environment_names_the_key_and_the_address(server: Api) -> None:
    server.answers({"gpus": [{"id": "NVIDIA L4", "price": {"serverless": 1}}]})
    environment = {"RUNPOD_API_KEY": f" {KEY}\n", "PILOTLIGHT_RUNPOD_API": f"{server.url}/"}
    assert RunPodApi.from_environment(environment).gpus()[0].gpu == "NVIDIA L4"
    assert RunPodApi.from_environment({"RUNPOD_API_KEY": KEY}).place == "api.runpod.io"


@pytest.mark.parametrize("key", [None, "", "  ", "k\u00e9y", "a\nb"])
def test_a_key_that_is_none_is_refused_without_showing_it(key: str | None) -> None:
    with pytest.raises(RunPodTrouble, match="RUNPOD_API_KEY") as caught:
        RunPodApi.from_environment({} if key is None else {"RUNPOD_API_KEY": key})
    assert not key or not key.strip() or key not in str(caught.value)


def trouble(api: RunPodApi) -> str:
    with pytest.raises(RunPodTrouble) as caught:
        api.gpus()
    text = str(caught.value)
    assert "\n" not in text
    assert json.dumps(text)
    return text
