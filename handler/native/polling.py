"""A long poll that loses no answer: not when it is given up, and not when the process was frozen meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Mapping
from typing import Any, Final

import aiohttp

from engine.errors import PilotlightError

POLL_S: Final = 90.0
"""How long a poll may stay open: the SDK's bound."""

LAST_ANSWER_S: Final = 2.0
"""How long an answer may take that was on its way when we hung up."""

CONNECT_S: Final = 10.0
_TOO_MANY_S: Final = 5.0
"""The least pause after a 429: the SDK's."""


class Trouble(PilotlightError):
    """The control plane did not answer as it should; `wait_s` is how long it wants to be left alone."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Poll:
    """Asks one question again and again, over a connection of its own.

    To give up an open poll, only our half of its connection is closed. The other side sees that nobody waits any more,
    and what it had sent before still comes in: whoever takes a job out of a queue and writes it to us has either
    written it, and we have it, or finds us gone.

    One question is put once: aiohttp would repeat a GET whose connection breaks, out of sight of any pause, and after
    we hung up.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._sockets: list[socket.socket] = []
        self._leaving = asyncio.Event()
        self._asking = False
        self._may_connect = True
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_start.append(self._check_connects_once)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, socket_factory=self._open), headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S), trace_configs=[trace],
        )

    @property
    def is_left(self) -> bool:
        """Whether it is over."""
        return self._leaving.is_set()

    @property
    def is_open(self) -> bool:
        """Whether an answer may come in."""
        return self._asking

    async def ask(self, url: str) -> Any:
        """What is answered, decoded from JSON; None when there is nothing.

        Raises:
            Trouble: the answer cannot be used, or none came.
        """
        asking = asyncio.create_task(self._get(url))
        leaving = asyncio.create_task(self._leaving.wait())
        self._asking = self._may_connect = True
        try:
            await asyncio.wait({asking, leaving}, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                self._hang_up()
                await asyncio.wait({asking}, timeout=LAST_ANSWER_S)
            if not asking.done():
                raise Trouble(f"no answer within {POLL_S:.0f} s")
            return asking.result()
        finally:
            self._asking = False
            asking.cancel()
            leaving.cancel()

    def leave(self) -> None:
        """Give up the open poll: `ask` gives what was on its way, or raises `Trouble`."""
        self._leaving.set()

    async def close(self) -> None:
        """Close the connection."""
        await self._session.close()

    async def _get(self, url: str) -> Any:
        try:
            async with self._session.get(url) as answer:
                return _read(answer.status, answer.headers, await answer.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Trouble(describe(error)) from error

    def _open(self, address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, _ = address
        opened = socket.socket(family, kind, protocol)
        opened.setblocking(False)
        self._sockets = [*(one for one in self._sockets if one.fileno() != -1), opened]
        return opened

    async def _check_connects_once(self, *_: object) -> None:
        if not self._may_connect:
            raise ConnectionAbortedError("the connection was cut")
        self._may_connect = False

    def _hang_up(self) -> None:
        self._may_connect = False
        for opened in self._sockets:
            with contextlib.suppress(OSError):  # Never connected, or closed by the other side.
                opened.shutdown(socket.SHUT_WR)


def _read(status: int, headers: Mapping[str, str], body: bytes) -> Any:
    """400 is what a worker gets that was just restored (seen in the SDK's loop), and means that there is nothing."""
    if status in (204, 400) or (status == 200 and not body.strip()):
        return None
    if status != 200:
        raise Trouble(f"the answer was {status}", pause_asked(status, headers))
    try:
        return json.loads(body)
    except ValueError:
        raise Trouble("the answer was not JSON") from None


def pause_asked(status: int, headers: Mapping[str, str]) -> float:
    """Seconds for which an answer of this status wants to be left alone; 0 where it does not say."""
    try:
        named = float(headers.get("Retry-After", 0))
    except ValueError:  # A date: nobody here sends one.
        named = 0.0
    return max(named, _TOO_MANY_S) if status == 429 else named


def describe(error: BaseException) -> str:
    """One line; some errors have no text of their own."""
    return str(error) or type(error).__name__
