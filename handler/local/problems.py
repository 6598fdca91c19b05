"""Errors of the management API, in the shape of RFC 9457, and the routes that answer with them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute

from handler.local.parts import check_client
from handler.local.quota import Quota
from handler.openai.errors import ApiError

PROBLEM = "application/problem+json"


class Problem(Exception):
    """What is wrong with a call.

    Args:
        detail: one line for a person.
        errors: one for each field at fault.
    """

    def __init__(self, status: HTTPStatus, detail: str, errors: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.body = {"title": status.phrase, "status": status.value, "detail": detail, "errors": list(errors)}

    def response(self) -> Response:
        """As the client gets it."""
        return JSONResponse(self.body, self.status, media_type=PROBLEM)


class ManagedRoute(APIRoute):
    """A route of the management API: it counts the call, checks the key and answers every error as a `Problem`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler with all that around it."""
        handle = super().get_route_handler()

        async def managed(request: Request) -> Response:
            quota: Quota = request.app.state.management.quota
            response = await _answer(handle, request, quota)
            response.headers.update(quota.headers())
            return response

        return managed


async def _answer(
    handle: Callable[[Request], Coroutine[Any, Any, Response]], request: Request, quota: Quota
) -> Response:
    try:
        check_client(request)
        if not quota.admit():
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, "too many calls; Retry-After says when to come again")
        return await handle(request)
    except Problem as problem:
        return problem.response()
    except RequestValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}" for fault in error.errors()]
        return Problem(HTTPStatus.BAD_REQUEST, faults[0], faults).response()
    except ApiError as error:
        return Problem(HTTPStatus(error.status), str(error)).response()
