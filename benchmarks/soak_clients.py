"""Clients that ask a server without a pause, and as people do: most read to the end, some hang up."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp

Way = Literal["stream", "whole", "leave a stream", "leave an answer", "job", "cancelled job"]
MIX: tuple[tuple[Way, int], ...] = (
    ("stream", 50), ("whole", 20), ("leave a stream", 15), ("leave an answer", 10), ("job", 3), ("cancelled job", 2),
)
"""Of a hundred requests. A job's result is kept for half an hour, so there are few."""
_FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")
_LOOK_S = 0.25


@dataclass(slots=True)
class SoakClients:
    """So many clients at once, until their time is up.

    Attributes:
        jobs: whether jobs are among what they ask for.
        done: how often each way was gone.
        wrong: what was not as it should be, by what it was.
    """

    url: str
    end_s: float
    jobs: bool = True
    done: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)

    async def ask(self, at_once: int) -> None:
        """Ask until the end, in monotonic seconds."""
        async with aiohttp.ClientSession(self.url, connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(self._client(session, number) for number in range(at_once)))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        draw = random.Random(number)
        ways, weights = zip(*(one for one in MIX if self.jobs or "job" not in one[0]), strict=True)
        while time.monotonic() < self.end_s:
            way: Way = draw.choices(ways, weights)[0]
            try:
                await self._go(session, way, draw)
            except (aiohttp.ClientError, TimeoutError) as error:
                self.wrong[f"{way}: {type(error).__name__}"] += 1
                await asyncio.sleep(_LOOK_S)
            self.done[way] += 1

    async def _go(self, session: aiohttp.ClientSession, way: Way, draw: random.Random) -> None:
        first, length = draw.randrange(60), draw.randrange(5, 30)
        awaited = " ".join(map(str, range(first, first + length + 1)))
        messages = [{"role": "user", "content": f"Count from {first} to {first + length}."}]
        if way in ("job", "cancelled job"):
            await self._job(session, messages, awaited, cancelled=way == "cancelled job")
            return
        body = {"model": "demo", "messages": messages, "temperature": 0, "stream": "stream" in way}
        if way == "leave an answer":
            await self._leave(session, body, draw.uniform(0, 0.5))
            return
        async with session.post("/v1/chat/completions", json=body) as answer:
            if answer.status != 200:
                self.wrong[f"{answer.status}"] += 1
            elif way == "leave a stream":
                await _first_events(answer, draw.randrange(1, 10))
            elif (text := await _text(answer, "stream" in way)) != awaited:
                self.wrong[f"{text!r} instead of {awaited!r}"] += 1

    async def _leave(self, session: aiohttp.ClientSession, body: dict[str, Any], after_s: float) -> None:
        async def ask() -> None:
            async with session.post("/v1/chat/completions", json=body) as answer:
                await answer.read()

        try:
            await asyncio.wait_for(ask(), after_s)
        except TimeoutError:
            return

    async def _job(self, session: aiohttp.ClientSession, messages: Any, awaited: str, cancelled: bool) -> None:
        given = {"messages": messages, "sampling_params": {"temperature": 0}}
        view = await _json(session.post("/run", json={"input": given}))
        if cancelled:
            view = await _json(session.post(f"/cancel/{view['id']}"))
        while view["status"] not in _FINAL:
            await asyncio.sleep(_LOOK_S)
            view = await _json(session.get(f"/status/{view['id']}"))
        if view["status"] == "COMPLETED" and view.get("output"):
            text = "".join(token for piece in view["output"] for token in piece["choices"][0]["tokens"])
            self.wrong["text of a job"] += text != awaited
        elif not cancelled:
            self.wrong[f"job {view['status']}"] += 1


async def _json(asking: Any) -> Any:
    async with asking as answer:
        answer.raise_for_status()
        return await answer.json()


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.content:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


async def _first_events(answer: aiohttp.ClientResponse, count: int) -> None:
    async for _ in _events(answer):
        count -= 1
        if not count:
            answer.close()
            return


async def _text(answer: aiohttp.ClientResponse, streamed: bool) -> str:
    if not streamed:
        return str((await answer.json())["choices"][0]["message"]["content"])
    pieces = [event["choices"][0]["delta"].get("content") or "" async for event in _events(answer) if event["choices"]]
    return "".join(pieces)
