"""The real `runpod` client against the server's own RunPod routes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import runpod

from tests.handler.brake import Brake
from tests.handler.conftest import KEY
from tests.handler.processes import Server, eventually

MESSAGES = [{"role": "user", "content": "Count from 3 to 7."}]
COUNTED = "3 4 5 6 7"
CHAT = {"openai_route": "/v1/chat/completions", "openai_input": {"messages": MESSAGES}}
ENDLESS = {"messages": MESSAGES, "sampling_params": {"ignore_eos": True, "max_tokens": 2000}, "stream": True}


@pytest.fixture(scope="module")
def endpoint(server: Server) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runpod, "endpoint_url_base", f"{server.url}/v2")
        yield runpod.Endpoint("local", api_key=KEY)


def test_run_sync(endpoint: Any) -> None:
    [answer] = endpoint.run_sync({"input": CHAT}, timeout=60)
    assert answer["choices"][0]["message"]["content"] == COUNTED


def test_run_and_output(endpoint: Any) -> None:
    job = endpoint.run({"messages": MESSAGES})
    [answer] = job.output(timeout=60)
    assert answer["choices"] == [{"tokens": [COUNTED]}]
    assert job.status() == "COMPLETED"


def test_stream(endpoint: Any) -> None:
    job = endpoint.run({"input": {"messages": MESSAGES, "stream": True}})
    texts = [text for output in job.stream() for choice in output["choices"] for text in choice["tokens"]]
    assert "".join(texts) == COUNTED


def test_cancel_frees_the_engine(endpoint: Any, server: Server, brake: Brake) -> None:
    with brake.held():
        job = endpoint.run({"input": ENDLESS})
        assert eventually(lambda: server.statistics()["running"] > 0)
        assert job.cancel()["status"] == "CANCELLED"
        assert job.status() == "CANCELLED"
        assert eventually(lambda: server.statistics()["running"] == 0)


def test_health(endpoint: Any) -> None:
    health = endpoint.health()
    assert set(health["jobs"]) == {"completed", "failed", "inProgress", "inQueue", "retried"}
    assert health["workers"]["ready"] == 1


def test_failed_job(endpoint: Any, http: httpx.Client) -> None:
    job = endpoint.run({"input": {"nonsense": 1}})
    assert eventually(lambda: job.status() == "FAILED")
    assert "nonsense" in http.get(f"/status/{job.job_id}").json()["error"]


def test_warm_up(endpoint: Any) -> None:
    [answer] = endpoint.run_sync({"input": {"warmup": True}}, timeout=60)
    assert answer["warmup"] is True


def test_status_shows_times_and_takes_both_methods(http: httpx.Client) -> None:
    job = http.post("/runsync", json={"input": CHAT}).json()
    assert job["status"] == "COMPLETED"
    assert job["executionTime"] > 0
    assert job["delayTime"] >= 0
    assert http.post(f"/status/{job['id']}").json() == http.get(f"/status/{job['id']}").json() == job


def test_run_sync_gives_up_waiting_but_not_the_job(http: httpx.Client, server: Server, brake: Brake) -> None:
    with brake.held():
        job = http.post("/runsync?wait=1000", json={"input": ENDLESS}).json()
        assert job["status"] == "IN_PROGRESS"
        http.post(f"/cancel/{job['id']}")
    assert eventually(lambda: server.statistics()["running"] == 0)


def test_execution_time_is_bounded_by_policy(http: httpx.Client, server: Server) -> None:
    job = http.post("/runsync", json={"input": ENDLESS, "policy": {"executionTimeout": 50}}).json()
    assert job["status"] == "TIMED_OUT"
    assert eventually(lambda: server.statistics()["running"] == 0)


@pytest.mark.parametrize(
    ("path", "body", "status", "names"),
    [
        ("/run", {}, 400, "input"),
        ("/run", {"input": {}, "webhook": "http://x"}, 400, "webhook"),
        ("/run", {"input": {}, "policy": {"ttl": 1}}, 400, "ttl"),
        ("/runsync?wait=1", {"input": {}}, 400, "wait"),
        ("/v2/local/run", {"input": {}, "frobnicate": 1}, 400, "frobnicate"),
        ("/cancel/nothing", None, 404, "nothing"),
        ("/v2/local/status/nothing", None, 404, "nothing"),
    ],
)
def test_errors_have_runpods_shape(http: httpx.Client, path: str, body: object, status: int, names: str) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == status
    assert names in answer.json()["error"]


def test_openai_route_of_the_endpoint(http: httpx.Client) -> None:
    answer = http.post("/v2/local/openai/v1/chat/completions", json={"messages": MESSAGES}).json()
    assert answer["choices"][0]["message"]["content"] == COUNTED
