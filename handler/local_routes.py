"""RunPod's own routes, for a worker on this machine: its clients work against it unchanged."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from engine.errors import EngineDead
from handler.access import caller_key, frontend_of
from handler.booting import NotReady
from handler.local_queue import LocalJob, LocalQueue, Status

_PATH: Final = re.compile(r"(/v2/[^/]+)?/(run|runsync|(status|stream|cancel)/[^/]+)|/v2/[^/]+/health")

ApiKey = Annotated[str | None, Depends(caller_key)]
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


def local_router(endpoint: bool) -> APIRouter:
    """The routes of one endpoint; with `endpoint` its `/health` too, which at the root is ours."""
    router = APIRouter(tags=["RunPod"], dependencies=[Depends(caller_key)])
    router.post("/run")(run)
    router.post("/runsync")(run_sync)
    router.api_route("/status/{job_id}", methods=["GET", "POST"])(status)
    router.api_route("/stream/{job_id}", methods=["GET", "POST"])(stream)
    router.post("/cancel/{job_id}")(cancel)
    if endpoint:
        router.get("/health")(endpoint_health)
    return router


def is_local(path: str) -> bool:
    """Whether errors on this path are to have RunPod's shape."""
    return _PATH.fullmatch(path) is not None


async def run(request: Request, body: JobRequest, api_key: ApiKey) -> dict[str, Any]:
    """Queue a job."""
    job = _submit(request, body, api_key)
    return {"id": job.id, "status": job.status}


async def run_sync(request: Request, body: JobRequest, api_key: ApiKey, wait: Wait = 90_000) -> dict[str, Any]:
    """Queue a job and wait for its end; one that takes longer than `wait` goes on and is read by `/status`."""
    job = _submit(request, body, api_key)
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


def _submit(request: Request, body: JobRequest, api_key: str | None) -> LocalJob:
    limit = body.policy.executionTimeout if body.policy else None
    return _queue_of(request).submit(body.input, None if limit is None else limit / 1000, api_key)


def _queue_of(request: Request) -> LocalQueue:
    queue = request.app.state.queue
    assert isinstance(queue, LocalQueue)
    return queue
