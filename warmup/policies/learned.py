"""`learned`: the keep-alive time that was best on arrivals like these."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from warmup.plan import LONGEST_IDLE_S, SHORTEST_IDLE_S, Plan, kept
from warmup.policies.forecast import WAYS, Forecasts
from warmup.policies.prewarming import rhythm
from warmup.policies.renewal import renewal
from warmup.policies.trials import HOUR_S, KEEP_S, Trials

if TYPE_CHECKING:
    from warmup.costs import Costs
    from warmup.history import Floats, History

_FEWEST = 10
"""Arrivals before anything is learnt from them; the histogram's bound for idle times, see policies/histogram.py."""


class Learned:
    """Weighs the price of a warm second against the waiting it saves.

    What the object keeps is what follows from the history it was last asked about, so that only what is new has to
    be looked at.
    """

    name = "learned"

    def __init__(self) -> None:
        self._past: _Past | None = None

    def plan(self, history: History, now: float, costs: Costs) -> Plan:
        until = renewal(history, now)
        if len(history) < _FEWEST:
            return ski_rental(costs, until)
        if self._past is None or not self._past.goes_on(history, now, costs):
            self._past = _Past(history, costs)
        self._past.learn(history, now)
        return self._past.plan(history, now, until)


def ski_rental(costs: Costs, until: float) -> Plan:
    """With nothing known: a worker stays for as long as a start costs, so that an idle time costs at most twice what it
    could have; never longer than the platform's longest idle timeout."""
    seconds = costs.starts.cold.mean * (1 + costs.wait_value)
    return kept(max(SHORTEST_IDLE_S, min(seconds, LONGEST_IDLE_S)), until)


class _Past:
    """What is known of the arrivals so far."""

    def __init__(self, history: History, costs: Costs) -> None:
        self._costs = costs
        self._trials = Trials(costs, history.began)
        self._forecasts = Forecasts(len(self._trials.options), len(KEEP_S))
        self._known, self._last, self._now = 0, -math.inf, -math.inf

    def goes_on(self, history: History, now: float, costs: Costs) -> bool:
        """Whether a history is this one with more behind it."""
        known = self._known
        same = len(history) >= known and (known == 0 or float(history.arrivals[known - 1]) == self._last)
        return same and costs == self._costs and now >= self._now

    def learn(self, history: History, now: float) -> None:
        self._known, self._last, self._now = len(history), float(history.arrivals[-1]), now
        trials, forecasts = self._trials, self._forecasts
        trials.learn(history, now)
        over = math.floor(trials.until / HOUR_S) - trials.first
        if forecasts.hours < over:
            forecasts.learn(trials.first + forecasts.hours, self._losses(slice(forecasts.hours, over)))

    def plan(self, history: History, now: float, until: float) -> Plan:
        """For now, until the choice would be another one."""
        way = self._forecasts.best
        if WAYS[way].season > 1:
            return self._by_the_hour(way, now, until)
        choice = self._forecasts.choose(way, 0) if way else self._forecasts.middle(self._running())
        stretch = rhythm(history, self._costs, KEEP_S[choice]) if choice < len(KEEP_S) else None
        if stretch is not None:
            return Plan(stretch.first, prewarm=(stretch[1:],), until=until)
        return self._chosen(choice, until)

    def _by_the_hour(self, way: int, now: float, until: float) -> Plan:
        """For this hour and those after it for which the choice is the same."""
        hour = math.floor(now / HOUR_S)
        choice = self._forecasts.choose(way, hour)
        hour += 1
        while hour * HOUR_S < until and self._forecasts.choose(way, hour) == choice:
            hour += 1
        return self._chosen(choice, min(until, hour * HOUR_S))

    def _chosen(self, choice: int, until: float) -> Plan:
        if choice < len(KEEP_S) and KEEP_S[choice] == math.inf:
            return Plan(always=True, until=until)
        return replace(self._trials.options[choice], until=until)

    def _running(self) -> Floats:
        """Losses of the hour that is not over."""
        import numpy as np

        row = self._forecasts.hours
        return self._losses(row) if row < len(self._trials.billed) else np.zeros(len(self._trials.options))

    def _losses(self, rows: int | slice) -> Floats:
        """Of an hour or of several, in seconds of the worker."""
        return self._trials.billed[rows] + self._costs.wait_value * self._trials.waited[rows]
