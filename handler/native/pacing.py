"""When the next request may begin: at once while all is well, ever more seldom while it is not."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import Final

FLOOR_S: Final = 1.0
"""From the start of an empty poll to that of the next, and the first pause after a failure."""

LONGEST_S: Final = 30.0

_JITTER: Final = 0.5
"""A pause is longer by up to this share of it: workers that failed together shall not come back together."""


class Pace:
    """Spaces requests of one kind, from start to start.

    Several may wait for their turn at once. While the last request failed they get it one by one.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._counted = 0.0
        self._next = 0.0
        self._order = asyncio.Lock()
        self._hurried = asyncio.Event()

    @property
    def is_clear(self) -> bool:
        """Whether a request may begin at once."""
        return not self._failures and time.monotonic() >= self._next

    async def turn(self) -> float:
        """Wait until a request may begin, and give the moment, in monotonic seconds."""
        if not self.is_clear:
            async with self._order:
                await self._wait()
                if self._failures:
                    self._next = time.monotonic() + self._pause()
        return time.monotonic()

    def gained(self) -> None:
        """A request brought something: the next may follow at once."""
        self._failures, self._next = 0, 0.0
        self._hurried.set()

    def empty(self, began: float) -> None:
        """A request that began then brought nothing."""
        self._failures, self._next = 0, began + FLOOR_S

    def failed(self, began: float, wait_s: float = 0.0) -> None:
        """A request that began then failed. Of several under way at once, only the first failure counts.

        Args:
            wait_s: what the other side wants to be left alone for.
        """
        now = time.monotonic()
        if began >= self._counted:
            self._failures += 1
            self._counted = now
            self._next = began + self._pause()
        self._next = max(self._next, now + wait_s)

    def hurry(self) -> None:
        """Let the one that waits begin now."""
        self._hurried.set()

    async def _wait(self) -> None:
        self._hurried.clear()
        while (left := self._next - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._hurried.wait()
                return

    def _pause(self) -> float:
        """1 s after the first failure, twice as long after each further one."""
        pause = min(LONGEST_S, FLOOR_S * 2 ** min(self._failures - 1, 10))
        return pause * (1 + _JITTER * random.random())
