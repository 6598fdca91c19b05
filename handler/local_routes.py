"""RunPod's own routes, for a worker on this machine: its clients work against it unchanged."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from engine.errors import EngineDead
from handler.access import AdmittedRoute, KeyedRoute, caller_of, frontend_of
from handler.booting import NotReady
from handler.document import answer, errors
from handler.local_queue import LocalJob, LocalQueue, Status
from handler.shapes import EndpointHealth, JobState, JobStream, JobView, RunPodError

_PATH: Final = re.compile(r"(/v2/[^/]+)?/(run|runsync|(status|stream|cancel)/[^/]+)|/v2/[^/]+/health")

Wait = Annotated[int, Query(ge=1000, le=300_000, description="milliseconds")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Policy(_Body):
    """`executionTimeout` in milliseconds, a week at most as on RunPod."""

    executionTimeout: Annotated[int, Field(ge=1, le=604_800_000)] | None = None  # noqa: N815


class JobRequest(_Body):
    """A job. Webhooks, S3 results and the rest of RunPod's policy are not to be had locally."""

    input: Any
    policy: Policy | None = None


class QueueingRoute(AdmittedRoute):
    """A route whose requests wait in the local queue."""

    def check_room(self, request: Request) -> None:
        """See `AdmittedRoute`."""
        _queue_of(request).check_room()


def local_router(endpoint: bool) -> APIRouter:
    """The routes of one endpoint; with `endpoint` its `/health` too, which at the root is ours."""
    router = APIRouter(
        tags=["RunPod"], route_class=KeyedRoute, responses=errors(RunPodError, 400, 401, 429, 500)
    )
    queueing = APIRouter(route_class=QueueingRoute)
    wrong, unknown = errors(RunPodError, 408, 413, 503), errors(RunPodError, 404)
    queueing.post("/run", responses=answer(JobState) | wrong)(run)
    queueing.post("/runsync", responses=answer(JobView) | wrong)(run_sync)
    router.include_router(queueing)
    for method in ("GET", "POST"):  # Each by itself: in the document every operation has a name of its own.
        router.api_route("/status/{job_id}", methods=[method], responses=answer(JobView) | unknown)(status)
        router.api_route("/stream/{job_id}", methods=[method], responses=answer(JobStream) | unknown)(stream)
    router.post("/cancel/{job_id}", responses=answer(JobState) | unknown)(cancel)
    if endpoint:
        router.get("/health", responses=answer(EndpointHealth))(endpoint_health)
    return router


def is_local(path: str) -> bool:
    """Whether errors on this path are to have RunPod's shape."""
    return _PATH.fullmatch(path) is not None


async def run(request: Request, body: JobRequest) -> dict[str, Any]:
    """Queue a job."""
    job = await _submit(request, body)
    return {"id": job.id, "status": job.status}


async def run_sync(request: Request, body: JobRequest, wait: Wait = 90_000) -> dict[str, Any]:
    """Queue a job and wait for its end; one that takes longer than `wait` goes on and is read by `/status`."""
    job = await _submit(request, body)
    with suppress(TimeoutError):
        await asyncio.wait_for(job.done.wait(), wait / 1000)
    return job.view()


async def status(request: Request, job_id: str) -> dict[str, Any]:
    """How a job is, and its outputs once it is complete."""
    return _queue_of(request).get(job_id).view()


async def stream(request: Request, job_id: str) -> dict[str, Any]:
    """The outputs that have come since the last call."""
    return _queue_of(request).get(job_id).take_stream()


async def cancel(request: Request, job_id: str) -> dict[str, Any]:
    """End a job."""
    job = _queue_of(request).cancel(job_id)
    return {"id": job.id, "status": job.status}


async def endpoint_health(request: Request) -> dict[str, dict[str, int]]:
    """RunPod's counts of an endpoint's jobs and workers, of which there is one."""
    queue = _queue_of(request)
    busy = queue.count(Status.IN_PROGRESS)
    return {
        "jobs": {
            "completed": queue.count(Status.COMPLETED),
            "failed": queue.count(Status.FAILED, Status.TIMED_OUT),
            "inProgress": busy,
            "inQueue": queue.count(Status.IN_QUEUE),
            "retried": 0,
        },
        "workers": _workers(request, busy),
    }


def _workers(request: Request, busy: int) -> dict[str, int]:
    boot = frontend_of(request).boot
    try:
        state = "running" if boot.engine and busy else "idle"
    except NotReady:
        state = "initializing"
    except EngineDead:
        state = "unhealthy"
    names = ("idle", "initializing", "ready", "running", "throttled", "unhealthy")
    return {name: int(name == state or (name == "ready" and state in ("idle", "running"))) for name in names}


async def _submit(request: Request, body: JobRequest) -> LocalJob:
    limit = body.policy.executionTimeout if body.policy else None
    size = len(await request.body())
    return _queue_of(request).submit(body.input, None if limit is None else limit / 1000, caller_of(request), size)


def _queue_of(request: Request) -> LocalQueue:
    queue = request.app.state.queue
    assert isinstance(queue, LocalQueue)
    return queue
