"""Epochs of a worker's life: the first from the process's start, another one each time it is restored from a freeze.

So it is where its books were taken away."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

StartKind = Literal["fresh", "restored", "warm"]
"""What a request found: a worker that had just booted, one just back from a freeze, or one already at work."""


_log = logging.getLogger("pilotlight.epochs")


class Moment(NamedTuple):
    """One instant, in seconds on both clocks: `wall_s` since 1970, `monotonic_s` as `time.monotonic` gives it."""

    wall_s: float
    monotonic_s: float

    @classmethod
    def now(cls) -> Moment:
        return cls(time.time(), time.monotonic())

    def earlier(self, seconds: float) -> Moment:
        """The instant so many seconds before."""
        return Moment(self.wall_s - seconds, self.monotonic_s - seconds)

    def later(self, seconds: float) -> Moment:
        """The instant so many seconds after."""
        return self.earlier(-seconds)


@dataclass(frozen=True, slots=True)
class Epoch:
    """A stretch of a worker's life in which it was never frozen.

    Attributes:
        number: from 0, within one process or what is restored of it.
        start_kind: what its first request finds, `fresh` or `restored`.
        began: the process's start, when the restore was noticed, or where the books were divided.
        left: when the epoch before was last seen running, up to a second before the freeze; None for the first. The
            two clocks may have been set anew between `left` and `began`.
    """

    number: int
    start_kind: StartKind
    began: Moment
    left: Moment | None = None


class Epochs:
    """The epoch the process is in, and who is told of the next. Any thread may call.

    Args:
        began: the process's start.
    """

    def __init__(self, began: Moment) -> None:
        self._lock = threading.Lock()
        self._current = Epoch(0, "fresh", began)
        self._start_kind: StartKind = "fresh"
        self._listeners: list[Callable[[Epoch], None]] = []

    @property
    def current(self) -> Epoch:
        return self._current

    @property
    def start_kind(self) -> StartKind:
        """What the next request finds."""
        return self._start_kind

    def take_start_kind(self) -> StartKind:
        """What a request that begins now finds; those after it find the worker warm."""
        with self._lock:
            kind, self._start_kind = self._start_kind, "warm"
        return kind

    def on_begin(self, listener: Callable[[Epoch], None]) -> None:
        """Have `listener` called with each later epoch, on the thread that noticed it, before any of its requests."""
        self._listeners.append(listener)

    def begin(self, left: Moment, now: Moment) -> Epoch:
        """Enter the next epoch, after a restore."""
        with self._lock:
            epoch = self._current = Epoch(self._current.number + 1, "restored", now, left)
            self._start_kind = "restored"
        for listener in tuple(self._listeners):
            try:
                listener(epoch)
            except Exception:  # The others are to be told all the same, and the process is to be watched on.
                _log.exception("not all is renewed after the restore")
        return epoch

    def divide(self, epoch: Epoch, at: Moment) -> Epoch | None:
        """From `at` on the epoch has another number, though nothing was frozen. Nobody is told but the caller.

        For the books, where what they wrote of it was taken away: whoever did may have closed it. None where another
        epoch has begun, which its listeners may not know yet.
        """
        with self._lock:
            if self._current is not epoch:
                return None
            self._current = replace(self._current, number=self._current.number + 1, began=at, left=at)
            return self._current
