"""`never`: the platform's own idle timeout, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warmup.plan import Plan

if TYPE_CHECKING:
    from warmup.costs import Costs
    from warmup.history import History


class Never:
    """What an endpoint does that nobody has touched."""

    name = "never"

    def plan(self, history: History, now: float, costs: Costs) -> Plan:
        return Plan()
