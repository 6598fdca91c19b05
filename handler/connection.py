"""uvicorn's connection with bounds on patience: for heads that do not end, and for clients that do not read."""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any, Final

from uvicorn.protocols.http.auto import AutoHTTPProtocol

UNREAD: Final = "unread_bytes"
"""Where a stream's answer says, in its scope's state, how much of it waits beside what the connection holds."""

_LOOK_S: Final = 1.0
_PROGRESS_BYTES: Final = 16_384
"""Reading less than this in all one's time is not reading."""

_Protocol: Any = object
"""What comes after `Connection` in a class that is made of both."""

_TIMED_OUT: Final = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

_log = logging.getLogger("pilotlight.connection")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a connection puts up with.

    Attributes:
        receive_s: seconds for a request's head to come.
        unread_s: seconds in which a client must have read something.
        unread_bytes: of a stream, that may wait for the client.
        body_bytes: that a body may hold.
        head_bytes: that a request's head may hold. Parsers differ: h11 stops by itself at what it is told, httptools
            at nothing.
    """

    receive_s: float
    unread_s: float
    unread_bytes: int
    body_bytes: int
    head_bytes: int = 65_536


def connections(
    bounds: Bounds, on_slow_reader: Callable[[], None], protocol: type[asyncio.Protocol] = AutoHTTPProtocol
) -> type[asyncio.Protocol]:
    """The class of connections with these bounds, for `uvicorn.Config(http=...)`.

    Args:
        on_slow_reader: called when a client is cut that does not read.
        protocol: which of uvicorn's it is otherwise.
    """

    class BoundedConnection(Connection, protocol):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.bounds = bounds
            self.on_slow_reader = on_slow_reader

    return BoundedConnection


def unread_bytes(transport: asyncio.WriteTransport) -> int:
    """What was written and the client's machine has not taken yet, be it here or in the kernel.

    The kernel holds megabytes, and takes more only once a third of them is gone (Linux, `sk_stream_is_writeable`): by
    what is here alone, a client that reads slowly and steadily stands still for minutes.
    """
    kept = array("i", [0])
    with suppress(OSError, ValueError):  # It is closed.
        ioctl(transport.get_extra_info("socket").fileno(), TIOCOUTQ, kept)
    return transport.get_write_buffer_size() + kept[0]


class Connection(_Protocol):  # type: ignore[misc]
    """One client's connection: what is added to one of uvicorn's.

    A client that does not read holds up nobody: its sends wait in its own task, its answer in its own queue. What
    waits is bounded by cutting it, which ends its request like any client's leaving.
    """

    bounds: Bounds
    on_slow_reader: Callable[[], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """From here on a head is awaited."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take in bytes, and see whether they complete a head."""
        super().data_received(data)
        if self._answering:
            self._head_arrived()
            return
        self._await_head()
        self._head_bytes += len(data)
        if self._head_bytes > self._most_bytes and not self.transport.is_closing():
            _log.warning("closed a connection: %d bytes, and no request's head is complete", self._head_bytes)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._head_arrived()
        self._stop_looking()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads more slowly than is written for it."""
        super().pause_writing()
        self._look(unread_bytes(self.transport), self.loop.time())

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._stop_looking()
        super().resume_writing()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _most_bytes(self) -> int:
        """The rest of a body that was answered before it was read is passed over."""
        unread_body = self.cycle is not None and self.cycle.more_body
        return self.bounds.head_bytes + unread_body * self.bounds.body_bytes

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.bounds.receive_s, self._give_up)

    def _head_arrived(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        if self.transport.is_closing():
            return
        if self._head_bytes:
            self.transport.write(_TIMED_OUT)
        self.transport.close()

    def _look(self, size: int, since: float) -> None:
        """Cut the client when too much comes for it, or when too little has gone of the `size` bytes of `since`.

        An answer that is sent whole may be of any size; it is all there, and so does not grow.
        """
        now, left = self.loop.time(), unread_bytes(self.transport)
        if left <= size - _PROGRESS_BYTES:
            size, since = left, now
        if self._unread_of_stream() > self.bounds.unread_bytes:
            self._cut("too much waits for it")
        elif now - since >= self.bounds.unread_s:
            self._cut(f"it read next to nothing in {self.bounds.unread_s:g} s")
        else:
            delay = min(_LOOK_S, self.bounds.unread_s)
            self._read_timer = self.loop.call_later(delay, self._look, size, since)

    def _unread_of_stream(self) -> int:
        unread = self.cycle.scope["state"].get(UNREAD) if self._answering else None
        return 0 if unread is None else int(unread())

    def _cut(self, why: str) -> None:
        self._stop_looking()
        _log.warning("cut a client that does not read its answer: %s", why)
        self.on_slow_reader()
        self.transport.abort()

    def _stop_looking(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None
