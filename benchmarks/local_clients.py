"""Clients of a local endpoint: many at once, each of which asks in its own way and remembers what came of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp

Way = Literal["run", "runsync", "stream", "cancel"]
MIX: tuple[tuple[Way, int], ...] = (("run", 40), ("runsync", 25), ("stream", 25), ("cancel", 10))
"""Of a hundred jobs."""
LONG_SHARE = 0.5
LONG_TOKENS = 200
"""Long enough that workers are ended amid their work."""
POLL_S = 0.5
EXECUTION_MS = 60_000
"""A job that is not answered for so long is taken for lost."""
_FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


@dataclass(slots=True)
class Asked:
    """A job as its client saw it.

    Attributes:
        status: its final state, as it was told.
        answer: the text of its output, None without one.
        awaited: what the text should have been; a long answer only begins so.
        streamed: what a stream brought.
    """

    job: str
    way: Way
    status: str
    answer: str | None
    awaited: str
    is_long: bool
    streamed: str = ""


@dataclass(slots=True)
class Clients:
    """A closed loop: each client asks for its next job when the last has ended.

    Attributes:
        seen: the jobs that have ended.
        refused: answers that were no answers, by their status or error.
    """

    url: str
    jobs: Iterator[int]
    on_end: Callable[[], object] = lambda: None
    seen: list[Asked] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    async def ask_all(self, at_once: int) -> None:
        """Ask until there are no more jobs."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(f"{self.url}/v2/local/", connector=connector) as session:
            await asyncio.gather(*(self._client(session) for _ in range(at_once)))

    async def _client(self, session: aiohttp.ClientSession) -> None:
        for number in self.jobs:
            draw = random.Random(number)
            ways, weights = zip(*MIX, strict=True)
            self.seen.append(await self._ask(session, draw.choices(ways, weights)[0], draw))
            self.on_end()

    async def _ask(self, session: aiohttp.ClientSession, way: Way, draw: random.Random) -> Asked:
        first, length, is_long = draw.randrange(60), draw.randrange(5, 31), draw.random() < LONG_SHARE
        awaited = " ".join(map(str, range(first, first + length + 1)))
        text = f"Count from {first} to {first + length}."
        longer = {"ignore_eos": True, "max_tokens": LONG_TOKENS} if is_long else {}
        given = {
            "messages": [{"role": "user", "content": text}], "sampling_params": {"temperature": 0, **longer},
            "stream": way == "stream",
        }
        body = {"input": given, "policy": {"executionTimeout": EXECUTION_MS}}
        view = await self._call(session, "POST", "runsync" if way == "runsync" else "run", body)
        if way == "cancel":
            await asyncio.sleep(draw.uniform(0, 2))
            await self._call(session, "POST", f"cancel/{view['id']}")
        streamed = await self._follow(session, view["id"]) if way == "stream" else ""
        while view["status"] not in _FINAL:
            view = await self._call(session, "GET", f"status/{view['id']}")
            await asyncio.sleep(0 if view["status"] in _FINAL else POLL_S)
        return Asked(view["id"], way, view["status"], text_of(view.get("output")), awaited, is_long, streamed)

    async def _follow(self, session: aiohttp.ClientSession, job: str) -> str:
        """What the stream brings till its end; after a worker was lost it begins again."""
        text = ""
        while True:
            view = await self._call(session, "GET", f"stream/{job}")
            text += "".join(text_of([piece["output"]]) or "" for piece in view["stream"])
            if view["status"] in _FINAL:
                return text
            await asyncio.sleep(POLL_S)

    async def _call(self, session: aiohttp.ClientSession, method: str, path: str, body: object = None) -> Any:
        while True:
            try:
                async with session.request(method, path, json=body) as answer:
                    if answer.status == 200:
                        return await answer.json()
                    self.refused.append(f"{answer.status}: {path.partition('/')[0]}")
            except aiohttp.ClientError as error:
                self.refused.append(type(error).__name__)
            await asyncio.sleep(POLL_S)


def text_of(output: Any) -> str | None:
    """What a text job has generated."""
    if not isinstance(output, list) or not all(isinstance(piece, dict) for piece in output):
        return None
    return "".join(token for piece in output for choice in piece["choices"] for token in choice["tokens"])
