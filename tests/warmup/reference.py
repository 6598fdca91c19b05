"""One worker, one event after the other: what the vectorised replay must agree with.

Written for reading. It knows plans and costs as the simulator does, and shares no code with it but the draws of starts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from warmup.costs import Costs
from warmup.history import History
from warmup.plan import Plan
from warmup.policy import Policy
from warmup.simulate.draws import draws

JUST = 1e-6


class Event(NamedTuple):
    at: float
    kind: str  # user, ping, window; users come first at the same moment
    ends: float
    own: float


@dataclass
class Life:
    began: float
    asked: float
    ready: float
    works_until: float
    held_until: float = -math.inf
    cold: bool = False
    waited: float = 0.0


@dataclass
class Worker:
    costs: Costs
    seed: int
    life: Life | None = None
    stays: float = 0.0
    later: tuple[tuple[float, float], ...] = ()
    billed: float = 0.0
    cold: int = 0
    waited: float = 0.0
    lives: list[tuple[float, float]] = field(default_factory=list)

    @property
    def stops(self) -> float:
        assert self.life is not None
        return max(self.life.works_until + self.stays, self.life.held_until)

    def renew(self, plan: Plan, now: float) -> None:
        if self.life is None or self.stops + JUST < now:
            return
        age = now - self.life.works_until
        self.life.held_until = -math.inf
        self.stays, self.later = plan.stays
        self.stays = max(self.stays, age)
        for start, stop in self.later:
            if start <= self.stays:
                self.stays = max(self.stays, stop)
        self.later = tuple(one for one in self.later if one[0] > self.stays)

    def meet(self, event: Event, plan: Plan) -> None:
        if self.life is not None and event.at > self.stops + JUST:
            idle = event.at - (self.stops - self.stays)
            self.stop()
            self.start(event, idle)
        elif self.life is None:
            self.start(event, math.inf)
        self.work(event)
        self.stays, self.later = plan.stays

    def work(self, event: Event) -> None:
        life = self.life
        assert life is not None
        if event.kind == "window":
            life.held_until = max(life.held_until, event.ends)
            return
        ends = event.ends
        if event.kind == "user" and event.at < life.ready:
            life.cold = True
            life.waited += life.ready - event.at
            ends = life.ready + event.own
        life.works_until = max(life.works_until, ends)

    def start(self, event: Event, idle: float) -> None:
        [length] = self.costs.starts.draw(draws(np.array([event.at]), self.seed), np.array([idle]))
        began, prewarmed = event.at, False
        for start, stop in self.later:
            if idle >= stop and idle < math.inf:
                self.bill(event.at - idle + start, event.at - idle + stop)
            elif start <= idle < stop:
                began, prewarmed = event.at - idle + start, True
                length = max(0.0, start + length - idle)
        ready = event.at + float(length)
        self.life = Life(began, event.at, ready, ready + event.own, cold=event.kind == "user" and not prewarmed)

    def stop(self) -> None:
        life = self.life
        assert life is not None
        self.bill(life.began, self.stops)
        self.cold += life.cold
        self.waited += life.waited
        self.life = None

    def bill(self, began: float, stopped: float) -> None:
        self.lives.append((began, stopped))
        self.billed += math.ceil(stopped - began - JUST)


def events_of(plan: Plan, users: list[Event], costs: Costs, now: float, until: float) -> list[Event]:
    found = list(users)
    for start, stop in plan.held:
        if start < until and stop > now:
            begin, end = max(start, now), min(stop, until)
            found.append(Event(begin, "window", max(end, begin + plan.stays[0]), 0.0))
    if plan.every is not None:
        for number in range(math.ceil(now / plan.every), math.ceil(until / plan.every)):
            at = number * plan.every
            found.append(Event(at, "ping", at + costs.ping_s, costs.ping_s))
    return sorted(found, key=lambda event: (event.at, {"user": 0, "window": 1, "ping": 2}[event.kind]))


def replay(policy: Policy, history: History, costs: Costs, begin: float, seed: int = 0) -> Worker:
    pairs = zip(history.arrivals.tolist(), history.services.tolist(), strict=True)
    users = [Event(at, "user", at + took, took) for at, took in pairs if at >= begin]
    horizon = max(at + took for at, took in zip(history.arrivals.tolist(), history.services.tolist(), strict=True))
    worker, now = Worker(costs, seed), begin
    while True:
        plan = policy.plan(history.before(now), now, costs)
        if now == begin:
            earlier = [at + took for at, took in zip(history.arrivals, history.services, strict=True) if at < begin]
            held = any(start <= now < stop for start, stop in plan.held)
            worked = now if held else min(now, max(earlier, default=-math.inf))
            if now - worked <= plan.stays[0]:
                worker.life = Life(now, now, now, worked)
                worker.stays = plan.stays[0]
        last = plan.until >= horizon
        until = min(plan.until, horizon)
        mine = [event for event in users if event.at >= now and (last or event.at < until)]
        worker.renew(plan, now)
        for event in events_of(plan, mine, costs, now, until):
            worker.meet(event, plan)
        if last:
            break
        now = until
    if worker.life is not None:
        timeout = min(worker.stays, plan.idle_timeout)
        worker.stays = max(timeout, min(worker.stays, horizon - (worker.stops - worker.stays)))
        worker.life.held_until = -math.inf if worker.life.held_until <= horizon else worker.life.held_until
        worker.stop()
    return worker
