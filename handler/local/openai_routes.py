"""OpenAI's API in front of the queue: each call is a job that a worker answers in OpenAI's own words."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from handler.hanging_up import while_connected
from handler.local.answers import Json, read_json
from handler.local.client_routes import RUN_SYNC_BYTES, RUN_SYNC_KEPT_S, submit_kept
from handler.local.job import NOTHING, Asked, Job
from handler.local.parts import check_client, parts_of
from handler.local.queue import JobQueue
from handler.local_queue import Status
from handler.openai.errors import ApiError, bad_request

_BY_CODE: Final = {
    "unknown_url": 404, "model_not_found": 404, "body_too_large": 413, "timeout": 504, "aborted": 503,
    "not_ready": 503, "engine_dead": 503,
}
_BY_TYPE: Final = {"invalid_request_error": 400, "authentication_error": 401, "rate_limit_error": 429}
"""A worker can send nothing but an error's text; what status it stands for follows from its code, or else its type."""


def openai_router() -> APIRouter:
    """The routes below `/v2/{endpoint}`."""
    router = APIRouter(prefix="/openai", tags=["OpenAI"], dependencies=[Depends(check_client)])
    router.api_route("/{path:path}", methods=["GET", "POST"], response_model=None)(call)
    return router


async def call(request: Request, path: str) -> Response:
    """Have a worker answer. With `stream` in the body what it sends is passed on as it comes."""
    body = await read_json(request, RUN_SYNC_BYTES)
    if not isinstance(body, dict | None):
        raise bad_request("the body must be a JSON object, sent as application/json")
    queue = parts_of(request).queue
    asked = Asked({"openai_route": f"/{path}", "openai_input": body or {}}, kept_s=RUN_SYNC_KEPT_S, sync=True)
    job = await submit_kept(queue, asked)
    try:
        await while_connected(request, _begun(job) if (body or {}).get("stream") else job.done.wait())
        if job.chunks and (body or {}).get("stream"):
            return _Stream(queue, job)
        await queue.written()
        return Json(_whole(job))
    except BaseException:
        _abandon(queue, job)
        raise


class _Stream(StreamingResponse):
    """What a worker sends, as server-sent events. The job is cancelled when the client goes."""

    media_type = "text/event-stream"

    def __init__(self, queue: JobQueue, job: Job) -> None:
        self._queue, self._job = queue, job
        super().__init__(_events(job), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream, in ASGI's terms."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            _abandon(self._queue, self._job)


async def _begun(job: Job) -> None:
    """Wait for the first output, or the end."""
    while not job.chunks and not job.is_final:
        await job.bell.wait()


async def _events(job: Job) -> AsyncIterator[str]:
    sent, attempt = 0, job.attempts
    while job.attempts == attempt and job.status is not Status.IN_QUEUE:
        fresh, ended = job.chunks[sent:], job.is_final
        for chunk in fresh:
            yield _event(chunk)
        sent += len(fresh)
        if ended:
            break
        if len(job.chunks) == sent:
            await job.bell.wait()
    if (error := _error(job)) is not None:
        yield _event(error.body)


def _event(chunk: object) -> str:
    """Workers send whole events as text; an object becomes one."""
    return chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk)}\n\n"


def _whole(job: Job) -> Any:
    """The one object that the worker has answered with.

    Raises:
        ApiError: it has failed, or there is no such object.
    """
    if (error := _error(job)) is not None:
        raise error
    outputs = job.output if isinstance(job.output, list) else [] if job.output is NOTHING else [job.output]
    outputs = outputs or job.chunks
    if not outputs:
        raise ApiError(500, "the worker has answered with nothing", "server_error")
    return outputs[-1]


def _error(job: Job) -> ApiError | None:
    """What has become of the job, if no answer."""
    match job.status:
        case Status.COMPLETED:
            return None
        case Status.TIMED_OUT:
            return ApiError(504, job.error or "the job ran out of time", "server_error", code="timeout")
        case Status.CANCELLED:
            return ApiError(503, "the job was cancelled", "server_error", code="cancelled")
        case Status.FAILED:
            return _from_text(job.error or "the job failed")
    return ApiError(503, "the worker was lost in the middle of its answer", "server_error", code="worker_lost")


def _from_text(text: str) -> ApiError:
    try:
        told = json.loads(text)
        message, kind, code = told["message"], told["type"], told.get("code")
    except (ValueError, TypeError, KeyError):
        return ApiError(500, text, "server_error")
    status = _BY_CODE.get(code) or _BY_TYPE.get(kind, 500)
    return ApiError(status, str(message), str(kind), told.get("param"), code)


def _abandon(queue: JobQueue, job: Job) -> None:
    """Nobody waits for the job any more."""
    if queue.knows(job.id):
        queue.cancel(job.id)
