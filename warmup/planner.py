"""Which plan is carried out: the chosen policy's, unless a worker that is always up would be cheaper."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from warmup.plan import Plan
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

        recent = history.before(now).since(now - COMPARED_S)
        self._compared, self._plan = now, None
        if len(recent) < FEWEST_ARRIVALS or self._asked.name == "always":
            return
        asked, always = cost_of(self._asked, recent, costs), cost_of(Always(), recent, costs)
        dearer = asked > always
        self._policy = Always() if dearer else self._asked
        why = f"{self._asked.name} would have cost ${asked:.4f} of late, a worker that is always up ${always:.4f}"
        self.why = why if dearer else ""
        if dearer:
            _log.warning("%s: so that is had instead", why)


def cost_of(policy: Policy, history: History, costs: Costs) -> float:
    """US dollars that a policy would have cost for these arrivals."""
    from warmup.simulate.outcome import Period, carry_out
    from warmup.simulate.traffic import Traffic

    traffic = Traffic.of(history)
    return carry_out(policy, history, traffic, costs, Period.of(history)).cost(costs)
