"""RunPod's rate limits."""

from __future__ import annotations

import threading

import httpx

from handler.local.limits import WINDOW_S, Gate, Rate, RateLimits
from handler.local.parts import EndpointSettings
from handler.openai.errors import ApiError
from tests.handler.processes import eventually
from tests.local.endpoint import LocalEndpoint


def limits_of(endpoint: LocalEndpoint, **rates: Rate) -> None:
    """Put other limits in front of the endpoint."""
    endpoint.faults.app = RateLimits(endpoint.faults.app, rates)


def test_too_many_in_ten_seconds_are_told_when_to_come_again() -> None:
    with LocalEndpoint().listening() as endpoint, endpoint.client() as http:
        assert [http.post("/purge-queue").status_code for _ in range(2)] == [200, 200]
        # Not within ten seconds, perhaps, but sooner or later.
        refused = eventually(lambda: answer if (answer := http.post("/purge-queue")).status_code == 429 else None)
        assert refused is not None
        assert "2 requests of this kind in 10 s" in refused.json()["error"]
        assert 1 <= int(refused.headers["Retry-After"]) <= WINDOW_S
        assert http.get("/health").status_code == 200, "others are not affected"


def test_too_many_at_once_are_refused_in_the_apis_own_shape() -> None:
    with LocalEndpoint().listening() as endpoint, endpoint.client() as http:
        limits_of(endpoint, openai=Rate(100, 2), runsync=Rate(100, 1))
        for path, body in (("/openai/v1/completions", {}), ("/openai/v1/completions", {}), ("/runsync", {"input": 1})):
            threading.Thread(target=abandoned, args=(endpoint, path, body)).start()
        assert eventually(lambda: endpoint.queue.counts().in_queue == 3)
        refused = http.post("/openai/v1/completions", json={})
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert http.post("/runsync", json={"input": 1}).status_code == 429
        endpoint.on_loop(endpoint.queue.purge)
        assert eventually(lambda: http.post("/runsync?wait=1000", json={"input": 1}).status_code == 200)


def abandoned(endpoint: LocalEndpoint, path: str, body: dict[str, object]) -> None:
    with endpoint.client() as http:
        http.post(path, json=body)


def test_the_window_slides() -> None:
    gate = Gate(Rate(2, 9))
    for now, retry_after in ((0.0, None), (6.0, None), (9.0, 1), (10.0, None), (15.1, 1), (16.0, None), (16.0, 4)):
        assert refused_for(gate, now) == retry_after


def refused_for(gate: Gate, now: float) -> int | None:
    try:
        gate.enter(now)
    except ApiError as error:
        return error.retry_after
    return None


def test_workers_have_no_limits_and_neither_has_anybody_where_they_are_off() -> None:
    unlimited = LocalEndpoint(settings=EndpointSettings(rate_limits=False))
    with unlimited.listening(), unlimited.client() as http:
        assert {http.post("/purge-queue").status_code for _ in range(5)} == {200}
    with LocalEndpoint().listening() as endpoint:
        worker = endpoint.worker()
        statuses = {worker.http.get("/ping/pod1").status_code for _ in range(50)}
        assert statuses == {httpx.codes.OK}
