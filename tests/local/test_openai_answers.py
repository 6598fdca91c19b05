"""What a job's outputs and its end are in OpenAI's terms."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from handler.local.job import Asked, Job
from handler.local.openai_answers import error_of, events
from handler.local.queue import JobQueue
from handler.openai.errors import ApiError

Test = Callable[[JobQueue, Job], Awaitable[None]]


def streamed(test: Test) -> None:
    """Run a test with a job that worker a has and of which it has sent the first piece."""

    async def ran() -> None:
        queue = JobQueue()
        job = queue.submit(Asked(1))
        queue.take_now("a", 1)
        queue.stream(job.id, "a", "one\n\n")
        async with asyncio.timeout(60):
            await test(queue, job)

    asyncio.run(ran())


def failure(event: str) -> Any:
    return json.loads(event.removeprefix("data: "))["error"]


def test_a_job_that_ends_while_its_last_piece_is_on_the_way_ends_the_stream() -> None:
    async def test(queue: JobQueue, job: Job) -> None:
        reading = events(job)
        assert await anext(reading) == "one\n\n"
        queue.finish(job.id, "a")
        assert [event async for event in reading] == []

    streamed(test)


def test_a_worker_lost_after_its_first_piece_ends_the_stream_with_an_error_even_when_another_is_through() -> None:
    async def test(queue: JobQueue, job: Job) -> None:
        reading = events(job)
        await anext(reading)
        queue.worker_lost("a")
        queue.take_now("b", 1)
        queue.stream(job.id, "b", "uno\n\n")
        queue.stream(job.id, "b", "due\n\n")
        queue.finish(job.id, "b")
        [last] = [event async for event in reading]
        assert failure(last)["code"] == "worker_lost"

    streamed(test)


def test_a_worker_lost_before_anything_was_read_is_not_noticed() -> None:
    async def test(queue: JobQueue, job: Job) -> None:
        reading = events(job)
        queue.worker_lost("a")
        first = asyncio.ensure_future(anext(reading))
        await asyncio.sleep(0)
        queue.take_now("b", 1)
        queue.stream(job.id, "b", "uno\n\n")
        assert await first == "uno\n\n"
        queue.finish(job.id, "b")
        assert [event async for event in reading] == []

    streamed(test)


def test_a_retry_under_an_open_stream_is_not_mixed_into_it() -> None:
    async def test(queue: JobQueue, job: Job) -> None:
        reading = events(job)
        await anext(reading)
        queue.finish(job.id, "a", error="broken")
        queue.retry(job.id)
        queue.take_now("b", 1)
        queue.stream(job.id, "b", "uno\n\n")
        queue.stream(job.id, "b", "due\n\n")
        [last] = [event async for event in reading]
        assert failure(last)["code"] == "worker_lost"

    streamed(test)


@pytest.mark.parametrize(
    "error",
    [
        ApiError(413, "too long", "invalid_request_error", code="body_too_large"),
        ApiError(429, "full", "rate_limit_error", code="queue_full", retry_after=7),
        ApiError(418, "tea", "server_error", "pot"),
    ],
)
def test_an_error_of_ours_comes_through_as_it_was(error: ApiError) -> None:
    found = failed(error.text())
    assert (found.status, found.body, found.headers) == (error.status, error.body, error.headers)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ('{"message": "m", "type": "BadRequestError", "param": null, "code": 400}', 400),
        ('{"message": "m", "type": "server_error", "status": 200}', 500),
        ('{"message": "m", "type": "server_error", "status": true, "code": [1]}', 500),
        ('{"message": "m", "type": ["x"], "status": 9000, "retry_after": "soon"}', 500),
        ('{"message": "m", "type": "server_error", "status": 503, "retry_after": -1}', 503),
        ('["message"]', 500),
        ('"message"', 500),
        ("[" * 100_000, 500),
    ],
)
def test_whatever_other_workers_say_has_a_status(text: str, status: int) -> None:
    found = failed(text)
    assert found.status == status
    assert "Retry-After" not in found.headers
    json.dumps(found.body)


def failed(text: str) -> ApiError:
    queue = JobQueue()
    job = queue.submit(Asked(1))
    queue.take_now("a", 1)
    queue.finish(job.id, "a", error=text)
    error = error_of(job)
    assert error is not None
    return error
