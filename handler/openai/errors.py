"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from engine.errors import ContextExceeded, EngineDead, InvalidRequest, PilotlightError, QueueFull
from engine.request import Finish, FinishReason
from handler.booting import NotReady

RETRY_AFTER_S = 1
"""What a client is told to wait while the model loads."""

_MOST_CAUSES = 4
_HEADERS: Final[Mapping[int, dict[str, str]]] = {401: {"WWW-Authenticate": "Bearer"}, 408: {"Connection": "close"}}


class ApiError(Exception):
    """An error as the client gets it.

    Args:
        status: of the HTTP answer.
        kind: OpenAI's `type`.
        param: the field at fault, or None.
        retry_after: whole seconds after which it is worth another try.
        headers: lines of the answer beside those that follow from the rest.
    """

    def __init__(
        self, status: int, message: str, kind: str, param: str | None = None, code: str | None = None,
        retry_after: int | None = None, headers: Mapping[str, str] | None = None,
    ) -> None:
        # A template may put half a surrogate pair of the user's into its complaint, which no answer could carry.
        message = message.encode(errors="backslashreplace").decode()
        super().__init__(message)
        self.status = status
        self.code = code
        self._headers = dict(headers or {})
        self.retry_after = retry_after
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    @property
    def headers(self) -> dict[str, str]:
        """Header lines that belong to the answer."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers | self._headers | _HEADERS.get(self.status, {})

    def text(self) -> str:
        """The error object, its status and its `retry_after` as JSON text, for where only a string survives."""
        wait = {} if self.retry_after is None else {"retry_after": self.retry_after}
        return json.dumps({**self.body["error"], "status": self.status, **wait}, ensure_ascii=False)


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that is wrong in itself."""
    return ApiError(400, message, "invalid_request_error", param, code)


def not_found(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A model or a route that does not exist."""
    return ApiError(404, message, "invalid_request_error", param, code)


def unauthorised() -> ApiError:
    """No key, or a wrong one."""
    message = "a valid API key is needed: Authorization: Bearer KEY"
    return ApiError(401, message, "authentication_error", code="invalid_api_key")


def internal() -> ApiError:
    """A fault of the server, which its log describes."""
    return ApiError(500, "the server failed; its log says why", "server_error")


def from_engine(error: PilotlightError) -> ApiError:
    """What an error of the engine means to a client."""
    message = str(error)
    match error:
        case ContextExceeded():
            return bad_request(message, error.param, "context_length_exceeded")
        case InvalidRequest():
            return bad_request(message, error.param)
        case QueueFull():
            return ApiError(429, message, "rate_limit_error", code="queue_full", retry_after=error.retry_after_s)
        case NotReady():
            return ApiError(503, message, "server_error", code="not_ready", retry_after=RETRY_AFTER_S)
        case EngineDead():
            return ApiError(503, message, "server_error", code="engine_dead")
    return ApiError(500, message, "server_error")


def from_finish(finish: Finish) -> ApiError | None:
    """The error that a request's end amounts to; None when it ended well."""
    match finish.reason:
        case FinishReason.STOP | FinishReason.LENGTH:
            return None
        case FinishReason.DEADLINE:
            return ApiError(504, "the request ran into its time limit", "server_error", code="timeout")
        case FinishReason.ABORTED:
            return ApiError(503, "the request was aborted: the server is shutting down", "server_error", code="aborted")
    return ApiError(500, finish.error or "the request failed", "server_error")


def from_validation(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """One 400 from pydantic's list of errors, which for a union holds one for each of its members."""
    first = errors[0]
    path = [part for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return bad_request(f"the body is not valid JSON: {first.get('ctx', {}).get('error', first['msg'])}")
    if not path:
        return bad_request("the body must be a JSON object, sent as application/json")
    param = str(path[0])
    if first["type"] == "extra_forbidden":
        field = ".".join(map(str, path))
        return bad_request(f"{field} is not supported by this endpoint", field, "unsupported_parameter")
    same = [_what_is_wrong(error) for error in errors[:_MOST_CAUSES] if param in error["loc"]]
    where = param if len(same) > 1 else ".".join(map(str, path))
    return bad_request(f"{where}: {', or: '.join(dict.fromkeys(same))}", param)


def _what_is_wrong(error: Mapping[str, Any]) -> str:
    """pydantic's words, except where they name a class of ours."""
    return "Input should be an object" if error["type"] == "model_type" else str(error["msg"])
