"""RunPod's management API v2: the documented shapes, a PATCH that changes what is given and no more, its limits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from handler.billing.price_list import SHIPPED, read_prices
from handler.billing.runpod_api import RunPodApi
from handler.epochs import Moment
from handler.local.bill import Charge, Total
from handler.local.management import Management, Mode
from handler.local.management_routes import management_router
from handler.local.parts import EndpointSettings, Parts
from handler.local.quota import Quota
from handler.local.scaler import Scaling
from handler.local.usage import BUCKETS, Bucket, beginning, ending, records
from tests.local.crew import PATIENT, WRITING, Crew, becomes, crew
from tests.local.up_process import up

Test = Callable[[httpx.AsyncClient, Crew], Awaitable[None]]


def manage(
    folder: Path, test: Test, scaling: Scaling | None = None, mode: Mode = "queue", program: str = PATIENT
) -> None:
    """Run a test with a client of the API, over a real crew."""

    async def body() -> None:
        async with crew(folder, program, scaling or Scaling(workers_max=0)) as endpoint:
            app = FastAPI()
            app.state.parts = Parts(endpoint.queue, endpoint.workers, EndpointSettings())
            prices = read_prices(SHIPPED)
            app.state.management = Management(
                endpoint.queue, endpoint.scaler, endpoint.workers, endpoint.bill, prices, "http://x", "image", mode,
                "ADA_24",
            )
            app.include_router(management_router(), prefix="/v2")
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x/v2") as client:
                await test(client, endpoint)

    asyncio.run(body())


def test_the_endpoint_object_has_the_documented_fields(tmp_path: Path) -> None:
    async def test(client: httpx.AsyncClient, endpoint: Crew) -> None:
        shown = (await client.get("/serverless/local")).json()
        assert shown.keys() == {
            "id", "name", "type", "requestUrls", "image", "args", "disk", "ports", "env", "registry", "gpu", "workers",
            "scaling", "dataCenterIds", "networkVolumes", "timeout", "flashboot", "createdAt",
        }
        assert (shown["id"], shown["type"], shown["flashboot"]) == ("local", "QUEUE", "OFF")
        assert shown["workers"] == {"min": 0, "max": 3, "idleTimeout": 5}
        assert shown["scaling"] == {"type": "QUEUE_DELAY", "queueDelay": 4.0}
        assert shown["requestUrls"]["runSync"] == "http://x/v2/local/runsync"
        assert (await client.get("/serverless")).json() == {"endpoints": [shown]}

    manage(tmp_path, test, Scaling())


def test_patch_changes_what_is_given_and_nothing_else(tmp_path: Path) -> None:
    async def test(client: httpx.AsyncClient, endpoint: Crew) -> None:
        async def patched(body: dict[str, Any]) -> dict[str, Any]:
            answer = await client.patch("/serverless/local", json=body)
            assert answer.status_code == 200, answer.text
            shown: dict[str, Any] = answer.json()
            return shown

        assert (await patched({"workers": {"max": 7}}))["workers"] == {"min": 0, "max": 7, "idleTimeout": 5}
        assert (await patched({"workers": {"idleTimeout": 10}}))["workers"] == {"min": 0, "max": 7, "idleTimeout": 10}
        by_count = await patched({"scaling": {"type": "REQUEST_COUNT", "requestCount": 2}})
        assert by_count["scaling"] == {"type": "REQUEST_COUNT", "requestCount": 2}
        assert by_count["workers"] == {"min": 0, "max": 7}, "with REQUEST_COUNT there is no idle timeout to set"
        assert (await patched({"flashboot": "FLASHBOOT"}))["flashboot"] == "FLASHBOOT"
        assert (await patched({"timeout": 30_000}))["timeout"] == 30_000
        assert endpoint.queue.execution_s == 30
        assert await patched({}) == (await client.get("/serverless/local")).json()
        assert endpoint.scaler.scaling == Scaling("REQUEST_COUNT", 2, 0, 7, 10)

    manage(tmp_path, test)


def test_raising_the_least_starts_a_worker_at_once(tmp_path: Path) -> None:
    async def test(client: httpx.AsyncClient, endpoint: Crew) -> None:
        await client.patch("/serverless/local", json={"workers": {"min": 1, "max": 1}})
        worker = await endpoint.started()
        listed = (await client.get("/serverless/local/workers")).json()
        assert listed["endpointVersion"] == 1
        assert listed["summary"] == {
            "running": 0, "idle": 1, "initializing": 0, "throttled": 0, "unhealthy": 0, "total": 1
        }
        [entry] = listed["workers"]
        assert (entry["id"], entry["status"], entry["gpuTypeId"]) == (worker.id, "IDLE", "ADA_24")
        assert entry.keys() == {
            "id", "status", "isStale", "version", "gpuCount", "image", "uptimeSeconds", "gpuTypeId", "dataCenterId",
            "startedAt",
        }

    manage(tmp_path, test)


def test_a_workers_log_is_streamed_to_its_end(tmp_path: Path) -> None:
    async def test(client: httpx.AsyncClient, endpoint: Crew) -> None:
        worker = await endpoint.started()
        await becomes(lambda: "third" in worker.tail())
        path = f"/serverless/local/workers/{worker.id}/logs"
        asking = asyncio.create_task(client.get(path, params={"tail": 2, "source": "container"}))
        for _ in range(1000):  # By then the last two lines have been read, which takes neither time nor a thread.
            await asyncio.sleep(0)
        endpoint.workers.remove(worker.id)
        answer = await asking
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(event.removeprefix("data: ")) for event in answer.text.split("\n\n") if event]
        assert [event["line"] for event in events] == ["second", "third", "it ends"]
        assert events[0].keys() == {"source", "line", "ts"}
        assert (await client.get(path)).json()["status"] == 404, "it is gone"

    manage(tmp_path, test, Scaling(workers_min=1), program=WRITING)


def test_what_a_log_cannot_tell_is_refused_by_name(tmp_path: Path) -> None:
    async def test(client: httpx.AsyncClient, endpoint: Crew) -> None:
        worker = await endpoint.started()
        for name, value in {"since": "2026-01-01T00:00:00Z", "source": "system", "tail": "5001"}.items():
            answer = await client.get(f"/serverless/local/workers/{worker.id}/logs", params={name: value})
            assert (answer.status_code, answer.json()["detail"].startswith(name)) == (400, True)

    manage(tmp_path, test, Scaling(workers_min=1))


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"workersMin": 1}, "workersMin"),
        ({"workers": {"most": 1}}, "workers.most"),
        ({"workers": {"min": -1}}, "workers.min"),
        ({"workers": {"min": True}}, "workers.min"),
        ({"workers": {"min": 3, "max": 2}}, "workers: at least 3 and at most 2"),
        ({"workers": {"idleTimeout": 0}}, "workers.idleTimeout"),
        ({"scaling": {"type": "MAGIC"}}, "scaling"),
        ({"scaling": {"type": "QUEUE_DELAY", "queueDelay": 0.1}}, "scaling.queueDelay"),
        ({"scaling": {"type": "QUEUE_DELAY", "requestCount": 1}}, "scaling.requestCount"),
        ({"scaling": {"type": "REQUEST_COUNT"}, "workers": {"idleTimeout": 9}}, "workers.idleTimeout"),
        ({"flashboot": True}, "flashboot"),
        ({"timeout": 4999}, "timeout"),
        ({"timeout": 604_800_001}, "timeout"),
        ({"timeout": "30s"}, "timeout"),
        ({"timeout": 30_000, "workers": {"min": 3, "max": 2}}, "workers: at least 3 and at most 2"),
        ({"env": {}}, "env: only a new start"),
        ({"image": "other", "gpu": {}}, "gpu: only a new start"),
        ([], "the body"),
        (None, "the body"),
    ],
)
def test_what_is_wrong_is_named_and_changes_nothing(tmp_path: Path, body: Any, named: str) -> None:
    async def test(client: httpx.AsyncClient, endpoint: Crew) -> None:
        before = endpoint.scaler.scaling, endpoint.queue.execution_s
        answer = await client.patch("/serverless/local", json=body)
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem.keys() == {"title", "status", "detail", "errors"}
        assert (problem["title"], problem["status"]) == ("Bad Request", 400)
        assert problem["errors"][0].startswith(named)
        assert (endpoint.scaler.scaling, endpoint.queue.execution_s) == before

    manage(tmp_path, test)


def test_other_endpoints_and_other_methods_are_problems(tmp_path: Path) -> None:
    async def test(client: httpx.AsyncClient, endpoint: Crew) -> None:
        assert (await client.get("/serverless/other")).json()["detail"].startswith("there is no endpoint other")
        assert (await client.delete("/serverless/local")).status_code == 405
        assert (await client.post("/serverless", json={})).json()["title"] == "Method Not Allowed"
        assert (await client.patch("/serverless/local", content=b"{")).json()["status"] == 400

    manage(tmp_path, test)


def test_a_load_balanced_endpoint_scales_by_count_alone(tmp_path: Path) -> None:
    async def test(client: httpx.AsyncClient, endpoint: Crew) -> None:
        shown = (await client.get("/serverless/local")).json()
        assert (shown["type"], shown["requestUrls"]["base"]) == ("LOAD_BALANCER", "http://x")
        answer = await client.patch("/serverless/local", json={"scaling": {"type": "QUEUE_DELAY"}})
        assert answer.status_code == 400
        refused = await client.patch("/serverless/local", json={"timeout": 30_000})
        assert refused.json()["detail"].startswith("timeout: a load-balancing endpoint")
        assert (await client.patch("/serverless/local", json={"workers": {"idleTimeout": 9}})).status_code == 200

    manage(tmp_path, test, Scaling("REQUEST_COUNT", workers_max=0), "load-balancer")


def test_every_answer_says_how_many_calls_are_left_and_the_61st_is_refused(tmp_path: Path) -> None:
    async def test(client: httpx.AsyncClient, endpoint: Crew) -> None:
        standing_still(client)
        first = await client.get("/serverless/local")
        assert first.headers["RateLimit-Policy"] == '"minute";q=60;w=60, "hour";q=3000;w=3600, "day";q=50000;w=86400'
        assert first.headers["RateLimit"].startswith('"minute";r=59;t=60, "hour";r=2999')
        wrong = await client.get("/serverless/other")
        assert wrong.headers["RateLimit"].startswith('"minute";r=58;')
        for _ in range(58):
            assert (await client.get("/serverless/local")).status_code == 200
        refused = await client.get("/serverless/local")
        assert refused.status_code == 429
        assert refused.json()["title"] == "Too Many Requests"
        assert 0 < int(refused.headers["Retry-After"]) <= 60
        assert refused.headers["RateLimit"].startswith('"minute";r=0;')

    manage(tmp_path, test)


def standing_still(client: httpx.AsyncClient) -> None:
    """Have no time pass for the quota."""
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    assert isinstance(transport.app, FastAPI)
    state = transport.app.state
    state.management = replace(state.management, quota=Quota(lambda: 0.0))


def test_a_quota_begins_anew_after_its_window() -> None:
    now = [0.0]
    quota = Quota(lambda: now[0])
    assert [quota.admit() for _ in range(61)] == [True] * 60 + [False]
    now[0] = 59.9
    assert not quota.admit()
    now[0] = 60.0
    assert quota.admit()


def test_billing_sums_the_charges_by_hour(tmp_path: Path) -> None:
    async def test(client: httpx.AsyncClient, endpoint: Crew) -> None:
        endpoint.bill.price = "0.00031"
        began = Moment(1_800_000_000.0, 0.0)  # 2027-01-15, 8 o'clock.
        endpoint.bill.start("w", began)
        endpoint.bill.stop("w", "", Moment(0.0, 3600.5))
        query = {"startTime": "2027-01-15T08:20:00Z", "endTime": "2027-01-16T00:00:00Z"}
        answer = (await client.get("/billing/serverless", params=query)).json()
        assert [record["startTime"] for record in answer["records"]] == ["2027-01-15T08:00:00Z", "2027-01-15T09:00:00Z"]
        assert [record["totalAmount"] for record in answer["records"]] == [1.116, 0.00031]
        assert answer["records"][0].keys() == {
            "startTime", "endTime", "serverlessId", "totalAmount", "gpuAmount", "cpuAmount", "diskAmount", "feeAmount",
        }
        assert answer["metadata"]["recordCount"] == 2
        assert answer["metadata"]["totals"]["gpuAmount"] == pytest.approx(3601 * 0.00031)
        assert answer["metadata"]["uniqueServerlessCount"] == 1
        other = (await client.get("/billing/serverless", params={**query, "serverlessId": "other"})).json()
        assert other["records"] == []
        by_day = (await client.get("/billing/serverless", params={**query, "bucketSize": "day"})).json()
        assert [record["endTime"] for record in by_day["records"]] == ["2027-01-16T00:00:00Z"]
        wrong = await client.get("/billing/serverless", params={"bucketSize": "minute"})
        assert (wrong.status_code, "bucketSize" in wrong.json()["detail"]) == (400, True)

    manage(tmp_path, test)


MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(st.lists(st.tuples(MOMENTS, st.integers(0, 400_000_000)), max_size=5), st.sampled_from(BUCKETS))
def test_every_bucket_has_its_share_and_all_of_them_the_sum(lives: list[tuple[datetime, int]], bucket: Bucket) -> None:
    charges = [Charge("w", at.timestamp(), ms, "0.00031", "") for at, ms in lives]
    found = records(charges, bucket, datetime(2019, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC))
    assert [record["startTime"] for record in found] == sorted({record["startTime"] for record in found})
    total = sum((Decimal(str(record["totalAmount"])) for record in found), Decimal(0))
    assert total == pytest.approx(Total.of(charges).cost)


@given(MOMENTS, st.sampled_from(BUCKETS))
def test_buckets_follow_each_other_without_a_gap(moment: datetime, bucket: Bucket) -> None:
    start = beginning(moment, bucket)
    end = ending(start, bucket)
    assert start <= moment < end
    assert beginning(end, bucket) == end


def test_our_own_client_reads_prices_and_bill() -> None:
    with up("--gpu", "RTX 4090", "--workers-min", "1", "--workers-max", "1") as endpoint:
        endpoint.await_workers(idle=1)
        api = RunPodApi("none", f"{endpoint.url}/v2")
        [gpu] = [gpu for gpu in api.gpus() if gpu.gpu == "NVIDIA GeForce RTX 4090"]
        assert (gpu.pool, gpu.per_hour) == ("ADA_24", Decimal("1.116"))
        hours = api.billed(datetime(2020, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC), "local")
        assert sum(billed.total for billed in hours) >= 2 * Decimal("0.00031")
