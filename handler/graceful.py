"""uvicorn, ending well: requests under way get a grace, and those it cuts short get an error that says so."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

import uvicorn

from handler.connection import Bounds, connections

_ANSWER_S: Final = 5
"""After the grace: how long the last errors may take to be sent."""


class GracefulServer(uvicorn.Server):
    """A server that `cut` brings to its end when the grace is over, or at a second signal.

    Args:
        grace: seconds that running requests get to finish.
        keep_alive: seconds that an idle connection stays open; a freeze uses them up.
        bounds: what a connection puts up with.
        on_exit: called when the end begins.
        cut: ends every request with an error.
        on_slow_reader: called when a client is cut that does not read.
    """

    def __init__(
        self, app: Callable[..., object], backlog: int, grace: int, keep_alive: int, bounds: Bounds,
        on_exit: Callable[[], None], cut: Callable[[], None], on_slow_reader: Callable[[], None],
    ) -> None:
        super().__init__(uvicorn.Config(
            app, log_config=None, backlog=backlog, timeout_graceful_shutdown=grace + _ANSWER_S,
            timeout_keep_alive=keep_alive, http=connections(bounds, on_slow_reader),
        ))
        self._grace = grace
        self._on_exit = on_exit
        self._cut = cut

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End; at once the second time."""
        if self.should_exit:
            self._cut()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening and let requests finish while the grace lasts."""
        self._on_exit()
        end_of_grace = asyncio.get_running_loop().call_later(self._grace, self._cut)
        # A chat template that never ends holds a thread that the interpreter would wait for.
        last_resort = threading.Timer(self._grace + 2 * _ANSWER_S, os._exit, (1,))
        last_resort.daemon = True
        last_resort.start()
        try:
            await super().shutdown(sockets)
        finally:
            end_of_grace.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do not raise the signal anew at the end: uvicorn's own does, and so dies of it."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()
