"""How long what waits will take, from how quickly waiting work was taken up of late."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

SHORTEST_S: Final = 1
"""The header this ends in, `Retry-After`, has whole seconds."""
LONGEST_S: Final = 60
"""Clients that heed `Retry-After` at all, OpenAI's among them, stop heeding it above a minute."""
UNKNOWN_S: Final = 5
"""Before anything that waited has ended there is nothing to tell by: long enough for a few answers to end."""

_MEMORY_S: Final = 30.0
"""What was seen this long ago counts 1/e as much as what is seen now."""


class Backlog:
    """The rate at which a queue is worked off, measured over the time in which something waits.

    Work is in any one unit: requests, or tokens. Time in which nothing waits says nothing about the rate, so it is left
    out, and an idle hour does not make a server look slow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._done = 0.0
        self._busy_s = 0.0
        self._seen: float | None = None

    def note(self, done: float, waiting: bool) -> None:
        """Work has ended.

        Args:
            done: how much.
            waiting: whether more waits.
        """
        now = self._clock()
        if self._seen is not None:
            gap = now - self._seen
            fading = math.exp(-gap / _MEMORY_S)
            self._done, self._busy_s = self._done * fading + done, self._busy_s * fading + gap
        self._seen = now if waiting else None

    def seconds(self, work: float) -> int:
        """Whole seconds until this much is worked off, from `SHORTEST_S` to `LONGEST_S`."""
        since = 0.0 if self._seen is None else self._clock() - self._seen
        busy_s = self._busy_s + since
        if not self._done:
            return min(LONGEST_S, max(UNKNOWN_S, math.ceil(busy_s)))
        return min(LONGEST_S, max(SHORTEST_S, math.ceil(work * busy_s / self._done)))
