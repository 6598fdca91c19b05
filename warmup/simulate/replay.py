"""One worker under a plan, over many arrivals at once.

A worker's life is decided by its start: from then on nothing before it matters, as it had been stopped. So for every
arrival that could find the worker stopped (its gap is longer than the worker stays), the next arrival that does find
it stopped, were the worker to start here, is one binary search; and the starts that really happen are a walk along
these. No arrival within a life is looked at.

Where the length of a start depends on the idle time before it (restores, pre-warming), idle times are first taken as
if all before had been warm, and the walk is repeated with those it showed until they agree. Each repetition settles
at least one more start, from the first on, so this ends, and there is one answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from warmup.simulate.draws import draws

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from warmup.costs import Costs
    from warmup.history import Floats
    from warmup.plan import Plan
    from warmup.simulate.traffic import Traffic

    Indices = NDArray[np.int64]

JUST_S = 1e-6
"""What is this close counts as simultaneous: seconds since 1970 are floats that are good to a quarter of it."""


class Lives(NamedTuple):
    """Workers' lives, a row each. The last four are of the start that began it.

    Attributes:
        began: when it started, in seconds since 1970, and `stopped` when it was stopped.
        asked: when the first work came.
        waited: seconds that users waited for it.
        cold: whether a user's request found it not warm.
    """

    began: Floats
    stopped: Floats
    asked: Floats
    waited: Floats
    cold: NDArray[np.bool_]


class Events(NamedTuple):
    """What gives a worker work, in order: requests of users, pings, windows. Shape [events] each.

    Attributes:
        times: when it comes.
        own: seconds of work of an event that finds no worker, after the start.
        reach: by when all up to here are done if warm.
        gaps: idle seconds before each if warm.
        users: whether it is a user's request.
        places: of the first request that comes no earlier.
        work_ends: when all work of requests and pings would be done if warm; before everything where there is none.
    """

    times: Floats
    own: Floats
    reach: Floats
    gaps: Floats
    users: NDArray[np.bool_]
    places: Indices
    work_ends: float


@dataclass(slots=True)
class Standing:
    """The worker between two plans.

    Attributes:
        began: of its life, and `asked`, `waited`, `cold` of its start; see Lives.
        worked: when its last work ends; in a window, so that it stays until the window ends.
        work_ends: the same without windows.
        stays: seconds after `worked`, and `later` the stretches in which it is pre-warmed.
    """

    began: float = math.nan
    asked: float = math.nan
    worked: float = -math.inf
    work_ends: float = -math.inf
    waited: float = 0.0
    cold: bool = False
    stays: float = 0.0
    later: tuple[tuple[float, float], ...] = ()

    def renew(self, plan: Plan, now: float) -> None:
        """Have a worker that is up kept by another plan from now on. One that has stopped is pre-warmed as it would
        have been."""
        if math.isnan(self.began) or self.worked + self.stays + JUST_S < now:
            return
        stays, later = plan.stays
        self.worked, self.stays = self.work_ends, max(stays, now - self.work_ends)
        while later and later[0][0] <= self.stays:
            self.stays, later = max(self.stays, later[0][1]), later[1:]
        self.later = later


class Replay:
    """One worker, carried from plan to plan.

    Args:
        seed: of the lengths and kinds of starts, where those are drawn.
    """

    def __init__(self, traffic: Traffic, costs: Costs, seed: int = 0) -> None:
        self._traffic = traffic
        self._costs = costs
        self._seed = seed
        self._next = 0
        self._standing = Standing()
        self._found: list[Lives] = []

    def go_on(self, traffic: Traffic) -> None:
        """Take further arrivals: those since the moment up to which the replay has come."""
        self._traffic, self._next = traffic, 0

    def start_warm(self, now: float, worked: float, stays: float) -> None:
        """Have a worker up that is ready, is billed from `now`, had its last work until `worked`, and stays so long
        after it."""
        self._standing = Standing(now, now, worked, worked, stays=stays)

    @property
    def standing(self) -> Standing:
        return self._standing

    def take(self) -> list[Lives]:
        """The lives that have ended since they were last taken."""
        found, self._found = self._found, []
        return found

    def advance(self, plan: Plan, now: float, until: float, last: bool = False) -> None:
        """Serve what comes from `now` until `until` under a plan; with `last`, all that is left."""
        first = self._next
        self._next = len(self._traffic) if last else int(self._traffic.times.searchsorted(until))
        self._standing.renew(plan, now)
        events = gather(self._traffic, first, self._next, plan, self._costs, now, until)
        if events.times.size:
            self._serve(events, plan)

    def finish(self, plan: Plan, until: float) -> None:
        """Let the worker stop. Beyond `until` nothing but the platform's idle timeout keeps it up, and nothing
        pre-warms one."""
        last = self._standing
        if not math.isnan(last.began):
            timeout = min(last.stays, plan.idle_timeout)
            self._close(last.worked, max(timeout, min(last.stays, until - last.worked)))
            self._standing = Standing()

    def _serve(self, events: Events, plan: Plan) -> None:
        stays, later = plan.stays
        before = self._standing
        walk = _Walk(self._traffic, self._costs, events, before, stays, later, self._seed)
        starts = walk.solve()
        if starts.size == 0:
            before.worked = max(before.worked, float(events.reach[-1]))
            before.work_ends = max(before.work_ends, events.work_ends)
            before.stays, before.later = stays, later
            return
        self._end_standing(events, int(starts[0]), stays)
        lives, worked = walk.lives(starts)
        self._found.append(_closed(lives))
        self._found += walk.unused(starts)
        self._standing = Standing(
            float(lives.began[-1]), float(lives.asked[-1]), max(worked, float(events.reach[-1])),
            max(worked, events.work_ends),
            float(lives.waited[-1]), bool(lives.cold[-1]), stays, later,
        )

    def _end_standing(self, events: Events, start: int, stays: float) -> None:
        """Close the life that stood before the first start of these events."""
        last = self._standing
        if math.isnan(last.began):
            return
        if start == 0:
            self._close(last.worked, last.stays)
        else:
            self._close(max(last.worked, float(events.reach[start - 1])), stays)

    def _close(self, worked: float, stays: float) -> None:
        import numpy as np

        last = self._standing
        began, stopped, asked, waited, cold = (
            np.array([value]) for value in (last.began, worked + stays, last.asked, last.waited, last.cold)
        )
        self._found.append(Lives(began, stopped, asked, waited, cold))


class _Walk:
    """The starts among events, under one plan."""

    def __init__(
        self, traffic: Traffic, costs: Costs, events: Events, before: Standing, stays: float,
        later: tuple[tuple[float, float], ...], seed: int,
    ) -> None:
        import numpy as np

        self._traffic, self._costs, self._events, self._before = traffic, costs, events, before
        self._stays, self._later = stays, later
        may = np.flatnonzero(events.gaps[1:] > stays + JUST_S) + 1
        self._may = np.concatenate([[0], may])
        self._times = events.times[self._may]
        self._gaps = events.gaps[self._may]
        self._gaps[0] = self._times[0] - before.worked
        starts = costs.starts
        self._draws = None if starts.is_constant else draws(self._times, seed)
        self._settled = starts.restores is None and not later and not before.later

    def solve(self) -> Indices:
        """Which events start a worker."""
        import numpy as np

        if self._times.size == 1 and self._gaps[0] <= self._before.stays + JUST_S:
            return self._may[:0]
        while True:
            self._start_all()
            chain = self._follow()
            if self._settled or chain.size == 0:
                return self._may[chain]
            real = self._real_gaps(chain)
            if np.array_equal(real, self._gaps[chain]):
                return self._may[chain]
            self._gaps[chain] = real

    def _start_all(self) -> None:
        """For all that may: how long until there is a worker, since when it lives, and until when it has work."""
        import numpy as np

        starts = self._costs.starts
        if self._draws is None:
            length = np.full(self._times.size, starts.cold.values[0])
        else:
            length = starts.draw(self._draws, self._gaps)
        self._born, self._prewarmed = self._times.copy(), np.zeros(self._times.size, bool)
        for place, windows in ((slice(1, None), self._later), (slice(0, 1), self._before.later)):
            for start, stop in windows:
                gaps = self._gaps[place]
                inside = (gaps >= start) & (gaps < stop)
                length[place] = np.where(inside, np.maximum(0.0, start + length[place] - gaps), length[place])
                self._born[place] = np.where(inside, self._times[place] - gaps + start, self._born[place])
                self._prewarmed[place] |= inside
        self._ready = self._times + length
        self._worked = self._ready + self._first_work()

    def _first_work(self) -> Floats:
        """Seconds from each start's end until all who waited for it are served."""
        import numpy as np

        own = self._events.own[self._may]
        if self._traffic.service is not None and self._events.users[self._may].all():
            return own  # All take as long as the one that begins it.
        return np.maximum(own, self._traffic.longest(self._events.places[self._may], self._ready))

    def _follow(self) -> Indices:
        """The starts that happen."""
        import numpy as np

        before, times = self._before, self._times
        after = times[1:].searchsorted(self._worked + (self._stays + JUST_S), side="right") + 1
        if times[0] - before.worked > before.stays + JUST_S:
            place = 0
        else:
            place = int(times[1:].searchsorted(before.worked + (self._stays + JUST_S), side="right")) + 1
        if (after[place:] == np.arange(place + 1, after.size + 1)).all():
            return np.arange(place, after.size)
        return hop(after, place)

    def _ends(self, chain: Indices) -> Floats:
        """When the work ends of each life that begins here."""
        import numpy as np

        last = np.append(self._may[chain[1:]], self._events.times.size) - 1
        return np.maximum(self._events.reach[last], self._worked[chain])

    def _real_gaps(self, chain: Indices) -> Floats:
        """Idle seconds before each start, as these starts make them."""
        real = self._gaps[chain]
        real[1:] = self._times[chain[1:]] - self._ends(chain)[:-1]
        place = int(chain[0])
        if place:
            reach = float(self._events.reach[self._may[place] - 1])
            real[0] = self._times[place] - max(self._before.worked, reach)
        return real

    def lives(self, starts: Indices) -> tuple[Lives, float]:
        """The lives that begin with these starts; the last one is open. And when that has done what it began with."""
        chain = self._may.searchsorted(starts)
        asked, ready = self._times[chain], self._ready[chain]
        waited, count = self._traffic.waits(self._events.places[starts], ready)
        worked = self._ends(chain)
        cold = (count > 0) | (self._events.users[starts] & ~self._prewarmed[chain])
        return Lives(self._born[chain], worked + self._stays, asked, waited, cold), float(self._worked[chain[-1]])

    def unused(self, starts: Indices) -> list[Lives]:
        """The lives of workers that were pre-warmed and stopped before anything came."""
        import numpy as np

        chain = self._may.searchsorted(starts)
        found = []
        for rows, windows in ((chain[chain > 0], self._later), (chain[chain == 0], self._before.later)):
            for start, stop in windows:
                ended = (self._times - self._gaps)[rows[self._gaps[rows] >= stop]]
                ended = ended[np.isfinite(ended)]
                if ended.size:
                    nothing = np.zeros(ended.size)
                    found.append(Lives(ended + start, ended + stop, ended + start, nothing, nothing.astype(bool)))
        return found


def _closed(lives: Lives) -> Lives:
    """All but the last one, which is open."""
    return Lives(lives.began[:-1], lives.stopped[:-1], lives.asked[:-1], lives.waited[:-1], lives.cold[:-1])


def hop(after: Indices, place: int) -> Indices:
    """From a place to the place after it, until the end; twice as far each time."""
    import numpy as np

    jump, visited = np.append(after, after.size), np.array([place])
    while visited[-1] < after.size:
        visited = np.concatenate([visited, jump[visited]])
        jump = jump[jump]
    return visited[: visited.searchsorted(after.size)]


def gather(traffic: Traffic, first: int, after: int, plan: Plan, costs: Costs, now: float, until: float) -> Events:
    """The requests from `first` to `after` (without), among them what the plan does from `now` until `until`.

    A request that comes before a worker could be stopped is left out, as it starts none: what it reaches stands with
    the one before it.
    """
    import numpy as np

    heads = traffic.heads_within(first, after, plan.stays[0] + JUST_S)
    tails = np.append(heads[1:], after)[: heads.size] - 1
    times, services, reach = traffic.times[heads], traffic.services[heads], traffic.reach[tails]
    users, last = np.ones(heads.size, bool), float(reach[-1]) if heads.size else -math.inf
    if not plan.held and plan.every is None:
        return Events(times, services, reach, traffic.gaps[heads], users, heads, last)
    more, own, ends, over = _planned(plan, costs, now, until)
    place = times.searchsorted(more, side="right")
    times = np.insert(times, place, more)
    reach = np.maximum.accumulate(np.insert(reach, place, ends))
    gaps = np.concatenate([[np.inf], times[1:] - reach[:-1]])[: times.size]
    places = np.insert(heads, place, np.append(heads, after)[place])  # Amid work nothing starts, and none is looked at.
    return Events(
        times, np.insert(services, place, own), reach, gaps, np.insert(users, place, False), places, max(last, over)
    )


def _planned(plan: Plan, costs: Costs, now: float, until: float) -> tuple[Floats, Floats, Floats, float]:
    """Pings and windows: when each comes, its own work, and when it is over; and when the last ping is."""
    import numpy as np

    held = [(max(start, now), min(stop, until)) for start, stop in plan.held if start < until and stop > now]
    times = np.array([start for start, _ in held])
    own, last = np.zeros(times.size), -math.inf
    ends = np.array([max(start, stop - plan.stays[0]) for start, stop in held])
    if plan.every is not None:
        pings = np.arange(math.ceil(now / plan.every), math.ceil(until / plan.every)) * plan.every
        times, own, ends = (
            np.concatenate(pair) for pair in (
                (times, pings), (own, np.full(pings.size, costs.ping_s)), (ends, pings + costs.ping_s)
            )
        )
        order = np.argsort(times, kind="stable")
        times, own, ends = times[order], own[order], ends[order]
        last = float(pings[-1]) + costs.ping_s if pings.size else last
    return times, own, ends, last
