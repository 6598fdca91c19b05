"""Several workers under RunPod's scaler, event by event.

The scaler is the local endpoint's own (handler/local/scaler.py), so that both do the same. Waiting counts while a start
is under way: what a request waits for a place in busy workers is no policy's doing.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Literal

from warmup.simulate.draws import draws
from warmup.simulate.outcome import Outcome, idle_since
from warmup.simulate.replay import JUST_S

if TYPE_CHECKING:
    from warmup.costs import Costs
    from warmup.history import History
    from warmup.plan import Plan
    from warmup.policy import Policy
    from warmup.simulate.outcome import Period


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many workers there may be, and how many requests each serves at once; None for all that come."""

    workers_max: int
    at_once: int | None = None


@dataclass(slots=True)
class _Request:
    at: float
    seconds: float
    user: bool
    starting_s: float


@dataclass(slots=True)
class _Worker:
    """A worker of the fleet; `since` is when it became what it is."""

    id: str
    began: float
    ready: float
    readiness: Literal["starting", "idle", "busy"] = "starting"
    since: float = 0.0
    running: int = 0
    served: bool = False


@dataclass(slots=True)
class _Sums:
    cold: int = 0
    billed: float = 0.0
    waited: float = 0.0


@dataclass(order=True, slots=True)
class _Event:
    at: float
    rank: int
    number: int
    act: Callable[[float], None] = field(compare=False)


def scale_out(
    policy: Policy, history: History, costs: Costs, period: Period, fleet: Fleet, seed: int = 0,
    done: Callable[[float], None] = lambda now: None,
) -> Outcome:
    """Replay a period under a policy with several workers.

    Raises:
        InvalidTrace: the policy made a plan that is over at once.
    """
    return _Replay(policy, history, costs, period, fleet, seed).run(done)


class _Replay:
    """One replay: the workers, the queue, and what comes next."""

    def __init__(self, policy: Policy, history: History, costs: Costs, period: Period, fleet: Fleet, seed: int) -> None:
        self._policy, self._history, self._costs, self._period, self._fleet, self._seed = (
            policy, history, costs, period, fleet, seed
        )
        self._events: list[_Event] = []
        self._numbers = count()
        self._workers: dict[str, _Worker] = {}
        self._queue: deque[_Request] = deque()
        self._sums = _Sums()
        self._active_s, self._held = 0.0, 0
        self._prewarmed_since: float | None = None
        self._starting_s, self._starting_since = 0.0, math.nan
        self._last_start: float | None = None
        self._last_work = -math.inf
        self._plan: Plan

    def run(self, done: Callable[[float], None]) -> Outcome:
        served = self._history.since(self._period.begin)
        for at, seconds in zip(served.arrivals.tolist(), served.services.tolist(), strict=True):
            self._at(at, 2, partial(self._arrive, seconds=seconds, user=True))
        self._renew(self._period.begin)
        self._take_over()
        while self._events:
            event = heapq.heappop(self._events)
            event.act(event.at)
            self._settle(event.at)
            done(event.at)
        sums = self._sums
        return Outcome(len(served), sums.cold, sums.billed, min(self._active_s, sums.billed), sums.waited)

    def _take_over(self) -> None:
        """Have a worker up, if the first plan would have left one after the last request before."""
        begin = self._period.begin
        since = idle_since(self._plan, self._history.before(begin), begin)
        if since is not None and not self._workers:
            self._last_work = since
            self._workers["0"] = _Worker("0", begin, begin, "idle", since)
            self._plan_prewarming(since)
            self._at(begin, 3, lambda now: None)

    def _at(self, at: float, rank: int, act: Callable[[float], None]) -> None:
        heapq.heappush(self._events, _Event(at, rank, next(self._numbers), act))

    def _renew(self, now: float) -> None:
        """Make the plan anew, and what it does until it is made anew again."""
        self._plan = self._policy.plan(self._history.before(now), now, self._costs)
        until = min(self._plan.until, self._period.until)
        for start, stop in self._plan.held:
            if start < until and stop > now:
                self._hold(max(start, now), min(stop, until), now)
        every = self._plan.every
        if every is not None:
            for number in range(math.ceil(now / every), math.ceil(until / every)):
                self._at(number * every, 2, partial(self._arrive, seconds=self._costs.ping_s, user=False))
        if self._plan.until < self._period.until:
            self._at(until, 1, self._renew)

    def _hold(self, start: float, stop: float, now: float) -> None:
        """Min workers 1 for a while; from the very beginning a worker is there already."""
        self._active_s += stop - start
        if start == now == self._period.begin and not self._workers:
            self._workers["0"] = _Worker("0", now, now, "idle", now)
        self._at(start, 0, lambda at: self._change_held(1))
        self._at(stop, 0, lambda at: self._change_held(-1))

    def _change_held(self, by: int) -> None:
        self._held += by

    def _arrive(self, now: float, seconds: float, user: bool) -> None:
        self._prewarmed_since = None  # From now on it is the work that keeps a worker.
        self._queue.append(_Request(now, seconds, user, self._starting_s + self._running_start(now)))

    def _settle(self, now: float) -> None:
        """Give out the queue, then let the scaler decide until it has nothing more to change."""
        self._dispatch(now)
        self._scale(now)
        self._dispatch(now)

    def _dispatch(self, now: float) -> None:
        for worker in sorted(self._workers.values(), key=lambda worker: (worker.running == 0, worker.began)):
            while self._queue and worker.readiness != "starting" and worker.running < (self._fleet.at_once or math.inf):
                self._serve(worker, self._queue.popleft(), now)

    def _serve(self, worker: _Worker, request: _Request, now: float) -> None:
        if worker.readiness == "idle":
            worker.readiness, worker.since = "busy", now
        worker.running += 1
        if request.user:
            self._sums.waited += self._starting_s + self._running_start(now) - request.starting_s
            if not worker.served and request.at < worker.ready:
                self._sums.cold += 1
            worker.served = True
        self._at(now + request.seconds, 0, lambda at: self._finish(worker, at))

    def _running_start(self, now: float) -> float:
        return 0.0 if math.isnan(self._starting_since) else now - self._starting_since

    def _finish(self, worker: _Worker, now: float) -> None:
        worker.running -= 1
        if not worker.running:
            worker.readiness, worker.since = "idle", now
            self._last_work = now
            self._plan_prewarming(now)

    def _plan_prewarming(self, now: float) -> None:
        """A pre-warmed stretch holds one worker, for as long as no work has come since."""
        stays, later = self._plan.stays
        if stays > self._plan.idle_timeout:
            later = ((0.0, stays), *later)
        for start, stop in later:
            if now + start < self._period.until:
                self._at(now + start, 1, partial(self._prewarm, since=now, length=stop - start))

    def _prewarm(self, now: float, since: float, length: float) -> None:
        if self._last_work > since or any(worker.running for worker in self._workers.values()):
            return
        self._prewarmed_since = since
        self._at(min(now + length, self._period.until), 0, lambda at: self._end_prewarming(since))

    def _end_prewarming(self, since: float) -> None:
        if self._prewarmed_since == since:
            self._prewarmed_since = None

    def _scale(self, now: float) -> None:
        from handler.local.scaler import Demand, Scaling, Seen, Situation, decide

        scaling = Scaling(
            workers_min=1 if self._held or self._prewarmed_since is not None else 0,
            workers_max=self._fleet.workers_max,
            idle_timeout_s=self._plan.idle_timeout,
        )
        demand = Demand(len(self._queue), sum(worker.running for worker in self._workers.values()),
                        self._queue[0].at if self._queue else None)
        seen = [Seen(worker.id, worker.readiness, worker.since) for worker in self._workers.values()]
        decision = decide(Situation(scaling, demand, seen, self._last_start), now + JUST_S)
        for name in decision.stop:
            worker = self._workers.pop(name)
            self._sums.billed += math.ceil(now - worker.began - JUST_S)
        for _ in range(decision.start):
            self._start(now)
        if decision.look_again is not None and decision.look_again > now:
            self._at(decision.look_again, 3, lambda at: None)

    def _start(self, now: float) -> None:
        import numpy as np

        number = next(self._numbers)
        chance = draws(np.array([now]), self._seed + len(self._workers))
        [length] = self._costs.starts.draw(chance, np.array([now - self._last_work])).tolist()
        worker = _Worker(str(number), now, now + length, since=now)
        self._workers[worker.id] = worker
        self._last_start = now
        if math.isnan(self._starting_since):
            self._starting_since = now
        self._at(worker.ready, 0, lambda at: self._become_ready(worker, at))

    def _become_ready(self, worker: _Worker, now: float) -> None:
        worker.readiness, worker.since = "idle", now
        if not any(one.readiness == "starting" for one in self._workers.values()):
            self._starting_s += now - self._starting_since
            self._starting_since = math.nan
