"""Webhooks: the result of a job posted to where its client wants it."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Final, Self

import httpx

from handler.local.answers import Json
from handler.local.job import Job
from handler.local.queue import JobQueue
from handler.local.record import RecordFailed

TRIES: Final = 3
PAUSE_S: Final = 10.0
"""RunPod's: anything but a 200 is tried twice more, 10 s apart."""
_TIMEOUT_S: Final = 30.0

_log = logging.getLogger("pilotlight.local")


class Webhooks:
    """Calls the webhooks of a queue's jobs, also those that an earlier queue has not come to."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._calls: set[asyncio.Task[None]] = set()
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False)

    async def __aenter__(self) -> Self:
        self._queue.on_end = self._begin
        for job in self._queue.jobs():
            if job.is_final and job.asked.webhook is not None and not job.told:
                self._begin(job)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._client.aclose()

    def _begin(self, job: Job) -> None:
        call = asyncio.create_task(self._call(job, Json(job.view()).body))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _call(self, job: Job, body: bytes | memoryview) -> None:
        for left in reversed(range(TRIES)):
            answer = await self._try(str(job.asked.webhook), bytes(body))
            if answer == "200":
                break
            _log.warning("the webhook of job %s answered %s; %d tries left", job.id, answer, left)
            if left:
                await asyncio.sleep(PAUSE_S)
        self._queue.tell(job)

    async def _try(self, url: str, body: bytes) -> str:
        """The status it answers with, or why there is none. It is not told before the result is on the disk."""
        try:
            await self._queue.written()
            headers = {"Content-Type": "application/json"}
            async with self._client.stream("POST", url, content=body, headers=headers) as answer:
                return str(answer.status_code)  # What else it says may be of any length, and is not read.
        except (httpx.HTTPError, httpx.InvalidURL, RecordFailed) as error:
            return str(error) or type(error).__name__
