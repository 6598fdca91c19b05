"""RunPod's protocol between its platform and its workers: take jobs, stream, be done, stop, give a sign of life."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from handler.local.answers import Json, read_json
from handler.local.handing_over import HandedOver, unless_gone
from handler.local.job import NOTHING, Job
from handler.local.parts import parts_of, shown_key
from handler.openai.errors import bad_request, unauthorised

DONE_BYTES: Final = 20_000_000
"""RunPod answers a longer result with 400."""
CHUNK_BYTES: Final = 1_000_000
"""RunPod's limit of a streamed part."""
REFUSED_S: Final = 1.0
"""How long a worker without the right key waits for its refusal: RunPod's SDK asks again at once."""


async def check_worker(request: Request, worker_id: str) -> None:
    """Raise `ApiError` 401 unless it is a worker of ours, with its key."""
    if not parts_of(request).crew.authorises(worker_id, shown_key(request)):
        await asyncio.sleep(REFUSED_S)
        raise unauthorised()


def worker_router() -> APIRouter:
    """The routes below `/v2/{endpoint}`."""
    router = APIRouter(tags=["worker"], dependencies=[Depends(check_worker)], include_in_schema=False)
    router.get("/job-take/{worker_id}", response_model=None)(take)
    router.get("/job-take-batch/{worker_id}", response_model=None)(take_batch)
    router.get("/job-stop/{worker_id}", response_model=None)(stop)
    router.post("/job-stream/{worker_id}/{job_id}", response_model=None)(stream)
    router.post("/job-done/{worker_id}/{job_id}", response_model=None)(done)
    router.get("/ping/{worker_id}", response_model=None)(ping)
    return router


async def take(request: Request, worker_id: str) -> Response:
    """The next job, or 204 when there is none for a while."""
    return await _take(request, worker_id, 1, lambda jobs: jobs[0].for_worker())


async def take_batch(
    request: Request, worker_id: str, batch_size: Annotated[int, Query(ge=1, le=10_000)] = 1
) -> Response:
    """The next jobs, as many as there are up to `batch_size`, or 204."""
    return await _take(request, worker_id, batch_size, lambda jobs: [job.for_worker() for job in jobs])


async def stop(request: Request, worker_id: str) -> Response:
    """The jobs to stop, or 204."""
    queue, poll_s = parts_of(request).queue, parts_of(request).settings.poll_s
    again = partial(queue.stop_again, worker_id)
    stopped = await unless_gone(request, queue.stops(worker_id, poll_s), again)
    return HandedOver({"jobsToStop": stopped}, partial(again, stopped)) if stopped else Response(status_code=204)


async def stream(request: Request, worker_id: str, job_id: str) -> Response:
    """A part of a job's output."""
    body = _object(await read_json(request, CHUNK_BYTES, status=400))
    parts_of(request).queue.stream(job_id, worker_id, body.get("output"))
    return Json({})


async def done(request: Request, worker_id: str, job_id: str) -> Response:
    """A job's end, or with `status` IN_PROGRESS how far it is; answered when it is on the disk."""
    parts = parts_of(request)
    body = _object(await read_json(request, DONE_BYTES, status=400))
    if body.get("status") == "IN_PROGRESS":
        parts.queue.progress(job_id, worker_id, body.get("output"))
        return Json({})
    parts.queue.finish(job_id, worker_id, body.get("output", NOTHING), _error_text(body))
    if body.get("stopPod") is True:
        parts.crew.wants_replacement(worker_id)
    await parts.queue.written()
    return Json({})


async def ping(
    request: Request, worker_id: str, job_id: str = "", status: str = "", check: str = "", reason: str = ""
) -> Response:
    """A sign of life, with the jobs at work."""
    complaint = f"{check}: {reason}" if status == "unhealthy" else None
    parts_of(request).crew.pinged(worker_id, [name for name in job_id.split(",") if name], complaint)
    return Json({})


async def _take(request: Request, worker_id: str, count: int, shown: Callable[[list[Job]], object]) -> Response:
    parts = parts_of(request)
    parts.crew.asks_for_jobs(worker_id)
    give_back = partial(parts.queue.hand_back, worker_id)
    jobs = await unless_gone(request, parts.queue.take(worker_id, count, parts.settings.poll_s), give_back)
    return HandedOver(shown(jobs), partial(give_back, jobs)) if jobs else Response(status_code=204)


def _object(body: object) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise bad_request("the body must be a JSON object")
    return body


def _error_text(body: dict[str, Any]) -> str | None:
    error = body.get("error")
    return error if error is None or isinstance(error, str) else json.dumps(error)
