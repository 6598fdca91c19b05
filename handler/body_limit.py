"""Bounds on a request's body, how much it holds and how long it takes to come, enforced while it is read."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from handler.openai.errors import ApiError


class BodyLimit:
    """ASGI middleware: reading a body raises `ApiError`, 413 after `limit` bytes, 408 after `patience_s` seconds."""

    def __init__(self, app: ASGIApp, limit: int, patience_s: float) -> None:
        self._app = app
        self._limit = limit
        self._patience_s = patience_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting what is read of it."""
        await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        read = 0
        whole = False
        due: float | None = None

        async def counted() -> Message:
            nonlocal read, whole, due
            if whole:  # From here on it is the client's leaving that is waited for.
                return await receive()
            due = due or asyncio.get_running_loop().time() + self._patience_s
            try:
                async with asyncio.timeout_at(due):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow() from None
            whole = not message.get("more_body", False)
            read += len(message.get("body", b""))
            if read > self._limit:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is over {self._limit} bytes", "invalid_request_error", code="body_too_large")

    def _too_slow(self) -> ApiError:
        text = f"the body was not here after {self._patience_s:g} s"
        return ApiError(408, text, "invalid_request_error", code="body_too_slow")
