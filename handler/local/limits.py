"""RunPod's rate limits of an endpoint: requests of each operation in any ten seconds, and at once."""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from handler.local.answers import respond
from handler.local.contracts import ENDPOINT_ID
from handler.openai.errors import ApiError

WINDOW_S: Final = 10.0

_PATH: Final = re.compile(rf"/v2/{ENDPOINT_ID}/([a-z-]+)(?:/.*)?")


@dataclass(frozen=True, slots=True)
class Rate:
    """How many requests of an operation may begin in `WINDOW_S` seconds, and be under way at once."""

    requests: int
    at_once: int


RATES: Final[Mapping[str, Rate]] = MappingProxyType({
    "run": Rate(1000, 200),
    "runsync": Rate(2000, 400),
    "status": Rate(2000, 400),
    "stream": Rate(2000, 400),
    "cancel": Rate(100, 20),
    "purge-queue": Rate(2, 2),
    "openai": Rate(2000, 400),
    "requests": Rate(10, 2),
})
"""RunPod's base limits (docs.runpod.io, operation reference, 2026-08); what it adds with the number of workers is left
out. An operation that is not listed has none."""


@dataclass(slots=True)
class Gate:
    """One operation's requests: when the last ones began, and how many are under way."""

    rate: Rate
    begun: deque[float] = field(default_factory=deque)
    under_way: int = 0

    def enter(self, now: float) -> None:
        """Be one of them, until `leave`.

        Raises:
            ApiError: 429, they are too many.
        """
        while self.begun and self.begun[0] <= now - WINDOW_S:
            self.begun.popleft()
        if len(self.begun) >= self.rate.requests:
            wait = math.ceil(self.begun[0] + WINDOW_S - now)
            raise _too_many(f"{self.rate.requests} requests of this kind in {WINDOW_S:g} s", wait)
        if self.under_way >= self.rate.at_once:
            raise _too_many(f"{self.rate.at_once} requests of this kind at once", 1)
        self.begun.append(now)
        self.under_way += 1

    def leave(self) -> None:
        """Be under way no longer."""
        self.under_way -= 1


class RateLimits:
    """ASGI middleware: a request over its operation's limits is answered with 429, and says when to come again."""

    def __init__(self, app: ASGIApp, rates: Mapping[str, Rate] = RATES) -> None:
        self._app = app
        self._gates = {operation: Gate(rate) for operation, rate in rates.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        gate = self._gate(scope)
        if gate is None:
            await self._app(scope, receive, send)
            return
        try:
            gate.enter(time.monotonic())
        except ApiError as error:
            await respond(scope["path"], error)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            gate.leave()

    def _gate(self, scope: Scope) -> Gate | None:
        if scope["type"] != "http":
            return None
        match = _PATH.fullmatch(scope["path"])
        return self._gates.get(match[1]) if match else None


def _too_many(what: str, wait_s: int) -> ApiError:
    text = f"RunPod's rate limit: {what}"
    return ApiError(429, text, "rate_limit_error", code="rate_limit_exceeded", retry_after=max(1, wait_s))
