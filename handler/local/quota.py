"""How often the management API may be called, and the header lines that say so."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(slots=True)
class Window:
    """So many calls in each `seconds`, counted from the first of them."""

    name: str
    calls: int
    seconds: int
    began: float = -math.inf
    used: int = 0

    def left(self, now: float) -> int:
        """Calls that may still be made."""
        if now - self.began >= self.seconds:
            self.began, self.used = now, 0
        return self.calls - self.used

    def reset_s(self, now: float) -> int:
        """Seconds until it begins anew."""
        return max(0, math.ceil(self.began + self.seconds - now))


WINDOWS: Final = (("minute", 60, 60), ("hour", 3000, 3600), ("day", 50_000, 86_400))
"""The figures that the schema of RunPod's API 2.0.0 has as its example."""


class Quota:
    """The three windows of one endpoint; all its callers share them, as those with one key do at RunPod."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows = [Window(*figures) for figures in WINDOWS]

    def admit(self) -> bool:
        """Count a call; False if it is one too many, which then does not count."""
        now = self._clock()
        if any(window.left(now) <= 0 for window in self._windows):
            return False
        for window in self._windows:
            window.used += 1
        return True

    def headers(self) -> dict[str, str]:
        """The lines of every answer, and when to come again where nothing is left."""
        now = self._clock()
        states = [(window.name, max(0, window.left(now)), window.reset_s(now)) for window in self._windows]
        waits = [reset for _, left, reset in states if left == 0]
        return {
            "RateLimit": ", ".join(f'"{name}";r={left};t={reset}' for name, left, reset in states),
            "RateLimit-Policy": ", ".join(f'"{name}";q={calls};w={seconds}' for name, calls, seconds in WINDOWS),
        } | ({"Retry-After": str(max(waits))} if waits else {})
