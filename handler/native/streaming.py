"""Pieces of a job's result on their way to whoever reads its stream."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any, Final

from handler.native.pacing import Pace
from handler.native.posting import Post, Reply
from handler.native.protocol import Addresses, encode

MOST_BYTES: Final = 1_000_000
"""RunPod's bound on a piece."""

PATIENCE_S: Final = 15.0
"""After so long without success a job's stream is given up; its result holds all of it anyway."""

_log = logging.getLogger("pilotlight.worker")


class Streams:
    """Posts pieces of all jobs; while the last post has failed, one at a time."""

    def __init__(self, post: Post, addresses: Addresses) -> None:
        self._post = post
        self._addresses = addresses
        self._pace = Pace()

    def open(self, job: str) -> Stream:
        """The stream of one job."""
        return Stream(self, job)

    async def send(self, job: str, body: bytes) -> Reply:
        """Post one piece, again and again until it is settled; for ever, if nobody loses patience."""
        url = self._addresses.stream(job)
        if url is None:
            return Reply("refused", "RUNPOD_WEBHOOK_POST_STREAM is not set")
        while True:
            began = await self._pace.turn()
            reply = await self._post.send(url, job, body)
            if reply.verdict != "later":
                self._pace.gained()
                return reply
            self._pace.failed(began, reply.wait_s)


class Stream:
    """One job's pieces, in order and one at a time.

    The engine never waits for it: what it makes while a piece is on its way is gathered (`handler.batching`) and is the
    next piece. A piece that is lost ends the stream: text with a hole would be worse than text that stops.
    """

    def __init__(self, streams: Streams, job: str) -> None:
        self._streams = streams
        self._job = job
        self._given_up = False

    async def send(self, output: Any) -> None:
        """Post one output; returns when it is accepted, or the stream is given up."""
        for body in _bodies(output):
            if self._given_up:
                return
            await self._send(body)

    async def _send(self, body: bytes) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                reply = await self._streams.send(self._job, body)
        except TimeoutError:
            reply = Reply("later", f"nothing was accepted for {time.monotonic() - began:.0f} s")
        if reply.verdict != "accepted":
            self._given_up = True
            _log.warning("the stream of %s is given up, its result will hold all: %s", self._job, reply.said)


def _bodies(output: Any) -> Iterator[bytes]:
    """The output as bodies within the bound, if it is text; what is no text cannot be divided."""
    body = encode({"output": output})
    if len(body) <= MOST_BYTES or not isinstance(output, str):
        yield body
    else:
        half = len(output) // 2
        yield from _bodies(output[:half])
        yield from _bodies(output[half:])
