"""Faults of the control plane's worker side, for tests that show what a worker makes of them.

Nothing of this can be reached from outside: whoever builds the application wraps it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from handler.local.contracts import ENDPOINT_ID

_PATH: Final = re.compile(rf"/v2/{ENDPOINT_ID}/(job-take|job-take-batch|job-stop|job-stream|job-done|ping)/.*")

Fault = Callable[[ASGIApp, Scope, Receive, Send], Awaitable[None]]
"""Answers a request instead of the application, which is given to it."""


def answering(status: int, body: bytes = b"", content_type: bytes = b"application/json") -> Fault:
    """Answer with this, at once."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return fault


def garbage() -> Fault:
    """Answer 200 with what is no JSON, though it says it is."""
    return answering(200, b'{"id": "half')


def hanging(seconds: float) -> Fault:
    """Answer nothing for so long, then 503."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(seconds)
        await answering(503)(app, scope, receive, send)

    return fault


def late(seconds: float) -> Fault:
    """Do what was asked, after so long."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(seconds)
        await app(scope, receive, send)

    return fault


def cut(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """Do what was asked, and cut the connection in the middle of the answer."""

    async def half(message: Message) -> None:
        if message["type"] == "http.response.start":
            longer = [(name, value) for name, value in message["headers"] if name != b"content-length"]
            await send({**message, "headers": [*longer, (b"content-length", b"1000000")]})

    return app(scope, receive, half)


@dataclass(slots=True)
class Faults:
    """ASGI middleware: what the worker side answers, route by route, and what was asked of it.

    Attributes:
        now: for a route (`job-take`, `job-take-batch`, `job-stop`, `job-stream`, `job-done`, `ping`) the fault that
            its requests meet; the others work. It may be changed at any time.
        asked: for each route when it was called, in monotonic seconds.
    """

    app: ASGIApp
    now: dict[str, Fault] = field(default_factory=dict)
    asked: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or have it meet its fault."""
        match = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if match is None:
            await self.app(scope, receive, send)
            return
        self.asked[match[1]].append(time.monotonic())
        fault = self.now.get(match[1])
        await (self.app(scope, receive, send) if fault is None else fault(self.app, scope, receive, send))
