"""RunPod's client API: its own client against a real worker, and what only plain HTTP shows."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import runpod

from handler.local.parts import EndpointSettings
from tests.handler.brake import Brake
from tests.handler.processes import eventually
from tests.local.endpoint import LocalEndpoint

MESSAGES = [{"role": "user", "content": "Count from 3 to 7."}]
COUNTED = "3 4 5 6 7"
CHAT = {"openai_route": "/v1/chat/completions", "openai_input": {"messages": MESSAGES}}
ENDLESS = {"messages": MESSAGES, "sampling_params": {"ignore_eos": True, "max_tokens": 2000}, "stream": True}


@pytest.fixture(scope="module")
def client(served: LocalEndpoint) -> Iterator[Any]:
    """The real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runpod, "endpoint_url_base", f"{served.url}/v2")
        yield runpod.Endpoint("local", api_key="any")


@pytest.fixture
def http(endpoint: LocalEndpoint) -> Iterator[httpx.Client]:
    """To an endpoint without workers, whose queue is empty."""
    endpoint.on_loop(endpoint.queue.purge)
    with endpoint.client() as opened:
        yield opened


def test_run_sync(client: Any) -> None:
    [answer] = client.run_sync({"input": CHAT}, timeout=60)
    assert answer["choices"][0]["message"]["content"] == COUNTED


def test_run_status_and_output(client: Any) -> None:
    job = client.run({"messages": MESSAGES})
    [answer] = job.output(timeout=60)
    assert answer["choices"] == [{"tokens": [COUNTED]}]
    assert job.status() == "COMPLETED"


def test_stream(client: Any) -> None:
    job = client.run({"input": {"messages": MESSAGES, "stream": True}})
    texts = [text for output in job.stream() for choice in output["choices"] for text in choice["tokens"]]
    assert "".join(texts) == COUNTED


def test_cancel_reaches_the_worker(client: Any, served: LocalEndpoint, brake: Brake) -> None:
    with brake.held():
        job = client.run({"input": ENDLESS})
        assert eventually(lambda: served.queue.get(job.job_id).chunks)
        assert eventually(lambda: job.job_id in served.crew.pings[-1][1])
        assert job.cancel()["status"] == job.status() == "CANCELLED"
        assert eventually(lambda: job.job_id not in served.crew.pings[-1][1])
    sent = len(served.queue.get(job.job_id).chunks)
    client.run_sync({"input": {"warmup": True}}, timeout=60)
    assert len(served.queue.get(job.job_id).chunks) == sent


def test_failed_job_and_its_retry(client: Any, served: LocalEndpoint) -> None:
    job = client.run({"input": {"nonsense": 1}})
    assert eventually(lambda: job.status() == "FAILED")
    with served.client() as http:
        assert "nonsense" in http.get(f"/status/{job.job_id}").json()["error"]
        assert http.post(f"/retry/{job.job_id}").json() == {"id": job.job_id, "status": "IN_QUEUE"}
        assert eventually(lambda: http.get(f"/status/{job.job_id}").json()["status"] == "FAILED")


def test_health(client: Any) -> None:
    client.run_sync({"input": {"warmup": True}}, timeout=60)
    health = client.health()
    assert set(health["jobs"]) == {"completed", "failed", "inProgress", "inQueue", "retried"}
    assert health["jobs"]["completed"] > 0
    assert set(health["workers"]) == {"idle", "initializing", "ready", "running", "throttled", "unhealthy"}
    assert health["workers"]["ready"] == 1


def test_status_tells_times_and_the_worker(served: LocalEndpoint, client: Any) -> None:
    with served.client() as http:
        job = http.post("/runsync", json={"input": CHAT}).json()
        assert job["id"].startswith("sync-")
        assert job["executionTime"] > 0
        assert job["delayTime"] >= 0
        assert job["workerId"] == "pod1"
        assert http.post(f"/status/{job['id']}").json() == http.get(f"/status/{job['id']}").json() == job


def test_purge_queue(endpoint: LocalEndpoint, http: httpx.Client) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runpod, "endpoint_url_base", f"{endpoint.url}/v2")
        client = runpod.Endpoint("local", api_key="any")
        jobs = [client.run({"number": number}) for number in range(3)]
        assert client.purge_queue() == {"removed": 3, "status": "completed"}
        assert {job.status() for job in jobs} == {"CANCELLED"}
        assert client.health()["jobs"]["inQueue"] == 0


def test_run_sync_gives_up_waiting_but_not_the_job(http: httpx.Client) -> None:
    start = time.monotonic()
    job = http.post("/runsync?wait=1000", json={"input": {}}).json()
    assert time.monotonic() - start >= 1
    assert job["status"] == "IN_QUEUE"
    assert http.get(f"/status/{job['id']}").json()["status"] == "IN_QUEUE"


def test_progress_shows_while_the_job_runs(endpoint: LocalEndpoint, http: httpx.Client) -> None:
    job_id = http.post("/run", json={"input": 1}).json()["id"]
    worker = endpoint.worker()
    worker.take()
    worker.done(job_id, status="IN_PROGRESS", output={"percent": 50})
    shown = http.get(f"/status/{job_id}").json()
    assert (shown["status"], shown["output"]) == ("IN_PROGRESS", {"percent": 50})
    worker.done(job_id, output="whole")
    assert http.get(f"/status/{job_id}").json()["output"] == "whole"


def test_requests_lists_jobs(http: httpx.Client) -> None:
    job_id = http.post("/run", json={"input": 1}).json()["id"]
    assert {"id": job_id, "status": "IN_QUEUE"} in http.get("/requests").json()["requests"]


@pytest.mark.parametrize(
    ("path", "body", "status", "names"),
    [
        ("/run", {}, 400, "input"),
        ("/run", [], 400, "object"),
        ("/run", {"input": {}, "s3Config": {}}, 400, "s3Config"),
        ("/run", {"input": {}, "webhook": "nowhere"}, 400, "webhook"),
        ("/run", {"input": {}, "policy": {"ttl": 1}}, 400, "ttl"),
        ("/run", {"input": {}, "policy": [1]}, 400, "policy: Input should be an object"),
        ("/run", {"input": {}, "policy": {"executionTimeout": 4999}}, 400, "executionTimeout"),
        ("/runsync?wait=1", {"input": {}}, 400, "wait"),
        ("/status/nothing", None, 404, "nothing"),
        ("/cancel/nothing", None, 404, "nothing"),
        ("/retry/nothing", None, 404, "nothing"),
        ("/nothing", None, 404, "/nothing"),
    ],
)
def test_errors_are_text(http: httpx.Client, path: str, body: object, status: int, names: str) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == status
    assert names in answer.json()["error"]


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", '{"input": 1e999}', '{"input": NaN}', "[" * 100_000, '{"input": ' + "9" * 5000 + "}"]
)
def test_what_is_no_json_is_refused(http: httpx.Client, text: str) -> None:
    answer = http.post("/run", content=text)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_half_a_surrogate_pair_goes_through(endpoint: LocalEndpoint, http: httpx.Client) -> None:
    http.post("/run", content='{"input": "\\ud800"}')
    job = endpoint.worker().take().json()
    assert job["input"] == "\ud800"
    endpoint.worker().http.post(f"/job-done/pod1/{job['id']}?gpu=local&isStream=false", content='{"output": "\\ud800"}')
    assert http.get(f"/status/{job['id']}").json()["output"] == "\ud800"


def test_a_client_that_leaves_amid_its_body_is_no_error(
    endpoint: LocalEndpoint, http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"POST /v2/local/run HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", endpoint.port)) as leaving:
        leaving.sendall(head)
        time.sleep(0.2)
    time.sleep(0.3)
    assert http.get("/health").status_code == 200
    assert [record.message for record in caplog.records if record.exc_info] == []


def test_a_job_that_is_too_large_is_refused(http: httpx.Client) -> None:
    large = {"input": "a" * 10_000_001}
    answer = http.post("/run", json=large)
    assert answer.status_code == 413
    assert "10000000" in answer.json()["error"]
    assert http.post("/runsync?wait=1000", json=large).status_code == 200


def test_only_those_with_a_key_are_let_in_where_there_are_keys() -> None:
    with LocalEndpoint(settings=EndpointSettings(api_keys=("one", "two"))).listening() as endpoint:
        for shown, status in [(None, 401), ("three", 401), ("Bearer three", 401), ("one", 200), ("Bearer two", 200)]:
            with endpoint.client(shown) as http:
                assert http.get("/health").status_code == status
