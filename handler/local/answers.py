"""Bodies in and answers out, the errors in the shape of the API that was called."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from engine.errors import PilotlightError
from handler.hanging_up import ClientGone
from handler.local.contracts import ENDPOINT_ID
from handler.local.queue import NoSuchJob
from handler.local.record import RecordFailed
from handler.openai.errors import ApiError, bad_request, from_engine, from_validation, internal, not_found

OPENAI_PATH: Final = f"/v2/{ENDPOINT_ID}/openai/"


class Json(JSONResponse):
    """JSON in ASCII, which also carries half a surrogate pair."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


async def read_json(request: Request, most_bytes: int, status: int = 413) -> Any:
    """The request's body, whatever it says it is; None for an empty one.

    Args:
        status: of the refusal when it is longer than `most_bytes`. It is read to its end all the same, because a
            client that is still sending would not see an answer.

    Raises:
        ApiError: it is too long, or no JSON.
    """
    body, size = bytearray(), 0
    async for part in request.stream():
        size += len(part)
        if size <= most_bytes:
            body += part
    if size > most_bytes:
        text = f"the body has {size} bytes, and {most_bytes} is the limit here"
        raise ApiError(status, text, "invalid_request_error", code="body_too_large")
    return parse_json(bytes(body)) if body else None


def parse_json(text: bytes) -> Any:
    """What the JSON text says; raises `ApiError` 400 where it is none. NaN, infinity and what is as large are none."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body is not valid JSON: {error}") from None


def respond(path: str, error: ApiError) -> Response:
    """In OpenAI's shape on OpenAI's routes, in RunPod's, where an error is text, elsewhere."""
    body = error.body if path.startswith(OPENAI_PATH) else {"error": str(error)}
    return Json(body, error.status, headers=error.headers)


def add_error_handlers(app: FastAPI) -> None:
    """Have every error answered by `respond`."""
    gone, wrong = (ClientGone, ClientDisconnect), (RequestValidationError, HTTPException)
    for kind in (ApiError, PilotlightError, *gone, *wrong, Exception):
        app.add_exception_handler(kind, _handle)


async def _handle(request: Request, error: Exception) -> Response:
    return respond(request.scope["path"], _as_api_error(request, error))


def _as_api_error(request: Request, error: Exception) -> ApiError:
    match error:
        case ApiError():
            return error
        case NoSuchJob():
            return not_found(str(error))
        case RecordFailed():
            return ApiError(503, str(error), "server_error", code="not_kept", retry_after=1)
        case PilotlightError():
            return from_engine(error)
        case ClientGone() | ClientDisconnect():
            return ApiError(499, "nobody reads this", "invalid_request_error")
        case RequestValidationError():
            return from_validation(error.errors())
        case HTTPException(status_code=404):
            return not_found(f"there is no route {request.method} {request.scope['path']}", code="unknown_url")
        case HTTPException():
            return ApiError(error.status_code, str(error.detail), "invalid_request_error")
    return internal()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(figure: str) -> float:
    if math.isinf(value := float(figure)):
        raise ValueError(f"{figure[:40]} is too large a number")
    return value
