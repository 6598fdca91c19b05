"""Where the seconds of a boot went, measured from the start of the process.

Standard library only and little of it: what is measured must not wait for the measuring.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

Value = int | float | str
"""What a span may tell beside its times."""

LOADED = time.monotonic()
"""The first line of ours, or as near as makes no difference: whoever measures a boot imports this module first."""


class Span(NamedTuple):
    """One stage; seconds since the process started. Where start and end are the same it is a mark.

    Attributes:
        detail: what else is known: `bytes`, `gb_per_s`, `resident_fraction`, `lane`.
        thread: name of the thread that did it; spans of one thread lie within or beside each other.
    """

    name: str
    start_s: float
    end_s: float
    detail: Mapping[str, Value] = {}
    thread: str = ""

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON, to the microsecond."""
        times = {"start_s": round(self.start_s, 6), "end_s": round(self.end_s, 6)}
        detail = {key: round(value, 4) if isinstance(value, float) else value for key, value in self.detail.items()}
        return {"name": self.name, **times, "thread": self.thread, "detail": detail}


class Timeline:
    """Spans and marks, on the monotonic clock, from the kernel's own record of when this process started.

    Any thread may add to it, and read `spans`, at any time.

    Attributes:
        origin: the process's start on the monotonic clock; the kernel tells it to 10 ms.
        spans: in the order they ended.
    """

    def __init__(self) -> None:
        self.origin = process_start()
        self.spans: list[Span] = []  # Needs no lock: to append is one operation, and nothing is ever taken out.
        self.add("interpreter", 0.0, max(0.0, LOADED - self.origin))

    def now(self) -> float:
        """Seconds since the process started."""
        return time.monotonic() - self.origin

    @contextmanager
    def span(self, name: str, **detail: Value) -> Iterator[dict[str, Value]]:
        """Record the stage that runs inside; what it finds out goes into the dictionary it is given."""
        start = self.now()
        try:
            yield detail
        finally:
            self.add(name, start, self.now(), **detail)

    def add(self, name: str, start_s: float, end_s: float, **detail: Value) -> None:
        """Record a stage of this thread, in seconds since the process started."""
        self.spans.append(Span(name, start_s, end_s, detail, threading.current_thread().name))

    def mark(self, name: str, **detail: Value) -> float:
        """Record a moment, and give it."""
        moment = self.now()
        self.add(name, moment, moment, **detail)
        return moment

    def seconds(self, name: str) -> float:
        """Seconds of all spans of that name."""
        return sum(span.seconds for span in self.spans if span.name == name)

    def end(self, name: str) -> float | None:
        """When the last span of that name ended; None where there is none yet."""
        return max((span.end_s for span in self.spans if span.name == name), default=None)

    def line(self, most: int = 7) -> str:
        """The longest spans in the order they began, for a log."""
        longest = sorted(self.spans, key=lambda span: span.seconds)[-most:]
        return ", ".join(f"{span.name} {span.seconds:.2f}" for span in sorted(longest, key=lambda span: span.start_s))

    def as_dicts(self) -> list[dict[str, Any]]:
        """The spans, by when they began."""
        return [span.as_dict() for span in sorted(self.spans, key=lambda span: (span.start_s, -span.end_s))]


class AfterReady:
    """Adds what comes after a boot: the first prefill and its token, and the work put off until then. Each once.

    Called by whoever steps the engine, with times of the monotonic clock.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._has_token = False
        self._deferred_from: float | None = None
        self._deferred_s = 0.0

    def first_token(self, scheduled: float, arrived: float, prompt_tokens: int) -> None:
        """A request has its first token; only the first request counts."""
        if self._has_token:
            return
        self._has_token = True
        origin = self._timeline.origin
        self._timeline.add("first prefill", scheduled - origin, arrived - origin, tokens=prompt_tokens)
        self._timeline.add("first token", arrived - origin, arrived - origin)

    def deferred(self, started: float, ended: float, done: bool) -> None:
        """A piece of deferred work was done, the last one perhaps; requests may have run between the pieces."""
        self._deferred_from = started if self._deferred_from is None else self._deferred_from
        self._deferred_s += ended - started
        if done:
            origin = self._timeline.origin
            self._timeline.add("deferred", self._deferred_from - origin, ended - origin, busy_s=self._deferred_s)


def process_start() -> float:
    """When the kernel started this process, on the monotonic clock; where it does not say, now."""
    try:
        with open("/proc/self/stat") as file:  # noqa: PTH123 (pathlib takes longer to import than this module)
            after_name = file.read().rpartition(")")[2].split()
        started = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
        # One right after the other: what passes between them is an error.
        age, now = time.clock_gettime(time.CLOCK_BOOTTIME) - started, time.monotonic()
        return now - max(0.0, age)
    except (OSError, AttributeError, IndexError, ValueError):
        return time.monotonic()
