"""A bucket that fills evenly and is taken from in lumps: so much a minute, and so much at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

MINUTE_S: Final = 60.0
MOST_PER_MINUTE: Final = 10**12
"""More limits nothing, and is not counted exactly in floats for ever."""


class TokenBucket:
    """Holds a minute's worth at most, and begins full.

    What `take` gives in any stretch of time is never more than a minute's worth and what flows in meanwhile.

    Args:
        per_minute: how much flows in, evenly; above 0.
        clock: monotonic seconds.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._held = per_minute
        self._as_of = clock()

    @property
    def level(self) -> float:
        """What it holds now; below 0 while more was used than was there."""
        now = self._clock()
        self._held = min(self.per_minute, self._held + (now - self._as_of) * self.per_minute / MINUTE_S)
        self._as_of = now
        return self._held

    def take(self, amount: float) -> bool:
        """Take it if it is there; else nothing."""
        if self.level < amount:
            return False
        self._held -= amount
        return True

    def settle(self, amount: float) -> None:
        """Correct an earlier take: above 0 gives back, below 0 takes more, whether it is there or not."""
        self._held = min(self.per_minute, self.level + amount)

    def seconds_until(self, amount: float) -> float:
        """How long until so much can be taken; infinity when it is more than the bucket can hold."""
        if amount > self.per_minute:
            return math.inf
        return max(0.0, amount - self.level) * MINUTE_S / self.per_minute

    def resize(self, per_minute: float) -> None:
        """Another rate from now on; what was used stays used."""
        self._held = self.level + per_minute - self.per_minute
        self.per_minute = per_minute
