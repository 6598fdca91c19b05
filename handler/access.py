"""What a request passes before its body is read: who calls, and whether there is room."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from engine.errors import PilotlightError
from handler.caller import Caller
from handler.frontend import Frontend
from handler.openai.errors import ApiError, bad_request, from_engine

TIMEOUT_HEADER: Final = "X-Request-Timeout"

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def frontend_of(request: Request) -> Frontend:
    """The front end of the application that serves the request."""
    frontend = request.app.state.frontend
    assert isinstance(frontend, Frontend)
    return frontend


def caller_of(request: Request) -> Caller:
    """Who calls, on a route that asks for a key."""
    caller = request.state.caller
    assert isinstance(caller, Caller)
    return caller


def limit_headers(request: Request) -> dict[str, str]:
    """What the answer says of the caller's limits; nothing where there are none."""
    caller = getattr(request.state, "caller", None)
    return caller.allowance.headers() if caller is not None and caller.allowance is not None else {}


class KeyedRoute(APIRoute):
    """A route for those who have a key, where keys are asked for."""

    def get_route_handler(self) -> Handler:
        """The route's handler, behind the gate."""
        handle = super().get_route_handler()

        async def keyed(request: Request) -> Response:
            try:
                self.let_in(request)
            except (ApiError, PilotlightError):
                await _discard_body(request)
                raise
            return await self.answer(request, handle)

        return keyed

    def let_in(self, request: Request) -> None:
        """Find out who calls; raises `ApiError` or `PilotlightError` for whom it keeps out."""
        timeout_s = _timeout_s(request.headers.get(TIMEOUT_HEADER))
        authorization = request.headers.get("authorization", "")
        request.state.caller = frontend_of(request).admission.identify(authorization, timeout_s)

    async def answer(self, request: Request, handle: Handler) -> Response:
        """Answer a request that was let in."""
        return await handle(request)


class AdmittedRoute(KeyedRoute):
    """A route that gives the engine work: counted against the caller's limits, and refused while there is no room."""

    def let_in(self, request: Request) -> None:
        """See `KeyedRoute`."""
        super().let_in(request)
        with _counting_refusals(request):
            self.check_room(request)
            caller = caller_of(request)
            if caller.allowance is not None:
                caller.allowance.take_request()
            frontend_of(request).admission.admitted(caller)

    async def answer(self, request: Request, handle: Handler) -> Response:
        """See `KeyedRoute`."""
        with _counting_refusals(request):
            response = await handle(request)
        response.headers.update(limit_headers(request))
        return response

    def check_room(self, request: Request) -> None:
        """Raise `PilotlightError` when the request would be refused whatever it says."""
        raise NotImplementedError


@contextmanager
def _counting_refusals(request: Request) -> Iterator[None]:
    try:
        yield
    except (ApiError, PilotlightError) as error:
        known = error if isinstance(error, ApiError) else from_engine(error)
        if known.status == 429 and known.code is not None:
            frontend_of(request).admission.refused(caller_of(request), known.code)
        raise


async def _discard_body(request: Request) -> None:
    """Read what is on its way: only then is the connection free for the next request."""
    with suppress(ApiError, ClientDisconnect):
        async for _ in request.stream():
            pass


def _timeout_s(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise bad_request(f"{TIMEOUT_HEADER}: {header[:40]!r} is no number of seconds above 0", TIMEOUT_HEADER)
    return seconds
