"""Answers to a worker's poll: whatever cannot be handed over goes back to where it came from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.types import Message, Receive, Scope, Send

from handler.hanging_up import until_gone
from handler.local.answers import Json

T = TypeVar("T")


class HandedOver(Json):
    """An answer that says so if it does not reach the worker, as far as can be seen from here.

    A server drops what it is given for a connection that it has seen end, and tells nobody. So the answer is left open
    until the loop has come round once: by then an end that it had seen before the answer was written has been told.

    Args:
        lost: called when the worker is gone.
    """

    def __init__(self, content: object, lost: Callable[[], None]) -> None:
        super().__init__(content)
        self._lost = lost

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, in ASGI's terms."""

        async def left_open(message: Message) -> None:
            await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

        try:
            await super().__call__(scope, receive, left_open)
            await asyncio.sleep(0)
        except BaseException:
            self._lost()
            raise
        if _is_known_to_be_gone(receive):
            self._lost()
        await send({"type": "http.response.body"})


def _is_known_to_be_gone(receive: Receive) -> bool:
    """Whether the connection had ended by now. To await the answer would give it time to end."""
    asking = receive().__await__()
    try:
        next(asking)
    except StopIteration as answered:
        return bool(answered.value["type"] == "http.disconnect")
    asking.close()
    return False


async def unless_gone(
    request: Request, work: Coroutine[Any, Any, list[T]], give_back: Callable[[list[T]], None]
) -> list[T]:
    """What comes of `work`, which is cut short when the worker hangs up; if this is cut short, it is given back."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(until_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        give_back(await _ended(working, leaving))
        raise
    return await _ended(working, leaving)


async def _ended(working: asyncio.Task[list[T]], leaving: asyncio.Task[None]) -> list[T]:
    """What the work has come to, once neither task runs any more."""
    for task in (working, leaving):
        task.cancel()
    await asyncio.wait((working, leaving))
    return [] if working.cancelled() else working.result()
