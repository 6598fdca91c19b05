"""Carries out what the scaler decides, whenever something has changed or time has passed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

from handler.local.contracts import Queue
from handler.local.scaler import Demand, Plan, Scaling, Situation, decide
from handler.local.workers import Workers

LOOK_S: Final = 1.0
"""The longest pause between two looks: pings that do not come must be noticed, too."""

_SHORTEST_S: Final = 0.01
"""The shortest, where a moment is due that clocks have not quite reached."""


class Autoscaler:
    """Keeps as many workers as the queue calls for.

    Attributes:
        scaling: what the user chose, as it is now.
    """

    def __init__(self, queue: Queue, workers: Workers, scaling: Scaling) -> None:
        self._queue = queue
        self._workers = workers
        self._last_start: float | None = None
        self.scaling = scaling

    def choose(self, scaling: Scaling) -> None:
        """Keep to this from now on."""
        self.scaling = scaling
        self._queue.changed.set()

    async def run(self) -> None:
        """Scale for ever."""
        while True:
            self._queue.changed.clear()
            pause = self._step(time.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._queue.changed.wait()

    def demand(self, now: float) -> Demand:
        """What the queue calls for."""
        counts = self._queue.counts()
        calling = counts.in_queue - counts.low_priority
        return Demand(calling, counts.in_progress, now - self._queue.oldest_wait_s() if calling else None)

    def _step(self, now: float) -> float:
        """Decide and act; gives the seconds until there is to be decided again."""
        workers = self._workers
        workers.look_after(self.scaling.workers_max)
        plan = decide(
            Situation(
                self.scaling, self.demand(now), workers.seen(), self._last_start, workers.back_off.not_before,
                workers.stopping,
            ),
            now,
        )
        self._carry_out(plan, now)
        return LOOK_S if plan.look_again is None else min(LOOK_S, max(_SHORTEST_S, plan.look_again - now))

    def _carry_out(self, plan: Plan, now: float) -> None:
        for worker_id in plan.stop:
            self._workers.remove(worker_id)
        for _ in range(plan.start):
            self._workers.add()
            self._last_start = now
