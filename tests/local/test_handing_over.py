"""Workers that hang up while they are handed a job: whatever the moment, the job is with one of them or waits."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections import Counter
from contextlib import closing
from functools import partial

import pytest
from fastapi import Request
from starlette.types import Message

from handler.local.handing_over import unless_gone
from handler.local.job import Asked, Job
from handler.local_queue import Status
from tests.handler.processes import eventually
from tests.local.endpoint import KEY, LocalEndpoint

QUESTION = "GET /v2/local/{}/{}?gpu=local HTTP/1.1\r\nHost: x\r\nAuthorization: " + KEY + "\r\n\r\n"


def ask(endpoint: LocalEndpoint, worker_id: str, route: str = "job-take") -> socket.socket:
    """An open poll."""
    poll = socket.create_connection(("127.0.0.1", endpoint.port), timeout=60)
    poll.sendall(QUESTION.format(route, worker_id).encode())
    return poll


def hang_up_but_listen(poll: socket.socket) -> bytes:
    """Close this half, and read what had been sent before."""
    poll.shutdown(socket.SHUT_WR)
    received = b""
    with closing(poll):
        while part := poll.recv(65536):
            received += part
    return received


def open_jobs(endpoint: LocalEndpoint) -> list[Job]:
    return endpoint.on_loop(lambda: [job for job in endpoint.queue.jobs() if not job.is_final])


@pytest.mark.parametrize("before", [True, False], ids=["the job is there", "the job comes"])
def test_a_job_is_with_its_worker_or_it_waits(endpoint: LocalEndpoint, before: bool) -> None:
    moments = random.Random(6)
    ends: Counter[bool] = Counter()
    for number in range(200):
        if number >= 100 and len(ends) == 2:
            break
        submit(endpoint, before)
        poll = ask(endpoint, f"leaving-{before}-{number}")
        submit(endpoint, not before)
        time.sleep(moments.uniform(0, 0.03 if number < 100 else 2.0))  # The machine may be too busy for the first.
        has_it = b'"input"' in hang_up_but_listen(poll)
        [job] = open_jobs(endpoint)
        expected = (Status.IN_PROGRESS, 1) if has_it else (Status.IN_QUEUE, 0)
        assert eventually(partial(is_now, job, *expected)), f"{number}: {job.status}, it came: {has_it}"
        endpoint.on_loop(partial(endpoint.queue.cancel, job.id))
        ends[has_it] += 1
    assert len(ends) == 2, "both have happened"


def submit(endpoint: LocalEndpoint, now: bool) -> None:
    """Have the loop queue a job, without waiting for it."""
    if now:
        endpoint.soon(partial(endpoint.queue.submit, Asked(1)))


def is_now(job: Job, status: Status, attempts: int) -> bool:
    return (job.status, job.attempts) == (status, attempts)


def test_a_stop_is_with_its_worker_or_comes_again(endpoint: LocalEndpoint) -> None:
    moments = random.Random(7)
    worker = endpoint.worker("stopping")
    with worker.http:
        for _ in range(50):
            endpoint.soon(partial(endpoint.queue.stop_again, worker.id, ["a"]))
            poll = ask(endpoint, worker.id, "job-stop")
            time.sleep(moments.uniform(0, 0.012))
            if b'"a"' not in hang_up_but_listen(poll):
                assert worker.await_stops() == {"jobsToStop": ["a"]}


def test_a_server_that_ends_gives_back_what_it_was_about_to_hand_over() -> None:
    async def test() -> None:
        given_back: list[int] = []

        async def hangs_never() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        async def found() -> list[int]:
            return [1, 2]

        request = Request({"type": "http"}, hangs_never)
        answering = asyncio.create_task(unless_gone(request, found(), given_back.extend))
        for _ in range(2):
            await asyncio.sleep(0)
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answering
        assert given_back == [1, 2]

    asyncio.run(test())
