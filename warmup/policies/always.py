"""`always`: a worker is up all the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warmup.plan import Plan

if TYPE_CHECKING:
    from warmup.costs import Costs
    from warmup.history import History


class Always:
    """Min workers 1."""

    name = "always"

    def plan(self, history: History, now: float, costs: Costs) -> Plan:
        return Plan(always=True)
