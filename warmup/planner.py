"""Which plan is carried out: the chosen policy's, unless a worker that is always up would be cheaper."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from warmup.plan import LONGEST_IDLE_S, Plan
from warmup.policy import parse_policy

if TYPE_CHECKING:
    from warmup.costs import Costs
    from warmup.history import History
    from warmup.policy import Policy

COMPARED_S: Final = 7 * 86400.0
"""A week: both its working days and its other ones."""

COMPARED_EVERY_S: Final = 3600.0
FEWEST_ARRIVALS: Final = 20
"""Before so many have come, nothing is concluded from them."""

TAIL_S: Final = LONGEST_IDLE_S
"""How much dearer a policy may look: a worker that stays beyond the last request is billed beyond now."""

_log = logging.getLogger("pilotlight.warmer")


class Planner:
    """Makes plans, and keeps each for as long as it holds.

    Attributes:
        why: why another policy is carried out than the one that was asked for; empty where it is that one.
    """

    def __init__(self, policy: str) -> None:
        self._asked = parse_policy(policy)
        self._policy: Policy = self._asked
        self._plan: Plan | None = None
        self._made = float("-inf")
        self._compared = float("-inf")
        self.why = ""

    @property
    def name(self) -> str:
        """Of the policy that is carried out."""
        return self._policy.name

    def plan(self, history: History, costs: Costs, now: float, is_news: bool) -> Plan:
        """What is to be done.

        Args:
            is_news: whether the history has grown.
        """
        if now < self._made or now - self._compared >= COMPARED_EVERY_S:  # Or the clock was set back.
            self._choose(history, costs, now)
        if self._plan is None or is_news or not self._made <= now < self._plan.until:
            self._plan, self._made = self._policy.plan(history.before(now), now, costs), now
        return self._plan

    def _choose(self, history: History, costs: Costs, now: float) -> None:
        from warmup.policies.always import Always

        self._compared, self._plan = now, None
        why = self._dearer_than_always(history.before(now), costs, now)
        if why and why != self.why:
            _log.warning("%s: so that is had instead", why)
        self._policy, self.why = (Always() if why else self._asked), why

    def _dearer_than_always(self, history: History, costs: Costs, now: float) -> str:
        """By how much the asked policy would have cost more of late, in words; empty if it would not."""
        from warmup.policies.always import Always

        since = max(history.began, now - COMPARED_S)
        recent = history.since(since)
        if len(recent) < FEWEST_ARRIVALS:
            return ""
        asked, always = (cost_of(policy, recent, costs, since, now) for policy in (self._asked, Always()))
        if asked <= always + costs.cost(TAIL_S):
            return ""
        return f"{self._asked.name} would have cost ${asked:.4f} of late, a worker that is always up ${always:.4f}"


def cost_of(policy: Policy, history: History, costs: Costs, since: float, until: float) -> float:
    """US dollars that a policy would have cost for these arrivals, and for the silence before and after them."""
    from warmup.simulate.outcome import Period, carry_out
    from warmup.simulate.traffic import Traffic

    return carry_out(policy, history, Traffic.of(history), costs, Period(since, until)).cost(costs)
