"""OpenAI's API in front of the queue: each call is a job that a worker answers in OpenAI's own words."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from handler.document import EVENT_STREAM, JSON, Responses, errors, event
from handler.hanging_up import while_connected
from handler.local.answers import Json, read_json
from handler.local.client_routes import RUN_SYNC_BYTES, RUN_SYNC_KEPT_S, submit_kept
from handler.local.job import Asked, Job
from handler.local.openai_answers import begun, events, whole
from handler.local.parts import check_client, parts_of
from handler.local.queue import JobQueue
from handler.openai.errors import bad_request
from handler.shapes import OpenAIError

_BODY: Final = {"requestBody": {"content": {JSON: {"schema": {"type": "object"}}}}}
_ANSWER: Final[Responses] = {
    200: {
        "description": "What the worker says; with `stream` in the body, server-sent events.",
        "content": {JSON: {"schema": {"type": "object"}}, EVENT_STREAM: {"schema": event()}},
    }
}


def openai_router() -> APIRouter:
    """The routes below `/v2/{endpoint}`."""
    router = APIRouter(
        prefix="/openai", tags=["OpenAI"], dependencies=[Depends(check_client)],
        responses=_ANSWER | errors(OpenAIError, 400, 401, 404, 413, 429, 500, 503, 504),
    )
    router.get("/{path:path}", response_model=None)(call)
    router.post("/{path:path}", response_model=None, openapi_extra=_BODY)(call)
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
        await while_connected(request, begun(job) if (body or {}).get("stream") else job.done.wait())
        if job.chunks and (body or {}).get("stream"):
            return _Stream(queue, job)
        await queue.written()
        return Json(whole(job))
    except BaseException:
        _abandon(queue, job)
        raise


class _Stream(StreamingResponse):
    """What a worker sends, as server-sent events. The job is cancelled when the client goes."""

    media_type = EVENT_STREAM

    def __init__(self, queue: JobQueue, job: Job) -> None:
        self._queue, self._job = queue, job
        super().__init__(events(job), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream, in ASGI's terms."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            _abandon(self._queue, self._job)


def _abandon(queue: JobQueue, job: Job) -> None:
    """Nobody waits for the job any more."""
    if queue.knows(job.id):
        queue.cancel(job.id)
