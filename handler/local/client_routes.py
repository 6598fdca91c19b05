"""RunPod's client API: jobs in, results out."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, HttpUrl

from handler.document import answer, errors
from handler.document import body as takes
from handler.job_input import parse
from handler.local.answers import Json, read_json
from handler.local.job import Asked, Job, Policy
from handler.local.parts import check_client, parts_of
from handler.local.queue import JobQueue
from handler.local.record import RecordFailed
from handler.shapes import EndpointHealth, JobState, JobStream, JobView, JobViews, Purged, RunPodError

RUN_BYTES: Final = 10_000_000
RUN_SYNC_BYTES: Final = 20_000_000
"""RunPod's limits of a job's size."""
RUN_KEPT_S: Final = 1800.0
RUN_SYNC_KEPT_S: Final = 60.0
"""How long RunPod keeps results: half an hour; of `/runsync` a minute, or as long as its `wait`."""
_WEEK_MS: Final = 604_800_000

Wait = Annotated[int, Query(ge=1000, le=300_000, description="milliseconds")]
Ttl = Annotated[int | None, Query(ge=1, le=_WEEK_MS, description="milliseconds")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PolicyBody(_Body):
    """RunPod's policy; times in milliseconds, from 5 and 10 seconds to a week."""

    executionTimeout: Annotated[int, Field(ge=5000, le=_WEEK_MS)] | None = None  # noqa: N815
    ttl: Annotated[int, Field(ge=10_000, le=_WEEK_MS)] = 86_400_000
    lowPriority: bool = False  # noqa: N815

    def policy(self) -> Policy:
        """In seconds."""
        execution_s = None if self.executionTimeout is None else self.executionTimeout / 1000
        return Policy(execution_s, self.ttl / 1000, self.lowPriority)


class JobBody(_Body):
    """A job. Results by S3 (`s3Config`) are not to be had here."""

    input: Any
    webhook: Annotated[HttpUrl, Field(strict=False)] | None = None
    policy: PolicyBody = PolicyBody()


def client_router() -> APIRouter:
    """The routes below `/v2/{endpoint}`."""
    router = APIRouter(
        tags=["RunPod"], dependencies=[Depends(check_client)], responses=errors(RunPodError, 401, 429, 500, 503)
    )
    job, wrong, unknown = takes(JobBody), errors(RunPodError, 400, 413), errors(RunPodError, 404)
    router.post("/run", response_model=None, responses=answer(JobState) | wrong, openapi_extra=job)(run)
    router.post("/runsync", response_model=None, responses=answer(JobView) | wrong, openapi_extra=job)(run_sync)
    view, parts, state = answer(JobView) | unknown, answer(JobStream) | unknown, answer(JobState) | unknown
    view |= errors(RunPodError, 400)
    for method in ("GET", "POST"):  # Each by itself: in the document every operation has a name of its own.
        router.api_route("/status/{job_id}", methods=[method], response_model=None, responses=view)(status)
        router.api_route("/stream/{job_id}", methods=[method], response_model=None, responses=parts)(stream)
    router.post("/cancel/{job_id}", response_model=None, responses=state)(cancel)
    router.post("/retry/{job_id}", response_model=None, responses=state | errors(RunPodError, 400))(retry)
    router.post("/purge-queue", response_model=None, responses=answer(Purged))(purge_queue)
    router.get("/health", response_model=None, responses=answer(EndpointHealth))(health)
    router.get("/requests", response_model=None, responses=answer(JobViews))(requests)
    return router


async def run(request: Request) -> Response:
    """Queue a job."""
    job = await _submit(request, RUN_BYTES, RUN_KEPT_S)
    return Json({"id": job.id, "status": "IN_QUEUE"})


async def run_sync(request: Request, wait: Wait = 90_000) -> Response:
    """Queue a job and wait for its end; one that takes longer than `wait` goes on and is read by `/status`."""
    job = await _submit(request, RUN_SYNC_BYTES, max(RUN_SYNC_KEPT_S, wait / 1000), sync=True)
    with suppress(TimeoutError):
        await asyncio.wait_for(job.done.wait(), wait / 1000)
    return await _shown(request, job.view())


async def status(request: Request, job_id: str, ttl: Ttl = None) -> Response:
    """How a job is, and its output. With `ttl`, a result is kept for so long from now."""
    queue = parts_of(request).queue
    if ttl is not None:
        queue.keep(job_id, ttl / 1000)
    return await _shown(request, queue.get(job_id).view())


async def stream(request: Request, job_id: str) -> Response:
    """What the worker has sent since the last call."""
    return await _shown(request, parts_of(request).queue.get(job_id).collect())


async def cancel(request: Request, job_id: str) -> Response:
    """End a job."""
    return await _state(request, parts_of(request).queue.cancel(job_id))


async def retry(request: Request, job_id: str) -> Response:
    """Queue a job anew that failed or ran out of time."""
    return await _state(request, parts_of(request).queue.retry(job_id))


async def purge_queue(request: Request) -> Response:
    """Cancel the jobs that wait."""
    return await _shown(request, {"removed": parts_of(request).queue.purge(), "status": "completed"})


async def health(request: Request) -> Response:
    """How many jobs and workers there are in each state."""
    parts = parts_of(request)
    jobs, workers = parts.queue.counts(), parts.crew.counts()
    return Json({
        "jobs": {
            "completed": jobs.completed, "failed": jobs.failed, "inProgress": jobs.in_progress,
            "inQueue": jobs.in_queue, "retried": jobs.retried,
        },
        "workers": asdict(workers) | {"ready": workers.idle + workers.running},
    })


async def requests(request: Request) -> Response:
    """All jobs that are known, without their outputs. RunPod does not document the shape of its own answer."""
    views = [job.view() for job in parts_of(request).queue.jobs()]
    for view in views:
        view.pop("output", None)
    return Json({"requests": views})


async def submit_kept(queue: JobQueue, asked: Asked) -> Job:
    """Queue a job that is on the disk; one that cannot be is none.

    Raises:
        RecordFailed: it is not queued.
    """
    job = queue.submit(asked)
    try:
        await queue.written()
    except RecordFailed:
        if queue.knows(job.id):
            queue.cancel(job.id)
        raise
    return job


async def _submit(request: Request, most_bytes: int, kept_s: float, sync: bool = False) -> Job:
    body = parse(JobBody, await read_json(request, most_bytes))
    webhook = None if body.webhook is None else str(body.webhook)
    asked = Asked(body.input, body.policy.policy(), webhook, kept_s, sync)
    return await submit_kept(parts_of(request).queue, asked)


async def _state(request: Request, job: Job) -> Response:
    return await _shown(request, {"id": job.id, "status": job.status})


async def _shown(request: Request, answer: dict[str, Any]) -> Response:
    """The answer, once what it says is on the disk."""
    await parts_of(request).queue.written()
    return Json(answer)
