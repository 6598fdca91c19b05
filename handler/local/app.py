"""The local endpoint put together: its queue with all that belongs to it, and the application over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from fastapi import FastAPI

from handler.document import DocumentedApp
from handler.local.answers import add_error_handlers
from handler.local.client_routes import JobBody, client_router
from handler.local.contracts import ENDPOINT_ID, Crew
from handler.local.limits import RateLimits
from handler.local.management import Change
from handler.local.openai_routes import openai_router
from handler.local.parts import EndpointSettings, Parts
from handler.local.queue import JobQueue
from handler.local.webhooks import Webhooks
from handler.local.worker_routes import worker_router
from handler.local.write_ahead import WriteAhead, read, sole_use
from handler.shapes import (
    EndpointHealth,
    JobState,
    JobStream,
    JobView,
    JobViews,
    OpenAIError,
    ProblemBody,
    Purged,
    RunPodError,
)

JOBS_FILE: Final = "jobs.jsonl"
"""The record's name in the endpoint's folder."""

_SHAPES: Final = (
    JobBody, JobState, JobView, JobStream, JobViews, Purged, EndpointHealth, Change, OpenAIError, RunPodError,
    ProblemBody,
)


@asynccontextmanager
async def open_queue(folder: Path | None = None) -> AsyncIterator[JobQueue]:
    """A queue that keeps time and calls webhooks, with what an earlier one has left in the folder.

    Args:
        folder: where jobs are kept, this queue's own; None to keep none.

    Raises:
        InvalidConfig: the folder is in use, or of no use.
    """
    async with AsyncExitStack() as stack:
        queue = JobQueue() if folder is None else await stack.enter_async_context(_kept_queue(folder))
        await stack.enter_async_context(Webhooks(queue))
        clock = asyncio.create_task(queue.keep_time())
        try:
            yield queue
        finally:
            clock.cancel()
            with suppress(asyncio.CancelledError):
                await clock


@asynccontextmanager
async def _kept_queue(folder: Path) -> AsyncIterator[JobQueue]:
    with sole_use(folder / JOBS_FILE):
        record = WriteAhead(folder / JOBS_FILE)
        queue = JobQueue(record)
        queue.replay(read(folder / JOBS_FILE))
        record.rewrite(queue.entries())
        try:
            yield queue
        finally:
            await record.close()


def make_app(queue: JobQueue, crew: Crew, settings: EndpointSettings | None = None) -> FastAPI:
    """The endpoint's routes for clients and workers; others may be added."""
    settings = settings or EndpointSettings()
    app = DocumentedApp(_SHAPES, title="Pilotlight: the endpoint on your machine")
    app.state.parts = Parts(queue, crew, settings)
    if settings.rate_limits:
        app.add_middleware(RateLimits)
    for router in (client_router(), openai_router(), worker_router()):
        app.include_router(router, prefix=f"/v2/{ENDPOINT_ID}")
    add_error_handlers(app)
    return app
