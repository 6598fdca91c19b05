"""One worker as the control plane sees it."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from handler.local.runtime import Handle
from handler.local.scaler import Readiness

_READY: Final = re.compile(r"ready after \d+\.\d+ s: (.+)")
"""What a worker of ours logs at the end of its boot (handler/booting.py)."""

_LOG_TAIL: Final = 64 * 1024
"""Bytes of a log's end that are looked through."""


class WorkerState(StrEnum):
    """RunPod's states of a worker, and two that it does not show.

    INITIALIZING: it boots. IDLE: it is up and waits for work. RUNNING: it has a job. THROTTLED: it could not be
    started. UNHEALTHY: it has said that it is unfit, or has died before it was ready. FROZEN: stopped in the middle
    of its life, to be thawed. STOPPING: it gets no more work.
    """

    INITIALIZING = "INITIALIZING"
    IDLE = "IDLE"
    RUNNING = "RUNNING"
    THROTTLED = "THROTTLED"
    UNHEALTHY = "UNHEALTHY"
    FROZEN = "FROZEN"
    STOPPING = "STOPPING"


READINESS: Final[dict[WorkerState, Readiness]] = {
    WorkerState.INITIALIZING: "starting", WorkerState.IDLE: "idle", WorkerState.RUNNING: "busy",
}
"""The states in which a worker counts for the scaler, and as what."""


@dataclass(slots=True, eq=False)
class Worker:
    """A worker's life so far. Moments are monotonic seconds.

    Attributes:
        key: what it shows with each call; its own, so that no other worker can speak for it.
        log: what it has written.
        port: where it listens; None where it takes jobs.
        since: when it entered its state.
        ready_s: how long its boot took, from the decision to start it; None while it boots.
        last_ping: None before the first.
        why: what is to be said of its end; set by whoever ends it.
        is_leaving: whether it has been told to end.
        launched: set once it has been started, or could not be.
        over: set once it has ended.
        turn: held while it is being frozen or thawed: a container takes a moment for either.
    """

    id: str
    log: Path
    port: int | None = None
    key: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    started: float = field(default_factory=time.monotonic)
    started_wall: float = field(default_factory=time.time)
    state: WorkerState = WorkerState.INITIALIZING
    since: float = field(default_factory=time.monotonic)
    ready_s: float | None = None
    last_ping: float | None = None
    handle: Handle | None = None
    why: str | None = None
    is_leaving: bool = False
    launched: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def enter(self, state: WorkerState) -> None:
        """Be in this state from now on, or still."""
        if state is not self.state:
            self.state, self.since = state, time.monotonic()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def timeline(self) -> str | None:
        """Where the seconds of its boot went, as it has logged it; None where it has not."""
        found = _READY.findall(self.tail())
        return found[-1] if found else None

    def last_words(self) -> str:
        """The last line that it has written."""
        lines = [line.strip() for line in self.tail().splitlines() if line.strip()]
        return lines[-1][:300] if lines else "it wrote nothing"

    def tail(self) -> str:
        """The end of what it has written."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - _LOG_TAIL))
                return file.read().decode(errors="replace")
        except OSError:
            return ""
