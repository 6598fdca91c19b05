"""What each keep-alive time would have cost on the past, hour by hour: nothing has to be tried out to be known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from warmup.plan import SHORTEST_IDLE_S, Plan
from warmup.policies.histogram import kept
from warmup.simulate.replay import Lives, Replay
from warmup.simulate.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from warmup.costs import Costs
    from warmup.history import Floats, History

KEEP_S = (
    1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 240.0, 300.0, 450.0, 600.0, 900.0,
    1200.0, 1800.0, 2700.0, 3600.0, 7200.0, 14400.0, math.inf,
)
"""Seconds that a worker stays after its last work, from RunPod's shortest idle timeout to for ever. About half as much
again each time: the score is flat around its least, a step off costs at most a few per cent."""

HOUR_S = 3600.0
_CLOSEST_PINGS_S = 60.0
_FOR_EVER_S = 1e9
"""Thirty years: longer than any history, short enough that sums stay exact to the microsecond."""

_KEPT = tuple(kept(min(seconds, _FOR_EVER_S), math.inf) for seconds in KEEP_S)


def options(costs: Costs) -> tuple[Plan, ...]:
    """What is tried: each keep-alive time, and where starts may be restores, pings as far apart as their chance holds.

    A ping on a stopped worker is a start, and the idle time before the next one is counted from it.
    """
    restores = costs.starts.restores
    pings = () if restores is None else tuple(every for every in restores.up_to if every >= _CLOSEST_PINGS_S)
    return (*_KEPT, *(Plan(SHORTEST_IDLE_S, every=every) for every in pings))


class Trials:
    """The same arrivals replayed under each keep-alive time, with the replay of the simulator.

    Attributes:
        first: the hour of the first row, in hours since 1970.
        options: the plans that are tried.
        billed: seconds, shape [hours, options]; the last hour may not be over.
        waited: the same, of users.
        until: up to when arrivals are in, in seconds since 1970.
    """

    def __init__(self, costs: Costs, began: float) -> None:
        import numpy as np

        starts = costs.starts
        longest = [starts.cold.values[-1], *([starts.restores.seconds.values[-1]] if starts.restores else [])]
        self._lag_s = max(longest)
        self._replays: list[Replay] | None = None
        self._costs = costs
        self.options = options(costs)
        self.first = math.floor(began / HOUR_S)
        self.until = began
        self.billed: Floats = np.zeros((0, len(self.options)))
        self.waited: Floats = np.zeros((0, len(self.options)))

    def learn(self, history: History, now: float) -> None:
        """Take in what came since the last time, but for the length of a start: who waits for it is not known yet."""
        import numpy as np

        until = now - self._lag_s
        if until <= self.until:
            return
        traffic = Traffic.of(history.since(self.until))
        if self._replays is None:
            self._replays = [Replay(traffic, self._costs) for _ in self.options]
        self._make_room(until)
        count = int(traffic.times.searchsorted(until))
        longest = float(traffic.gaps[1:count].max(initial=0.0))
        hours = self._hours(until)
        uninterrupted: list[int] = []
        for column, (plan, replay) in enumerate(zip(self.options, self._replays, strict=True)):
            seconds = plan.stays[0]
            goes_on = count and plan.every is None and longest <= seconds
            if goes_on and replay.outlasts(float(traffic.times[0]), seconds):
                replay.work_on(float(traffic.reach[count - 1]))
                uninterrupted.append(column)
            else:
                replay.go_on(traffic)
                replay.advance(plan, self.until, until)
                self._book(column, replay, hours)
        rows, edges = hours
        self.billed[rows, uninterrupted] += np.diff(edges)[:, None]  # A worker that was up all the time.
        self.until = until

    def _make_room(self, until: float) -> None:
        import numpy as np

        missing = math.ceil(until / HOUR_S) - self.first - len(self.billed)
        if missing > 0:
            more = np.zeros((missing, len(self.options)))
            self.billed, self.waited = np.concatenate([self.billed, more]), np.concatenate([self.waited, more])

    def _book(self, column: int, replay: Replay, hours: tuple[slice, Floats]) -> None:
        """Divide what is new of the workers' lives among the hours."""
        import numpy as np

        ended, last = replay.take(), replay.standing
        if ended:
            asked, waited = (np.concatenate([getattr(one, name) for one in ended]) for name in ("asked", "waited"))
            asked_in = (asked // HOUR_S).astype(np.int64) - self.first
            np.add.at(self.waited[:, column], np.maximum(asked_in, 0), waited)
        if math.isnan(last.began):
            return
        began, stopped = edges_of([*ended, _open(last.began, last.worked + last.stays)])
        rows, edges = hours
        self.billed[rows, column] += np.diff(up_to(edges, began, stopped))

    def _hours(self, until: float) -> tuple[slice, Floats]:
        """The rows of what is new, and where one ends and the next begins."""
        import numpy as np

        first = math.floor(self.until / HOUR_S)
        whole = np.arange(first + 1, math.ceil(until / HOUR_S)) * HOUR_S
        edges = np.concatenate([[self.until], whole, [until]])
        return slice(first - self.first, first - self.first + edges.size - 1), edges


def _open(began: float, stopped: float) -> Lives:
    import numpy as np

    nothing = np.zeros(1)
    return Lives(np.array([began]), np.array([stopped]), nothing, nothing, nothing.astype(bool))


def edges_of(lives: Sequence[Lives]) -> tuple[Floats, Floats]:
    """Beginnings and ends in order; ends as they are billed, up to the second."""
    import numpy as np

    began, stopped = (np.concatenate(parts) for parts in zip(*((one.began, one.stopped) for one in lives), strict=True))
    return began, began + np.ceil(stopped - began)


def up_to(moments: Floats, began: Floats, stopped: Floats) -> Floats:
    """Billed seconds up to each moment; lives ascending."""
    import numpy as np

    sums = np.concatenate([[0.0], np.cumsum(stopped - began)])
    started = began.searchsorted(moments)
    beyond = np.maximum(0.0, stopped[started - 1] - moments)
    return sums[started] - np.where(started > 0, beyond, 0.0)
