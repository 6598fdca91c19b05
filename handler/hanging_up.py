"""Clients that go away: their answers are closed, whether they were being streamed or waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from handler.connection import UNREAD
from handler.openai.answering import Answer

T = TypeVar("T")


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class EventStream(StreamingResponse):
    """Server-sent events of an answer, which is closed at the end, however that comes."""

    media_type = "text/event-stream"

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._events: AsyncGenerator[str] = answer.sse()
        super().__init__(self._events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream, in ASGI's terms."""
        scope.setdefault("state", {})[UNREAD] = lambda: self._answer.unread_bytes
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            self._answer.close()


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up.

    Raises:
        ClientGone: the client hung up.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(until_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def until_gone(request: Request) -> None:
    """Wait until the client hangs up; what it sends meanwhile is dropped."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
