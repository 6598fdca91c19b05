"""The worker's side of RunPod's protocol, call by call."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Iterator

import httpx
import pytest

from handler.local import worker_routes
from handler.local.faults import cut, garbage, hanging, late
from handler.local.job import Asked
from tests.handler.processes import eventually
from tests.local.endpoint import KEY, HandWorker, LocalEndpoint
from tests.local.test_handing_over import ask


@pytest.fixture(autouse=True)
def empty(endpoint: LocalEndpoint) -> Iterator[None]:
    endpoint.on_loop(endpoint.queue.purge)
    yield
    endpoint.faults.now.clear()


@pytest.fixture
def worker(endpoint: LocalEndpoint) -> Iterator[HandWorker]:
    worker = endpoint.worker()
    with worker.http:
        yield worker


def put(endpoint: LocalEndpoint, given: object = 1, webhook: str | None = None) -> str:
    return endpoint.on_loop(lambda: endpoint.queue.submit(Asked(given, webhook=webhook))).id


def test_take_gives_the_next_job_as_the_sdk_expects_it(endpoint: LocalEndpoint, worker: HandWorker) -> None:
    first, second = put(endpoint, {"a": 1}), put(endpoint, None, "http://127.0.0.1:1/")
    assert worker.take().json() == {"id": first, "input": {"a": 1}}
    assert worker.take().json() == {"id": second, "input": None, "webhook": "http://127.0.0.1:1/"}
    assert endpoint.crew.asked[-2:] == ["pod1", "pod1"]


def test_take_batch_gives_as_many_as_there_are(endpoint: LocalEndpoint, worker: HandWorker) -> None:
    ids = [put(endpoint) for _ in range(3)]
    assert [job["id"] for job in worker.take(2).json()] == ids[:2]
    assert [job["id"] for job in worker.take(2).json()] == ids[2:]


@pytest.mark.parametrize("ask", [HandWorker.take, HandWorker.stops])
def test_an_empty_poll_is_held_and_then_204(worker: HandWorker, ask: object) -> None:
    assert callable(ask)
    start = time.monotonic()
    assert ask(worker).status_code == 204
    assert time.monotonic() - start > 0.9


def test_a_poll_is_answered_as_soon_as_there_is_a_job(endpoint: LocalEndpoint, worker: HandWorker) -> None:
    threading.Timer(0.2, lambda: put(endpoint)).start()
    assert worker.await_job()


def hang_up(endpoint: LocalEndpoint, worker: HandWorker, route: str) -> None:
    """Ask, and leave before there is an answer."""
    asked = len(endpoint.faults.asked[route])
    with ask(endpoint, worker.id, route):
        assert eventually(lambda: len(endpoint.faults.asked[route]) > asked)


def test_a_worker_that_hangs_up_takes_no_job_with_it(endpoint: LocalEndpoint, worker: HandWorker) -> None:
    hang_up(endpoint, worker, "job-take")
    job_id = put(endpoint)
    assert worker.await_job()["id"] == job_id


def test_stops_are_told_once(endpoint: LocalEndpoint, worker: HandWorker) -> None:
    job_id = put(endpoint)
    worker.take()
    endpoint.on_loop(lambda: endpoint.queue.cancel(job_id))
    assert worker.stops().json() == {"jobsToStop": [job_id]}
    assert worker.stops().status_code == 204


def test_a_stop_that_does_not_reach_its_worker_comes_again(endpoint: LocalEndpoint, worker: HandWorker) -> None:
    job_id = put(endpoint)
    worker.take()
    hang_up(endpoint, worker, "job-stop")
    endpoint.on_loop(lambda: endpoint.queue.cancel(job_id))
    assert worker.await_stops() == {"jobsToStop": [job_id]}


@pytest.mark.parametrize(
    ("body", "status", "shown"),
    [
        ({"output": {"a": 1}}, "COMPLETED", {"output": {"a": 1}}),
        ({"output": None}, "COMPLETED", {"output": None}),
        ({}, "COMPLETED", {}),
        ({"error": "bad"}, "FAILED", {"error": "bad"}),
        ({"output": {"code": 7}, "error": "bad"}, "FAILED", {"output": {"code": 7}, "error": "bad"}),
        ({"error": {"message": "bad"}}, "FAILED", {"error": '{"message": "bad"}'}),
    ],
)
def test_done(
    endpoint: LocalEndpoint, worker: HandWorker, body: dict[str, object], status: str, shown: dict[str, object]
) -> None:
    job_id = put(endpoint)
    worker.take()
    assert worker.done(job_id, **body).status_code == 200
    view = endpoint.queue.get(job_id).view()
    assert view["status"] == status
    assert {name: view[name] for name in ("output", "error") if name in view} == shown
    assert worker.done(job_id, output="again").status_code == 200, "its answer may have been lost"
    assert endpoint.queue.get(job_id).view() == view


def test_stop_pod_asks_for_another_worker(endpoint: LocalEndpoint, worker: HandWorker) -> None:
    job_id = put(endpoint)
    worker.take()
    worker.done(job_id, output=1, stopPod=True)
    assert endpoint.crew.to_replace == ["pod1"]


def test_jobs_of_others_and_of_nobody_are_404(endpoint: LocalEndpoint, worker: HandWorker) -> None:
    job_id = put(endpoint)
    assert worker.done(job_id, output=1).status_code == 404, "it waits"
    endpoint.worker("pod2").take()
    assert worker.done(job_id, output=1).status_code == 404
    assert worker.stream(job_id, "a").status_code == 404
    assert worker.done("nothing", output=1).status_code == 404
    assert endpoint.worker("pod2").done(job_id, output=2).status_code == 200


def test_a_result_of_a_worker_that_lost_its_job_is_taken_and_ignored(
    endpoint: LocalEndpoint, worker: HandWorker
) -> None:
    lost = endpoint.worker("lost")
    job_id = put(endpoint)
    lost.take()
    endpoint.on_loop(lambda: endpoint.queue.worker_lost("lost"))
    assert lost.done(job_id, output="while it waits").status_code == 200
    assert lost.stream(job_id, "nobody wants it").status_code == 404
    assert worker.take().json()["id"] == job_id
    assert lost.done(job_id, output="while another has it").status_code == 200
    assert worker.done(job_id, output="right").status_code == 200
    assert lost.done(job_id, output="after the end").status_code == 200
    assert endpoint.queue.get(job_id).output == "right"


def test_what_is_too_large_is_400_and_the_job_goes_on(endpoint: LocalEndpoint, worker: HandWorker) -> None:
    job_id = put(endpoint)
    worker.take()
    assert worker.stream(job_id, "a" * 1_000_000).status_code == 400
    refused = worker.done(job_id, output="a" * 20_000_000)
    assert refused.status_code == 400
    assert "20000000" in refused.json()["error"]
    assert worker.done(job_id, error="it would have been too large").status_code == 200


def test_json_comes_as_a_form(endpoint: LocalEndpoint, worker: HandWorker) -> None:
    job_id = put(endpoint)
    worker.take()
    headers = {"Content-Type": "application/x-www-form-urlencoded", "charset": "utf-8"}
    text = '{"output": "é"}'.encode()
    answer = worker.http.post(f"/job-done/pod1/{job_id}?gpu=local&isStream=false", content=text, headers=headers)
    assert answer.status_code == 200
    assert endpoint.queue.get(job_id).output == "é"


def test_pings(endpoint: LocalEndpoint, worker: HandWorker) -> None:
    endpoint.crew.pings.clear()
    worker.http.get("/ping/pod1?runpod_version=1.12.0")
    worker.http.get("/ping/pod1?job_id=a,b&runpod_version=1.12.0")
    worker.http.get("/ping/pod1?status=unhealthy&check=_memory_check&reason=RuntimeError%3A%20full")
    assert endpoint.crew.pings == [
        ("pod1", [], None), ("pod1", ["a", "b"], None), ("pod1", [], "_memory_check: RuntimeError: full"),
    ]


def test_a_ping_names_thousands_of_jobs_however_slowly_it_comes(endpoint: LocalEndpoint) -> None:
    ids = [f"sync-{uuid.uuid4()}" for _ in range(2000)]
    query = f"job_id={','.join(ids)}"
    head = f"GET /v2/local/ping/pod1?{query} HTTP/1.1\r\nHost: x\r\nAuthorization: {KEY}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=60) as plain:
        for start in range(0, len(head), 10_000):
            plain.sendall(head[start : start + 10_000])
            time.sleep(0.02)
        assert plain.recv(100).startswith(b"HTTP/1.1 200")
    assert endpoint.crew.pings[-1] == ("pod1", ids, None)


@pytest.mark.parametrize("key", ["wrong", "", f"{KEY}{KEY}"])
def test_without_its_key_a_worker_is_nobody_and_does_not_ask_fast(
    endpoint: LocalEndpoint, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setattr(worker_routes, "REFUSED_S", 0.2)
    job_id = put(endpoint)
    stranger = HandWorker(endpoint.client(key), "pod1")
    start = time.monotonic()
    assert stranger.take().status_code == 401
    assert stranger.done(job_id, output=1).status_code == 401
    assert time.monotonic() - start > 0.39


def test_a_dismissed_worker_is_nobody(endpoint: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_routes, "REFUSED_S", 0)
    endpoint.crew.dismissed.add("gone")
    assert endpoint.worker("gone").take().status_code == 401


def test_faults_are_what_a_test_asks_for(endpoint: LocalEndpoint, worker: HandWorker) -> None:
    from handler.local.faults import answering

    faults, job_id = endpoint.faults.now, put(endpoint)
    faults["job-take"] = answering(503)
    assert worker.take().status_code == 503
    faults["job-take"] = garbage()
    with pytest.raises(ValueError, match="Unterminated"):
        worker.take().json()
    faults["job-take"] = hanging(60)
    with pytest.raises(httpx.TimeoutException):
        worker.http.get("/job-take/pod1", timeout=0.2)
    faults["job-take"] = late(0.3)
    assert worker.take().json()["id"] == job_id
    faults["job-done"] = cut
    with pytest.raises(httpx.RemoteProtocolError):
        worker.done(job_id, output=1)
    assert eventually(lambda: endpoint.queue.get(job_id).is_final), "it was done; only the answer is lost"
    assert len(endpoint.faults.asked["job-take"]) >= 4
