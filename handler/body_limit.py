"""A bound on what a request's body may hold, enforced while it is read."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from handler.openai.errors import ApiError


class BodyLimit:
    """ASGI middleware: reading more than `limit` bytes of a body raises `ApiError` 413."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting what is read of it."""
        await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                text = f"the body is over {self._limit} bytes"
                raise ApiError(413, text, "invalid_request_error", code="body_too_large")
            return message

        return counted
