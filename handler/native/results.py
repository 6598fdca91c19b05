"""Results on their way: each is kept until the control plane has accepted it, or says that the job is gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Final

from handler.native.pacing import Pace
from handler.native.posting import Post, Reply
from handler.native.protocol import Addresses, encode
from handler.native.shelf import Result, Shelf
from handler.openai.errors import ApiError

MOST_BYTES: Final = 20_000_000
"""RunPod's bound on a result."""

_log = logging.getLogger("pilotlight.worker")


class Outbox:
    """Delivers results. The first attempt is made at once, unless the last one of any result has failed.

    Those that fail are taken round, one attempt at a time: 1 s after the first failure, then ever more seldom, but for
    ever. The first success frees all.
    """

    def __init__(self, post: Post, addresses: Addresses, shelf: Shelf) -> None:
        self._post = post
        self._addresses = addresses
        self._shelf = shelf
        self._pace = Pace()
        self._waiting: dict[str, Result] = {}
        self._under_way: set[str] = set()
        self._idle = asyncio.Event()
        self._left_over = asyncio.Event()
        self._idle.set()

    @property
    def jobs(self) -> Sequence[str]:
        """Whose results are not delivered. Any thread may ask."""
        return list(self._waiting)

    async def put(self, job: str, body: bytes) -> None:
        """Take in a result; returns once it is kept and the first attempt, if one is made now, is over."""
        result = Result(job, body)
        self._add(result)
        with self._handling(job):
            await asyncio.to_thread(self._shelf.keep, result)
            if self._pace.is_clear:
                await self._try(job)

    async def resume(self) -> None:
        """Take in what an earlier process of this worker has left. Call it before anything is put."""
        found = await asyncio.to_thread(self._shelf.load)
        for result in found:
            self._add(result)
        if found:
            _log.info("%d results of this worker's earlier life are to be delivered", len(found))
        self._note_left_over()

    async def run(self) -> None:
        """Take what is left over round; ends only when it is cancelled."""
        while True:
            await self._left_over.wait()
            await self._pace.turn()
            if (job := self._next()) is None:
                self._left_over.clear()
                continue
            with self._handling(job):
                await self._try(job)

    async def emptied(self, within_s: float) -> bool:
        """Whether all is delivered in so many seconds; one more attempt is made at once."""
        self._pace.hurry()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        return self._idle.is_set()

    def _add(self, result: Result) -> None:
        self._waiting[result.job] = result
        self._idle.clear()

    def _next(self) -> str | None:
        return next((job for job in self._waiting if job not in self._under_way), None)

    @contextlib.contextmanager
    def _handling(self, job: str) -> Iterator[None]:
        """Meanwhile nobody else sends it."""
        self._under_way.add(job)
        try:
            yield
        finally:
            self._under_way.discard(job)
            self._note_left_over()

    def _note_left_over(self) -> None:
        if self._next() is None:
            self._left_over.clear()
        else:
            self._left_over.set()

    async def _try(self, job: str) -> None:
        began = time.monotonic()
        result = self._waiting[job]
        reply = await self._post.send(self._addresses.done(job), job, result.body)
        await self._settle(result, reply, began)

    async def _settle(self, result: Result, reply: Reply, began: float) -> None:
        match reply.verdict:
            case "later":
                _log.warning("the result of %s is not delivered yet: %s", result.job, reply.said)
                self._pace.failed(began, reply.wait_s)
                self._waiting[result.job] = self._waiting.pop(result.job)  # The next attempt is another one's.
                return
            case "refused" if (replacement := _explained(result, reply)) is not None:
                _log.error("the result of %s was refused: %s", result.job, reply.said)
                self._waiting[result.job] = replacement
            case "accepted":
                await self._forget(result.job)
            case _:
                _log.error("the result of %s was not wanted: %s", result.job, reply.said)
                await self._forget(result.job)
        self._pace.gained()

    async def _forget(self, job: str) -> None:
        self._waiting.pop(job, None)
        if not self._waiting:
            self._idle.set()
        await asyncio.to_thread(self._shelf.drop, job)


def _explained(result: Result, reply: Reply) -> Result | None:
    """What the caller is told instead of a result that was refused; None when that is what was refused."""
    if result.explains:
        return None
    size = len(result.body)
    bound = f", over RunPod's bound of {MOST_BYTES}" if size > MOST_BYTES else ""
    message = f"the result, {size} bytes{bound}, was refused: {reply.said}"
    error = ApiError(500, message, "server_error", code="result_refused")
    return Result(result.job, encode({"error": error.text()}), explains=True)
