"""What each keep-alive time would have cost on the past, hour by hour: nothing has to be tried out to be known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from warmup.plan import SHORTEST_IDLE_S, Plan, kept
from warmup.simulate.abreast import Abreast, Several
from warmup.simulate.replay import Replay
from warmup.simulate.traffic import Traffic

if TYPE_CHECKING:
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
        self._kept = Abreast(costs, np.array([plan.stays[0] for plan in _KEPT]))
        self._pinged: list[Replay] | None = None
        self._costs = costs
        self.options = options(costs)
        self.first = math.floor(began / HOUR_S)
        self.until = began
        self.billed: Floats = np.zeros((0, len(self.options)))
        self.waited: Floats = np.zeros((0, len(self.options)))

    def learn(self, history: History, now: float) -> None:
        """Take in what came since the last time, but for the length of a start: who waits for it is not known yet."""
        until = now - self._lag_s
        if until <= self.until:
            return
        traffic = Traffic.of(history.since(self.until))
        self._make_room(until)
        count = int(traffic.times.searchsorted(until))
        self._book(slice(len(_KEPT)), self._kept.advance(traffic, count), until)
        self._ping(traffic, until)
        self.until = until

    def _ping(self, traffic: Traffic, until: float) -> None:
        """The same for workers that are pinged."""
        plans = self.options[len(_KEPT):]
        if self._pinged is None:
            self._pinged = [Replay(traffic, self._costs) for _ in plans]
        for column, (plan, replay) in enumerate(zip(plans, self._pinged, strict=True), len(_KEPT)):
            replay.go_on(traffic)
            replay.advance(plan, self.until, until)
            lives = several(replay)
            if lives is not None:
                self._book(slice(column, column + 1), lives, until)

    def _make_room(self, until: float) -> None:
        import numpy as np

        missing = math.ceil(until / HOUR_S) - self.first - len(self.billed)
        if missing > 0:
            more = np.zeros((missing, len(self.options)))
            self.billed, self.waited = np.concatenate([self.billed, more]), np.concatenate([self.waited, more])

    def _book(self, columns: slice, lives: Several, until: float) -> None:
        """Divide what is new of the workers' lives among the hours."""
        import numpy as np

        may_go_on = np.zeros(lives.worker.size, bool)
        may_go_on[lives.first - 1] = True  # The last of each.
        ended = np.flatnonzero(~may_go_on)
        hours = np.maximum(0, (lives.asked[ended] // HOUR_S).astype(np.int64) - self.first)
        np.add.at(self.waited[:, columns], (hours, lives.worker[ended]), lives.waited[ended])
        rows, edges = self._hours(until)
        self.billed[rows, columns] += np.diff(up_to(edges, lives), axis=0)

    def _hours(self, until: float) -> tuple[slice, Floats]:
        """The rows of what is new, and where one ends and the next begins."""
        import numpy as np

        first = math.floor(self.until / HOUR_S)
        whole = np.arange(first + 1, math.ceil(until / HOUR_S)) * HOUR_S
        edges = np.concatenate([[self.until], whole, [until]])
        return slice(first - self.first, first - self.first + edges.size - 1), edges


def several(replay: Replay) -> Several | None:
    """The lives of one worker that have ended, and the one that has not; None where there is none."""
    import numpy as np

    ended, last = replay.take(), replay.standing
    if math.isnan(last.began):
        return None
    parts = [np.stack([one.began, one.stopped, one.asked, one.waited]) for one in ended]
    parts.append(np.array([[last.began], [last.worked + last.stays], [last.asked], [last.waited]]))
    began, stopped, asked, waited = np.concatenate(parts, 1)
    return Several(np.zeros(1, np.int64), np.zeros(began.size, np.int64), began, stopped, asked, waited)


def up_to(moments: Floats, lives: Several) -> Floats:
    """Seconds up to each moment as they are billed, each life up to whole ones; shape [moments, workers]."""
    import numpy as np

    billed = np.ceil(lives.stopped - lives.began)
    sums = np.append(0.0, np.cumsum(billed))
    first = lives.first
    origin = moments[0] - 1
    length = moments[-1] - origin + 1
    axis = np.maximum(0.0, lives.began - origin) + lives.worker * length  # One search for all workers.
    started = axis.searchsorted((moments - origin)[:, None] + lives.worker[first] * length)
    beyond = np.maximum(0.0, (lives.began + billed)[started - 1] - moments[:, None])
    return sums[started] - np.where(started > first, beyond, 0.0)
