"""The servers that are fuzzed, and what must be true of them afterwards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tests.handler.processes import Server, eventually, serving
from tests.local.up_process import COUNT, COUNTED, Up, answer, up

CONTEXT = ("--max-model-len", "256")
"""Long answers would show nothing more."""

TRACEBACK = re.compile(r"^\s*Traceback \(most recent", re.MULTILINE)


@contextmanager
def target_server() -> Iterator[Server]:
    """`pilotlight serve` with the demo model."""
    with serving(*CONTEXT) as server:
        server.await_ready()
        yield server


@contextmanager
def target_endpoint() -> Iterator[Up]:
    """`pilotlight up` with a worker, and without the limits that would refuse most of it."""
    with up("--workers-min", "1", "--job-loop", "native", "--no-rate-limits", *CONTEXT) as endpoint:
        endpoint.await_workers(idle=1)
        yield endpoint


def check_server(server: Server) -> None:
    """It works as before, holds nothing of what was asked, and has logged no fault."""
    with server.client() as client:
        assert answer(client.post("/runsync", json={"input": COUNT}).json()) == COUNTED
        assert client.get("/health").json()["status"] == "ready"

        def is_idle() -> bool:
            jobs = client.get("/v2/local/health").json()["jobs"]
            return jobs["inProgress"] == jobs["inQueue"] == 0

        assert eventually(is_idle)
    assert eventually(lambda: not any(_held(server))), server.statistics()
    assert not TRACEBACK.search(server.output), server.output


def check_endpoint(endpoint: Up) -> None:
    """It works as before, with a worker, holds no job, and has logged no fault."""
    endpoint.post("/v2/local/purge-queue")
    assert answer(endpoint.post("/v2/local/runsync", {"input": COUNT})) == COUNTED

    def is_idle() -> bool:
        jobs = endpoint.get("/health")["jobs"]
        return bool(jobs["inProgress"] == jobs["inQueue"] == 0)

    assert eventually(is_idle), endpoint.get("/health")
    logs = [endpoint.output, *(log.read_text(errors="replace") for log in endpoint.state.rglob("*.log"))]
    assert not any(TRACEBACK.search(log) for log in logs), logs


def _held(server: Server) -> list[int]:
    statistics = server.statistics()
    return [statistics[name] for name in ("running", "waiting", "pages_used")]
