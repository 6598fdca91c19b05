"""A policy carried out over arrivals, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from warmup.errors import InvalidTrace
from warmup.simulate.replay import JUST_S, Lives, Replay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from warmup.costs import Costs
    from warmup.history import Floats, History
    from warmup.plan import Plan
    from warmup.policy import Policy
    from warmup.simulate.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy did.

    Attributes:
        requests: of users.
        cold_starts: starts that at least one user's request waited for; those that queue behind it are not counted
            again.
        billed_s: seconds, each life of a worker rounded up to whole ones, the idle time after the last work included.
        active_s: seconds in which min workers held a worker, of `billed_s`.
        waited_s: seconds that all users waited for starts.
    """

    requests: int
    cold_starts: int
    billed_s: float
    active_s: float
    waited_s: float

    def cost(self, costs: Costs) -> float:
        """US dollars."""
        return costs.cost(self.billed_s, self.active_s)

    def score(self, costs: Costs) -> float:
        """Money and waiting, in US dollars."""
        return costs.score(self.billed_s, self.waited_s, self.active_s)


@dataclass(frozen=True, slots=True)
class Period:
    """The part of a trace that is replayed, in seconds since 1970. `until` is when its last request would be done if
    warm."""

    begin: float
    until: float

    @classmethod
    def of(cls, history: History, train: float = 0.0) -> Period:
        """The last part of a trace.

        Args:
            train: the fraction of its time that is left to learn from, from 0 to 1 (without).

        Raises:
            InvalidTrace: there are no arrivals.
        """
        if not len(history):
            raise InvalidTrace("no arrivals: there is nothing to replay")
        first, last = float(history.arrivals[0]), float(history.arrivals[-1])
        begin = first + train * (last - first)
        ending = history.since(last - float(history.services.max()))  # All before is done when the last one comes.
        return cls(begin, float(ending.reach()[-1]))


def carry_out(
    policy: Policy, history: History, traffic: Traffic, costs: Costs, period: Period, seed: int = 0,
    done: Callable[[float], None] = lambda now: None,
) -> Outcome:
    """Replay a period under a policy, which sees what came before each moment and nothing else.

    At its beginning a worker is up if the first plan would have left one after the last request before it, or holds
    one.

    Args:
        traffic: of the history since the period's beginning.
        seed: of the lengths of starts.
        done: is told how far the replay has come.

    Raises:
        InvalidTrace: the policy made a plan that is over at once.
    """
    replay = Replay(traffic, costs, seed)
    now, active_s, last = period.begin, 0.0, False
    while not last:
        plan = policy.plan(history.before(now), now, costs)
        if plan.until <= now:
            raise InvalidTrace(f"{policy.name} made a plan at {now:.0f} that was over at once")
        held = [(start, stop) for start, stop in plan.held if stop > now]
        if now == period.begin:
            _settle(replay, plan, history.before(now), now)
        last = plan.until >= period.until
        until = min(plan.until, period.until)
        replay.advance(plan, now, until, last)
        active_s += sum(max(0.0, min(stop, until) - max(start, now)) for start, stop in held)
        now = until
        done(now)
    replay.finish(plan, period.until)
    return summed(replay.take(), len(traffic), active_s)


def _settle(replay: Replay, plan: Plan, before: History, now: float) -> None:
    """Leave the worker as the plan would have, had it been in force before."""
    since = now if any(start <= now < stop for start, stop in plan.held) else idle_since(plan, before, now)
    if since is not None:
        replay.start_warm(now, since, plan.stays[0])


def idle_since(plan: Plan, before: History, now: float) -> float | None:
    """Since when a worker would be idle that the plan had kept after the last work before; None where it had not."""
    if not len(before):
        return None
    worked = min(float(before.reach()[-1]), now)
    return worked if now - worked <= plan.stays[0] else None


def summed(lives: Sequence[Lives], requests: int, active_s: float) -> Outcome:
    """All lives together."""
    cold = waited = billed = 0.0
    for part in lives:
        cold += int(part.cold.sum())
        waited += float(part.waited.sum())
        billed += float(billed_seconds(part).sum())
    return Outcome(requests, int(cold), billed, min(active_s, billed), waited)


def billed_seconds(lives: Lives) -> Floats:
    """What each life is billed: its seconds, rounded up."""
    import numpy as np

    return np.ceil(lives.stopped - lives.began - JUST_S)
