"""How workers came up."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from handler.local.worker import Worker

KEPT: Final = 100
"""So many of the latest."""

_LOOK_S, _LOOKS = 0.3, 10
"""After a worker's first poll its log soon has the line about its boot; on a busy machine not at once."""

_log = logging.getLogger("pilotlight.local")


@dataclass(frozen=True, slots=True)
class ColdStart:
    """How a worker came up.

    Attributes:
        seconds: from the decision to start, or to thaw it, until it asked for jobs.
        timeline: where they went, in the worker's own words.
    """

    worker: str
    seconds: float
    timeline: str


class ColdStarts:
    """The latest of them, the oldest first."""

    def __init__(self) -> None:
        self._latest: deque[ColdStart] = deque(maxlen=KEPT)

    def __iter__(self) -> Iterator[ColdStart]:
        return iter(tuple(self._latest))

    async def note_boot(self, worker: Worker) -> None:
        """Add a worker that has just asked for its first job."""
        timeline = None
        for _ in range(_LOOKS):
            await asyncio.sleep(_LOOK_S)
            if (timeline := worker.timeline()) is not None:
                break
        self.note(worker, timeline or "it has logged no timeline")

    def note(self, worker: Worker, timeline: str) -> None:
        """Add a worker that is ready."""
        assert worker.ready_s is not None
        self._latest.append(ColdStart(worker.id, worker.ready_s, timeline))
        _log.info("worker %s is ready after %.2f s: %s", worker.id, worker.ready_s, timeline)
