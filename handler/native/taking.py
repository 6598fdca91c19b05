"""Takes jobs off the queue: as many as there is room for, no more often than makes sense."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from engine.errors import PilotlightError
from handler.native.pacing import Pace
from handler.native.polling import Poll, Trouble
from handler.native.protocol import Addresses, Job, jobs_in

if TYPE_CHECKING:
    from handler.booting import Boot
    from handler.native.results import Outbox
    from handler.native.running import Running

MOST_AT_ONCE: Final = 8
"""In one answer: between two of them it shows how much the engine can still hold."""

MOST_WAITING: Final = 4
"""So many requests waiting in the engine are enough to fill it up again; more are better off with another worker."""

FULL: Final = 0.95
"""Share of the pages in use from which no job is taken: running requests grow into the rest."""

_LOOK_S: Final = 0.05
"""How often a full worker looks whether there is room."""

_log = logging.getLogger("pilotlight.worker")


class Room:
    """How many jobs more this worker should have.

    Results that are not delivered count as jobs: a worker that cannot get rid of them must not make ever more.

    Args:
        most: jobs in progress at once.
    """

    def __init__(self, boot: Boot, running: Running, outbox: Outbox, most: int) -> None:
        self._boot = boot
        self._running = running
        self._outbox = outbox
        self._most = most

    @property
    def is_busy(self) -> bool:
        """Whether there is any job."""
        return bool(self._running.jobs)

    def count(self) -> int:
        """As of now."""
        names = {*self._running.jobs, *self._outbox.jobs}
        if self.is_busy and not self._engine_has_room():
            return 0
        return max(0, min(self._most - len(names), MOST_AT_ONCE))

    async def wait(self) -> int:
        """The same, waiting until there is some."""
        while not (count := self.count()):
            self._running.ended.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._running.ended.wait()
        return count

    def _engine_has_room(self) -> bool:
        try:
            statistics = self._boot.engine.statistics()
        except PilotlightError:
            return False
        return statistics.waiting < MOST_WAITING and statistics.pages_used < FULL * statistics.pages


async def take_jobs(poll: Poll, addresses: Addresses, room: Room, start: Callable[[Job], bool]) -> None:
    """Take jobs and have each started, until the poll is left. Trouble is waited out.

    A job that was on its way when the poll was left is started too.

    Args:
        start: gives whether the job was a new one.
    """
    pace = Pace()
    while not poll.is_left:
        count = await room.wait()
        began = await pace.turn()
        try:
            answer = await poll.ask(addresses.take(count, room.is_busy))
            jobs = jobs_in(answer) if answer is not None else []
        except (Trouble, ValueError) as error:
            _complain(poll, error)
            pace.failed(began, getattr(error, "wait_s", 0.0))
            continue
        new = [start(job) for job in jobs]
        if any(new):
            pace.gained()
        else:
            pace.empty(began)


def _complain(poll: Poll, error: Exception) -> None:
    if not poll.is_left:
        _log.warning("no job could be taken: %s", error)
