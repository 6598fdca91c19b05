"""A job's outputs and its end, in OpenAI's terms."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final, TypeGuard

from handler.local.job import NOTHING, Job
from handler.local_queue import Status
from handler.openai.errors import ApiError

_BY_CODE: Final = {
    "unknown_url": 404, "model_not_found": 404, "body_too_large": 413, "timeout": 504, "aborted": 503,
    "not_ready": 503, "engine_dead": 503,
}
_BY_TYPE: Final = {"invalid_request_error": 400, "authentication_error": 401, "rate_limit_error": 429}
"""What status an error stands for that does not say so: that of its code, or else of its type."""


async def begun(job: Job) -> None:
    """Wait for the first output, or the end."""
    while not job.chunks and not job.is_final:
        await job.bell.wait()


async def events(job: Job) -> AsyncIterator[str]:
    """What the job's worker sends, as server-sent events; the last one is an error if it does not end well.

    A worker that is lost before its first piece is not noticed. After that nothing can be gone on with: the next worker
    begins anew, and may say it in other words. So the stream ends with the error `worker_lost`.
    """
    sent, chunks = 0, job.chunks
    while not sent or chunks is job.chunks:
        chunks, ended = job.chunks, job.is_final
        for chunk in chunks[sent:]:
            yield _event(chunk)
            sent += 1
        if ended:
            break
        if chunks is job.chunks and len(chunks) == sent and not job.is_final:
            await job.bell.wait()
    error = error_of(job) if chunks is job.chunks else _lost()
    if error is not None:
        yield _event(error.body)


def whole(job: Job) -> Any:
    """The one object that the worker has answered with.

    Raises:
        ApiError: it has failed, or there is no such object.
    """
    if (error := error_of(job)) is not None:
        raise error
    outputs = job.output if isinstance(job.output, list) else [] if job.output is NOTHING else [job.output]
    outputs = outputs or job.chunks
    if not outputs:
        raise ApiError(500, "the worker has answered with nothing", "server_error")
    return outputs[-1]


def error_of(job: Job) -> ApiError | None:
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
    return _lost()


def _lost() -> ApiError:
    return ApiError(503, "the worker was lost in the middle of its answer", "server_error", code="worker_lost")


def _event(chunk: object) -> str:
    """Workers send whole events as text; an object becomes one."""
    return chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk)}\n\n"


def _from_text(text: str) -> ApiError:
    """The error of which the worker could send nothing but the text (`ApiError.text`)."""
    try:
        told = json.loads(text)
        message, kind, code = str(told["message"]), str(told["type"]), told.get("code")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ApiError(500, text, "server_error")
    wait = told.get("retry_after")
    return ApiError(_status(told), message, kind, told.get("param"), code, wait if _is_within(wait, 0, 3600) else None)


def _status(told: dict[str, Any]) -> int:
    """The error's own status; vLLM's workers give it as the code."""
    for figure in (told.get("status"), told.get("code")):
        if _is_within(figure, 400, 599):
            return figure
    return _BY_CODE.get(str(told.get("code"))) or _BY_TYPE.get(str(told["type"]), 500)


def _is_within(figure: object, least: int, most: int) -> TypeGuard[int]:
    return type(figure) is int and least <= figure <= most
