"""Where the seconds of a boot went, measured from the start of the process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Span:
    """One stage; seconds since the process started."""

    name: str
    start_s: float
    end_s: float


class Timeline:
    """Spans and marks, on the monotonic clock, from the kernel's own record of when this process started."""

    def __init__(self) -> None:
        self._origin = time.monotonic() - process_age()
        self.spans: list[Span] = []

    def now(self) -> float:
        """Seconds since the process started."""
        return time.monotonic() - self._origin

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Record the stage that runs inside."""
        start = self.now()
        try:
            yield
        finally:
            self.spans.append(Span(name, start, self.now()))

    def seconds(self, name: str) -> float:
        """Seconds of all spans of that name."""
        return sum(span.end_s - span.start_s for span in self.spans if span.name == name)


def process_age() -> float:
    """Seconds since the kernel started this process; 0 where it does not say."""
    try:
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, AttributeError, IndexError, ValueError):
        return 0.0
