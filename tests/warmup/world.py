"""An endpoint second by second, and what of its cost is the warmer's doing: what the budget is held against."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from warmup.endpoint_api import ApiDown, ApiSlow, Change, Health, Scaling

BEGAN = 1_795_219_200 + 86_400 - 300
"""Five minutes before a midnight in UTC."""


class Killed(BaseException):
    """The warmer's process is gone, at once."""


@dataclass
class Job:
    is_users: bool


@dataclass
class Instance:
    """A worker: it boots, works and waits."""

    ready_at: float
    job: Job | None = None
    busy_until: float = 0.0
    ended: float = 0.0
    users_ended: float = float("-inf")


@dataclass
class World:
    """Implements `Endpoint`. Times are whole seconds since 1970.

    Attributes:
        spent: dollars by day for seconds in which a worker is up and neither works for users, nor boots for them, nor
            is within the idle time that its user chose.
        down: whether the API is; `deaf` whether it does what it is asked, and its answer is lost.
        kill_in: after how many more calls and writes the warmer dies; None: it does not.
    """

    price: float = 0.001
    own_idle: int = 5
    most: int = 2
    boot_s: float = 12.0
    now: float = BEGAN
    spent: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    down: bool = False
    deaf: bool = False
    kill_in: int | None = None
    pings: list[float] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    queue: list[Job] = field(default_factory=list)
    workers: list[Instance] = field(default_factory=list)
    done: int = 0
    least: int = 0
    idle: int = 5

    # What the warmer does.

    def scaling(self) -> Scaling:
        self._called()
        return Scaling("QUEUE_DELAY", self.least, self.most, self.idle)

    def health(self) -> Health:
        self._called()
        running = sum(worker.job is not None for worker in self.workers)
        booting = sum(self.now < worker.ready_at for worker in self.workers)
        return Health(len(self.queue), running, self.done, len(self.workers) - running - booting, running, booting)

    def change(self, change: Change) -> Scaling:
        self._called()
        self.changes.append(change)
        self.least = self.least if change.workers_min is None else change.workers_min
        self.idle = self.idle if change.idle_timeout is None else change.idle_timeout
        self._answered()
        return Scaling("QUEUE_DELAY", self.least, self.most, self.idle)

    def ping(self, ttl_s: float) -> str:
        self._called()
        self.pings.append(self.now)
        self.queue.append(Job(False))
        self._answered()
        return "ping"

    def death(self) -> None:
        """Count a call or a write towards the warmer's death."""
        if self.kill_in is not None:
            self.kill_in -= 1
            if self.kill_in < 0:
                self.kill_in = None
                raise Killed

    def _called(self) -> None:
        self.death()
        if self.down:
            raise ApiDown("down")

    def _answered(self) -> None:
        self.death()
        if self.deaf:
            raise ApiSlow("no answer")

    # What users do, and time.

    def arrive(self) -> None:
        self.queue.append(Job(True))

    def advance(self, seconds: int) -> None:
        for _ in range(seconds):
            self._scale()
            self._work()
            self._bill()
            self.now += 1

    def _scale(self) -> None:
        booting = sum(self.now < worker.ready_at for worker in self.workers)
        free = sum(worker.job is None for worker in self.workers) - booting
        wanted = max(self.least, len(self.workers) + (len(self.queue) > free + booting))
        for_users = any(job.is_users for job in self.queue) and len(self.workers) >= self.least
        while len(self.workers) < min(wanted, self.most):
            ready = self.now + self.boot_s
            self.workers.append(Instance(ready, ended=ready, users_ended=ready if for_users else float("-inf")))
        for worker in list(self.workers):
            idle = worker.job is None and self.now - worker.ended >= self.idle
            if idle and len(self.workers) > self.least:
                self.workers.remove(worker)

    def _work(self) -> None:
        for worker in self.workers:
            if worker.job is not None and self.now >= worker.busy_until:
                self.done += 1
                worker.ended = self.now
                worker.users_ended = self.now if worker.job.is_users else worker.users_ended
                worker.job = None
            if worker.job is None and self.queue and self.now >= worker.ready_at:
                worker.job, worker.busy_until = self.queue.pop(0), self.now + 2

    def _bill(self) -> None:
        day = time.strftime("%Y-%m-%d", time.gmtime(self.now))
        for_users = any(job.is_users for job in self.queue)
        for worker in self.workers:
            own = (worker.job is not None and worker.job.is_users) or self.now - worker.users_ended < self.own_idle
            if not own and not (self.now < worker.ready_at and for_users):
                self.spent[day] += self.price

    def pings_by(self, every: float) -> Counter[int]:
        """How many in each stretch of so many seconds."""
        return Counter(int(at // every) for at in self.pings)


def clock_of(world: World) -> Callable[[], float]:
    return lambda: world.now
