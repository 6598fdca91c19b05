"""Patience with workers that die before they are ready."""

from __future__ import annotations

from typing import Final

LONGEST_S: Final = 60.0
"""Between two tries, however many have failed."""


class BackOff:
    """Doubles the pause before the next start with each worker that fails in a row.

    Attributes:
        failures: how many have failed since the last one that came up.
        not_before: when the next may be started, in monotonic seconds.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.not_before = 0.0

    def failed(self, now: float) -> float:
        """One more has failed; gives the pause in seconds. Those that were started together count once."""
        if now >= self.not_before:
            self.failures += 1
            self.not_before = now + min(LONGEST_S, 2.0 ** (self.failures - 1))
        return self.not_before - now

    def succeeded(self) -> None:
        """One has come up."""
        self.failures, self.not_before = 0, 0.0
